"""Runs whose blocks start from an ancestor, from the command line to the files."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dbl.commands.arms.derived_runs import one_block_of
from dbl.commands.main import main
from dbl.commands.run_config import RunConfig
from dbl.networks import DiT
from dbl.run.folder import RunFolder
from dbl.run.model_folder import ModelFolder
from dbl.utils.errors import DblWarning, UserError

from .conftest import Run

ANCESTOR = ["--contract.start=dbl.Ancestor", "--contract.start.share=0.5"]
FROZEN = ["--model.recipe.optimizer.lr=0", "--ema.decay=0"]
RUN = Path("runs/digits_dit")
CONFIGS = Path(__file__).parents[2] / "configs"


def _weights(model: Path, block: int) -> dict[str, Tensor]:
    return ModelFolder(model).denoiser(block).state_dict()


def _equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


def _report(run: Path = RUN) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((run / "report" / "report.json").read_text())
    return report


def test_blocks_start_from_the_weights_of_the_ancestor(dbl: Run) -> None:
    """Catches a start that is read nowhere: at learning rate 0 the blocks end where they began."""
    assert dbl("train", "digits_dit", *ANCESTOR, *FROZEN) == 0
    ancestor = _weights(RUN / "ancestor/model", 0)
    assert all(_equal(_weights(RUN / "model", block), ancestor) for block in range(3))
    random = RunFolder.at(RUN).load_contract().denoiser(1).state_dict()
    assert not _equal(random, ancestor)


def test_the_ancestor_takes_its_share_of_the_compute(dbl: Run) -> None:
    """Catches compute that the report forgets, which would make blocks look cheaper than they are."""
    assert dbl("train", "digits_dit", *ANCESTOR[:1], "--contract.start.share=0.25") == 0
    (arm,) = _report()["sides"]
    (ancestor,) = arm["ancestors"]
    assert (ancestor["part"], ancestor["layers"], ancestor["steps"]) == ("ancestor/block_0", 1, 4)
    assert [part["steps"] for part in arm["parts"]] == [4, 4, 4]
    assert arm["layer_passes"] == 4 * 4 * 32
    text = (RUN / "report/report.md").read_text()
    assert "with 25% of the compute" in text


def test_blocks_are_independent_after_their_ancestor(dbl: Run) -> None:
    """Catches blocks that depend on the call that trained them, or on an ancestor that was trained again."""
    assert dbl("train", "digits_dit", *ANCESTOR, "--blocks=2") == 0
    before = (RUN / "ancestor/model/block_0.safetensors").read_bytes()
    assert dbl("train", "digits_dit", *ANCESTOR, "--blocks=0,1") == 0
    assert (RUN / "ancestor/model/block_0.safetensors").read_bytes() == before
    assert dbl("train", "digits_dit", *ANCESTOR, "--run.name=whole") == 0
    for block in range(3):
        assert _equal(_weights(RUN / "model", block), _weights(Path("runs/whole/model"), block))


def test_workers_give_the_weights_of_one_process(dbl: Run) -> None:
    """Catches a worker that starts from something else than the ancestor, and an ancestor trained in another way."""
    assert dbl("train", "digits_dit", *ANCESTOR) == 0
    assert dbl("train", "digits_dit", *ANCESTOR, "--run.name=workers", "--backend=process", "--workers=1") == 0
    for block in range(3):
        assert _equal(_weights(RUN / "model", block), _weights(Path("runs/workers/model"), block))


def test_a_tree_of_ancestors(dbl: Run) -> None:
    """Catches a block that starts from the wrong branch."""
    tree = [*ANCESTOR, "--contract.start.num_blocks=2", "--contract.start.start=dbl.Ancestor"]
    four = ["--contract.network.init_args.num_layers=4", "--contract.partition.num_blocks=4"]
    assert dbl("train", "digits_dit", *tree, *four, *FROZEN) == 0
    parts = [part["part"] for part in _report()["sides"][0]["ancestors"]]
    assert parts == ["ancestor/ancestor/block_0", "ancestor/block_0", "ancestor/block_1"]
    assert dbl("train", "digits_dit", *tree, *four, "--run.name=tree") == 0
    run = Path("runs/tree")
    assert not _equal(_weights(run / "ancestor/model", 0), _weights(run / "ancestor/model", 1))


def test_rivals_get_the_compute_of_blocks_and_ancestor(dbl: Run) -> None:
    """Catches a comparison in which the ancestor is free."""
    assert dbl("compare", "digits_dit", *ANCESTOR) == 0
    blocks, whole, rival = _report()["sides"]
    assert [arm["name"] for arm in (blocks, whole, rival)] == ["blocks", "end_to_end", "one_block"]
    assert blocks["layer_passes"] == whole["layer_passes"] == rival["layer_passes"]
    assert (whole["parts"][0]["steps"], rival["parts"][0]["steps"]) == (8, 24)
    assert rival["parameters_at_once"] == blocks["parameters_at_once"]
    assert rival["parts"][0]["layers"] == 1
    text = (RUN / "report/report.md").read_text()
    assert "one block for all levels" in text


def test_a_plain_classifier_beside_blocks_from_an_ancestor(dbl: Run) -> None:
    """Catches an end-to-end network that waits for an ancestor of its own, which it does not have."""
    assert dbl("compare", "digits_vit", *ANCESTOR) == 0
    blocks, whole, rival = _report(Path("runs/digits_vit"))["sides"]
    assert blocks["ancestors"]
    assert whole["ancestors"] == rival["ancestors"] == []
    assert blocks["layer_passes"] == whole["layer_passes"] == rival["layer_passes"]


def test_a_network_of_one_size_has_no_rival_of_a_blocks_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a comparison that refuses a network of the user's because it cannot be made smaller."""

    def refuse(*_: object) -> None:
        raise UserError("it has one size")

    monkeypatch.chdir(tmp_path)
    config = RunConfig.load(CONFIGS / "digits_dit.yaml")
    assert one_block_of(config) is not None
    monkeypatch.setattr(DiT, "with_layers", refuse)
    with pytest.warns(DblWarning, match="one block for all levels: it has one size"):
        assert one_block_of(config) is None


