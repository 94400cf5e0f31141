"""Tiny runs of text on the help texts of Python, made once for all tests."""

import warnings
from pathlib import Path

import pytest
import yaml
from tiny_run import RANDOM_START

from dbl.commands.main import main

CONFIGS = Path(__file__).parents[2] / "configs"
KINDS = ["pydoc_ar", "pydoc_mdm", "pydoc_huginn"]

_TINY = [
    RANDOM_START,
    "--contract.network.init_args.width=16",
    "--contract.network.init_args.num_heads=2",
    "--data.init_args.max_tokens=6000",
    "--data.init_args.seq_len=16",
    "--data.init_args.eval_batch_size=200",
    "--model.recipe.optimizer.init_args.lr=0.03",
    "--model.recipe.warmup_steps=0",
    "--trainer.accelerator=cpu",
    "--trainer.max_steps=6",
    "--trainer.val_check_interval=2",
    "--trainer.enable_progress_bar=false",
    "--checkpoint.every_n_steps=2",
    "--likelihood.levels_per_block=1",
    "--diagnostics.num_samples=6",
    "--diagnostics.levels_per_block=2",
    "--text_quality.num_texts=2",
    "--text_quality.num_tokens=8",
    "--text_quality.prompt_tokens=4",
]
_GAUSSIAN = ["--contract.noise.init_args.num_draws=64", "--contract.noise.init_args.num_levels=24"]
_GAUSSIAN += ["--contract.target.init_args.dim=12", "--contract.network.init_args.mlp_width=24"]
_BLOCKS = ["--contract.network.init_args.num_layers=2", "--contract.partition.num_blocks=2"]
_CORE = ["--contract.network.init_args.num_layers=3", "--contract.network.init_args.mean_iterations=3"]
TINY = {
    "pydoc_ar": [*_TINY, *_GAUSSIAN, *_BLOCKS, "--inference.ensemble=false"],
    "pydoc_mdm": [*_TINY, "--contract.network.init_args.mlp_width=24", *_BLOCKS],
    "pydoc_huginn": [*_TINY, *_GAUSSIAN, *_CORE],
}
ALPHABET = "\n" + "".join(chr(code) for code in range(32, 127)) + "°ß–—‘’“”…"
_MADE: dict[str, Path] = {}


def run_command(command: str, kind: str, *options: str) -> int:
    """Run a command on a tiny config, with its runs under the current folder."""
    config = yaml.safe_load((CONFIGS / f"{kind}.yaml").read_text())
    config["data"]["init_args"]["tokenizer"]["init_args"]["alphabet"] = ALPHABET
    Path(f"{kind}.yaml").write_text(yaml.safe_dump(config))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return main([command, "--config", f"{kind}.yaml", *TINY[kind], *options])


def compared(kind: str, factory: pytest.TempPathFactory) -> Path:
    """The run folder that `dbl compare` left, not to be changed; the causal network has two streams."""
    streams = ["--contract.network.init_args.streams=two"] if kind == "pydoc_ar" else []
    if kind not in _MADE:
        folder = factory.mktemp(kind)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            patch.setattr("sys.argv", ["dbl"])
            assert run_command("compare", kind, *streams) == 0
        _MADE[kind] = folder / "runs" / kind
    return _MADE[kind]
