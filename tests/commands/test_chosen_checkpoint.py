"""`--ckpt_path`: a checkpoint gives weights and counters, and never the config or a class to import."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from forked import Outcome, run_dbl
from tiny_run import TINY

CONFIG = Path(__file__).parents[2] / "configs" / "digits_dit.yaml"


def dbl(folder: Path, command: str, *options: str) -> Outcome:
    return run_dbl(folder, command, "--config", str(CONFIG), *TINY, *options)


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run whose blocks 0 and 1 were stopped at step 2, and one of another contract."""
    folder = tmp_path_factory.mktemp("trained")
    short = "--trainer.max_steps=2"
    assert dbl(folder, "fit", short).code == 0
    assert dbl(folder, "fit", short, "--model.block=1").code == 0
    assert dbl(folder, "fit", short, "--run.name=other", "--contract.seed=5").code == 0
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return tmp_path


def checkpoint(folder: Path, block: int = 0, run: str = "digits_dit") -> Path:
    return folder / "runs" / run / f"block_{block}" / "checkpoints" / "last.ckpt"


def test_hyper_parameters_neither_import_nor_change_anything(folder: Path) -> None:
    """Catches Lightning's own merging: it imports the class that a checkpoint names and takes over its values."""
    content: dict[str, Any] = torch.load(checkpoint(folder), weights_only=True)
    stored = {"block": 1, "contract": {"seed": 9}, "_class_path": "this.Block", "_instantiator": "this.Block"}
    content["hyper_parameters"] = stored | {"model": {"class_path": "this.Block"}, "recipe": {"accumulate": 3}}
    content["datamodule_hyper_parameters"] = {"class_path": "this.Block", "batch_size": 1}
    torch.save(content, folder / "chosen.ckpt")
    outcome = dbl(folder, "fit", "--ckpt_path=chosen.ckpt")
    assert outcome.code == 0, outcome
    assert "Zen of Python" not in outcome.output  # what the module `this` prints when it is imported
    config = yaml.safe_load((folder / "runs/digits_dit/block_0/config.yaml").read_text())
    assert (config["model"]["block"], config["contract"]["seed"]) == (0, 0)
    assert (config["model"]["recipe"]["accumulate"], config["data"]["init_args"]["batch_size"]) == (1, 32)
    resumed = torch.load(checkpoint(folder), weights_only=True)
    assert (resumed["dbl"]["part"], resumed["global_step"]) == ("block_0", 4)


def _wrong(folder: Path, kind: str) -> tuple[Path, list[str]]:
    """A file that this block must not resume from, and what the refusal says."""
    wrong = folder / "wrong.ckpt"
    if kind == "another block":
        return checkpoint(folder, 1), ["is of block_1", "not of block_0"]
    if kind == "another contract":
        stamps = [torch.load(checkpoint(folder, run=run), weights_only=True)["dbl"] for run in ("digits_dit", "other")]
        return checkpoint(folder, run="other"), [stamp["contract"][:12] for stamp in stamps]
    if kind == "foreign":
        torch.save({"state_dict": {"weight": torch.zeros(2)}, "global_step": 9, "hyper_parameters": {}}, wrong)
    else:
        content = checkpoint(folder).read_bytes()
        wrong.write_bytes(content[: len(content) // 2] if kind == "damaged" else b"no checkpoint")
    return wrong, ["wrong.ckpt"]


@pytest.mark.parametrize("steps", [2, 4])
@pytest.mark.parametrize("kind", ["garbage", "damaged", "foreign", "another block", "another contract"])
def test_another_checkpoint_is_refused_before_anything_is_written(kind: str, steps: int, folder: Path) -> None:
    """Catches "trained already" for a foreign checkpoint, and a contract or status that a refused command changed."""
    path, named = _wrong(folder, kind)
    before = files(folder)
    outcome = dbl(folder, "fit", f"--ckpt_path={path.relative_to(folder)}", f"--trainer.max_steps={steps}")
    assert outcome.problem() is None
    assert [part for part in named if part not in outcome.errors] == []
    assert files(folder) == before


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_an_evaluation_reads_no_checkpoint(command: str, folder: Path) -> None:
    """Catches weights of one block that are taken for the assembled network, and a file that is opened at all."""
    outcome = dbl(folder, command, "--ckpt_path=nowhere.ckpt")
    assert outcome.problem() is None
    assert "--ckpt_path is for dbl fit" in outcome.errors