def test_fit_needs_the_ancestor(dbl: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a block that starts from random weights because the ancestor is not there yet."""
    assert dbl("fit", "digits_dit", *ANCESTOR, "--model.block=1") == 2
    assert "the ancestor of the blocks is not trained yet: run dbl train --blocks ancestor" in capsys.readouterr().err
    assert not (RUN / "contract.json").exists()


def test_the_ancestor_alone_then_blocks_by_hand(dbl: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches an ancestor that only a call with blocks can train, and blocks by hand that end elsewhere."""
    assert dbl("train", "digits_dit", *ANCESTOR, "--blocks=ancestor") == 0
    assert "train the other blocks with --blocks 0,1,2" in capsys.readouterr().out
    assert not list(RUN.glob("block_*"))
    for block in range(3):
        assert dbl("fit", "digits_dit", *ANCESTOR, f"--model.block={block}") == 0
    assert main(["assemble", str(RUN)]) == 0
    assert dbl("train", "digits_dit", *ANCESTOR, "--run.name=whole") == 0
    for block in range(3):
        assert _equal(_weights(RUN / "model", block), _weights(Path("runs/whole/model"), block))


def test_without_an_ancestor_there_is_none_to_train(dbl: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a call that does nothing and says nothing."""
    assert dbl("train", "digits_dit", "--blocks=ancestor") == 2
    assert "--blocks ancestor: there is none" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["changed", "removed"])
def test_another_ancestor_is_refused(damage: str, dbl: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a block that starts from other weights than those on which the blocks agreed."""
    assert dbl("train", "digits_dit", *ANCESTOR, "--blocks=0") == 0
    path = RUN / "ancestor/model/block_0.safetensors"
    if damage == "removed":
        shutil.rmtree(RUN / "ancestor")
    else:
        assert dbl("train", "digits_dit", *ANCESTOR, "--run.name=other", "--contract.seed=5", "--blocks=0") == 0
        shutil.copy("runs/other/ancestor/model/block_0.safetensors", path)
    assert dbl("fit", "digits_dit", *ANCESTOR, "--model.block=1") == 2
    message = "does not exist, from which block 1 starts" if damage == "removed" else "is not the one on which the bl"
    assert message in capsys.readouterr().err
    assert not list(RUN.glob("block_1/checkpoints/*"))


def test_the_ancestor_of_another_config_is_refused(dbl: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a block that is bound to weights that another seed gave, before any block was trained."""
    assert dbl("train", "digits_dit", *ANCESTOR, "--blocks=0") == 0
    shutil.rmtree(RUN / "block_0")
    assert dbl("fit", "digits_dit", *ANCESTOR, "--contract.seed=5") == 2
    assert "is no ancestor for this config" in capsys.readouterr().err
    assert dbl("fit", "digits_dit", *ANCESTOR) == 0


def test_a_started_block_goes_on_without_the_ancestor(dbl: Run) -> None:
    """Catches a resumed block that is set back to where it started, or that needs files it no longer uses."""
    options = [*ANCESTOR, "--model.recipe.decay=constant"]
    assert dbl("train", "digits_dit", *options, "--run.name=whole") == 0
    assert dbl("train", "digits_dit", *options, "--blocks=2") == 0
    assert dbl("fit", "digits_dit", *options, "--model.block=0", "--trainer.max_steps=2") == 0
    shutil.move(RUN / "ancestor", "elsewhere")
    assert dbl("fit", "digits_dit", *options, "--model.block=0") == 0
    checkpoints = [torch.load(run / "block_0/checkpoints/last.ckpt") for run in (RUN, Path("runs/whole"))]
    assert _equal(*(checkpoint["state_dict"] for checkpoint in checkpoints))


def test_a_start_is_part_of_the_contract(dbl: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches blocks of one run that start in unlike ways."""
    assert dbl("train", "digits_dit", "--blocks=0") == 0
    assert dbl("train", "digits_dit", *ANCESTOR, "--blocks=1") == 2
    assert "contract.start is" in capsys.readouterr().err
