"""Tiny runs of images, classes and text, trained once with `dbl train` for all tests that damage copies of them."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from forked import run_dbl
from tiny_run import RANDOM_START, TINY

from dbl.run.folder import RunFolder

KINDS = ["image", "class", "text"]
_CONFIGS = Path(__file__).parents[1] / "configs"
_NAMES = {"image": "digits_dit", "class": "digits_vit", "text": "pydoc_ar"}
_TEXT = [
    RANDOM_START,
    *("--contract.network.init_args.width=16", "--contract.network.init_args.num_heads=2"),
    *("--contract.network.init_args.num_layers=2", "--contract.network.init_args.mlp_width=24"),
    *("--contract.partition.num_blocks=2", "--contract.target.init_args.dim=12"),
    *("--contract.noise.init_args.num_draws=64", "--contract.noise.init_args.num_levels=24"),
    *("--data.init_args.max_tokens=6000", "--data.init_args.seq_len=16", "--data.init_args.eval_batch_size=200"),
    *("--trainer.accelerator=cpu", "--trainer.max_steps=4", "--trainer.val_check_interval=2"),
    *("--trainer.enable_progress_bar=false", "--checkpoint.every_n_steps=2", "--inference.ensemble=false"),
    *("--likelihood.levels_per_block=1", "--diagnostics.num_samples=6", "--diagnostics.levels_per_block=2"),
    *("--text_quality.num_texts=2", "--text_quality.num_tokens=8", "--text_quality.prompt_tokens=4"),
]
_ALPHABET = "\n" + "".join(chr(code) for code in range(32, 127)) + "°ß–—‘’“”…"
_MADE: list[Path] = []


def trained_runs(factory: pytest.TempPathFactory) -> Path:
    """The folder of the runs `image`, `class` and `text`, each with its model and report; not to be changed."""
    if not _MADE:
        root = factory.mktemp("trained")
        with ThreadPoolExecutor() as pool:
            outcomes = list(pool.map(lambda kind: _train(root / kind, kind), KINDS))
        assert outcomes == [0] * len(KINDS)
        _MADE.append(root)
    return _MADE[0]


def copies(root: Path, folder: Path) -> dict[str, RunFolder]:
    """Copies of the runs that a test may change."""
    return {
        kind: RunFolder(kind, str(shutil.copytree(root / kind / "runs" / kind, folder / kind).parent)) for kind in KINDS
    }


def _train(folder: Path, kind: str) -> int | None:
    folder.mkdir()
    config = yaml.safe_load((_CONFIGS / f"{_NAMES[kind]}.yaml").read_text())
    if kind == "text":
        config["data"]["init_args"]["tokenizer"]["init_args"]["alphabet"] = _ALPHABET
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    options = _TEXT if kind == "text" else TINY
    outcome = run_dbl(folder, "train", "--config", "config.yaml", f"--run.name={kind}", *options, time_limit_s=300)
    return outcome.code
