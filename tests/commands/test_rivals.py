"""`dbl compare --rivals`: other methods beside the blocks, with the same compute."""

import json
from pathlib import Path
from typing import Any

import pytest

from dbl.training.baselines import RIVALS
from dbl.training.recipes import RECIPES

from .conftest import Run

RUN = Path("runs/digits_vit")


def _report() -> dict[str, Any]:
    report: dict[str, Any] = json.loads((RUN / "report" / "report.json").read_text())
    return report


def test_all_rivals_are_trained_with_the_same_compute(
    dbl: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a rival without its own run, with other compute, or left out of the report."""
    monkeypatch.setenv("PATH", "")  # without a C++ compiler: compiling a step would take most of the time
    assert dbl("compare", "digits_vit", "--rivals=all") == 0
    shown = capsys.readouterr().out
    for name, recipe in RECIPES.items():
        assert (f"left out: {name}: " in shown) == bool(recipe.only_planned or recipe.missing())
    arms = {arm["name"]: arm for arm in _report()["sides"]}
    assert list(arms)[:3] == ["blocks", "end_to_end", "one_block"]
    trained = {name for name, recipe in RECIPES.items() if not recipe.only_planned and not recipe.missing()}
    assert set(arms) == {"blocks", "end_to_end", "one_block", "paper", *RIVALS, *trained}
    assert len({arm["layer_passes"] for arm in arms.values()}) == 1
    assert all(0 <= arms[name]["quality"]["accuracy"]["mean"] <= 1 for name in ("paper", *RIVALS))
    text = (RUN / "report" / "report.md").read_text()
    assert "contrastive Forward-Forward" in text
    assert "the paper's training" in text
    assert "NoProp-DT" in text
    assert all((RUN / "rivals" / name / name / "checkpoints" / "last.ckpt").is_file() for name in ("paper", *RIVALS))


def test_what_is_trained_is_left_alone(dbl: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a rival that is trained again, and a list that is read as one name."""
    assert dbl("compare", "digits_vit", "--rivals=noprop_fm,forward_forward") == 0
    assert [arm["name"] for arm in _report()["sides"]][3:] == ["noprop_fm", "forward_forward"]
    before = (RUN / "rivals/noprop_fm/noprop_fm/checkpoints/last.ckpt").read_bytes()
    capsys.readouterr()
    assert dbl("compare", "digits_vit", "--rivals=[noprop_fm]") == 0
    assert "noprop_fm is trained already" in capsys.readouterr().out
    assert (RUN / "rivals/noprop_fm/noprop_fm/checkpoints/last.ckpt").read_bytes() == before


def test_a_denoiser_in_windows_is_assembled_and_compared(dbl: Run) -> None:
    """Catches windows of the whole network, other compute than that of the blocks, and a network that is not used."""
    assert dbl("compare", "digits_dit", "--rivals=windows") == 0
    arms = {arm["name"]: arm for arm in json.loads(Path("runs/digits_dit/report/report.json").read_text())["sides"]}
    assert arms["windows"]["layer_passes"] == arms["blocks"]["layer_passes"]
    losses = [arms[name]["quality"]["loss"]["mean"] for name in ("windows", "end_to_end", "one_block")]
    assert len(set(losses)) == 3
    steps = {name: arms[name]["parts"][0]["steps"] for name in ("windows", "end_to_end", "one_block")}
    assert steps["windows"] == steps["one_block"] == 3 * steps["end_to_end"]
    assert dbl("compare", "digits_dit", "--rivals=windows") == 0


@pytest.mark.parametrize(
    ("config", "rivals", "reason"),
    [
        ("digits_vit", "foo", "there is no 'foo'"),
        ("digits_vit", "noprop_td", "did you mean noprop_dt?"),
        ("digits_dit", "noprop_dt", "cannot be made of contract.network DiT"),
    ],
)
def test_rivals_that_cannot_be(
    dbl: Run, capsys: pytest.CaptureFixture[str], config: str, rivals: str, reason: str
) -> None:
    """Catches a name that is passed over, and a failure after the blocks were trained."""
    assert dbl("compare", config, f"--rivals={rivals}") == 2
    error = capsys.readouterr().err
    assert reason in error
    assert error.count("\n") == 1
    assert not (Path("runs") / config / "block_0").exists()


@pytest.mark.parametrize(
    ("rivals", "options", "reason"),
    [
        ("paper", ["--contract.partition.num_blocks=1"], "contract.partition.num_blocks (1) must be at least 2"),
        ("blocks+paper", [], "--rivals blocks+paper: it has no blocks of its own"),
    ],
)
def test_the_papers_training_needs_blocks_to_share(
    dbl: Run, capsys: pytest.CaptureFixture[str], rivals: str, options: list[str], reason: str
) -> None:
    """Catches a failure after the blocks were trained."""
    assert dbl("compare", "digits_dit", f"--rivals={rivals}", *options) == 2
    error = capsys.readouterr().err
    assert reason in error
    assert error.count("\n") == 1
    assert not Path("runs/digits_dit/block_0").exists()


def test_the_network_of_noprop_in_blocks(dbl: Run) -> None:
    """Catches a network that the blocks, the whole network or a rival cannot be made of."""
    network = ["--contract.network=dbl.LabelCNN", "--contract.network.num_layers=3", "--contract.network.width=8"]
    options = ["--run.name=digits_vit", "--rivals=noprop_dt"]
    config = Path(__file__).parents[2] / "configs" / "digits_vit.yaml"
    assert dbl("compare", config, *network, *options) == 0
    assert [arm["name"] for arm in _report()["sides"]] == ["blocks", "end_to_end", "one_block", "noprop_dt"]
