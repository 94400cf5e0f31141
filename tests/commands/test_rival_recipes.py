"""`--rivals` of `dbl compare` and `dbl plan`: the same network with a recipe that needs less memory."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from dbl.training import recipes
from dbl.training.recipes import RECIPES

from .conftest import Run

RUN = Path("runs/digits_dit")


def _recipe_in(rival: str) -> dict[str, Any]:
    config = yaml.safe_load((RUN / "rivals" / rival / "config.yaml").read_text())
    recipe: dict[str, Any] = config["model"]["recipe"]
    return recipe


def test_recipes_are_trained_with_the_same_compute(dbl: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a rival with another recipe than its own, with other compute, or left out of the report."""
    options = ["--rivals=muon,blocks+checkpointing,checkpointing", "--rival_lr.muon=3e-3"]
    assert dbl("compare", "digits_dit", *options) == 0
    assert "muon: MuonAdamW, learning rate 0.003 (the run's own: 0.0015)" in capsys.readouterr().out
    arms = {arm["name"]: arm for arm in json.loads((RUN / "report" / "report.json").read_text())["sides"]}
    assert list(arms) == ["blocks", "end_to_end", "one_block", "muon", "blocks+checkpointing", "checkpointing"]
    assert len({arm["layer_passes"] for arm in arms.values()}) == 1
    assert _recipe_in("muon")["optimizer"]["init_args"]["lr"] == 3e-3
    assert _recipe_in("checkpointing")["optimizer"]["class_path"] == "torch.optim.AdamW"
    # Recomputation changes no number, in blocks or without them; another optimizer does.
    losses = {name: arm["test"]["test/loss"] for name, arm in arms.items()}
    assert losses["blocks+checkpointing"] == losses["blocks"]
    assert losses["checkpointing"] == losses["end_to_end"]
    assert losses["muon"] != losses["end_to_end"]
    peaks = {name: arm["memory"]["peak_bytes"] for name, arm in arms.items()}
    assert peaks["blocks+checkpointing"] < peaks["blocks"]
    assert arms["muon"]["memory"]["bytes"]["optimizer"] < arms["end_to_end"]["memory"]["bytes"]["optimizer"]
    text = (RUN / "report" / "report.md").read_text()
    assert "end to end, Muon" in text
    assert "blocks, checkpointing" in text


@pytest.mark.parametrize(
    ("command", "options", "reason"),
    [
        ("compare", ["--rivals=muno"], "there is no 'muno'; did you mean muon?"),
        ("compare", ["--rivals=blocks+foo"], "there is no 'blocks+foo'"),
        ("compare", ["--rivals=lora"], "--rivals lora: it adapts trained weights"),
        ("compare", ["--rivals=offload_optimizer"], "--rivals offload_optimizer: it needs CUDA"),
        ("compare", ["--rivals=blocks+noprop_dt"], "--rivals blocks+noprop_dt: it has no blocks"),
        ("compare", ["--rivals=muon", "--rival_lr.adafactor=0.1"], "--rival_lr.adafactor: --rivals names no such"),
        ("compare", ["--rivals=muon", "--rival_lr.muon=-1"], "--rival_lr.muon (-1.0) must be"),
        ("compare", ["--rivals=muon", "--rival_lr.muon=fast"], "rival_lr"),
        ("plan", ["--rivals=foo"], "--rivals: there is no 'foo'"),
        ("plan", ["--rivals=noprop_dt"], "--rivals: there is no 'noprop_dt'"),
        ("plan", ["--rivals=blocks+muon"], "--rivals blocks+muon: name it muon"),
    ],
)
def test_bad_input_is_one_line(
    dbl: Run, capsys: pytest.CaptureFixture[str], command: str, options: list[str], reason: str
) -> None:
    """Catches a name that is passed over, and a failure after the blocks were trained."""
    assert dbl(command, "digits_dit", *options) == 2
    error = capsys.readouterr().err
    assert reason in error.strip().splitlines()[-1]
    assert len(error.strip().splitlines()[-1]) <= 205  # with the name of the program
    assert not (RUN / "block_0").exists()


def test_plan_shows_rivals_end_to_end_and_in_blocks(
    dbl: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a rival without its row, or with the run's own recipe, and one left out without a reason."""
    missing = {"torchao", "badam", "apollo_torch", "peft"}
    find = recipes.find_spec
    monkeypatch.setattr(recipes, "find_spec", lambda name: None if name in missing else find(name))
    assert dbl("plan", "digits_dit", "--rivals=all", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    rows = {row["name"]: row for row in plan["rows"]}
    for place in ("end to end", "3 blocks"):
        assert rows[f"{place}, muon"]["bytes"]["optimizer"] < rows[place]["bytes"]["optimizer"]
        assert rows[f"{place}, adafactor"]["bytes"]["optimizer"] < rows[f"{place}, muon"]["bytes"]["optimizer"]
        assert rows[f"{place}, offload_activations"]["host_bytes"] > 0
        assert f"{place}, checkpointing" in rows
    assert plan["left_out"].keys() == {name for name, recipe in RECIPES.items() if recipe.package}
    assert 'badam is not installed: pip install -e ".[badam]"' in plan["left_out"]["badam"]
    assert dbl("plan", "digits_dit", "--rivals=adafactor,badam") == 2
    assert "--rivals badam: badam is not installed: pip install" in capsys.readouterr().err


def test_a_package_that_fails_to_import_says_so(
    dbl: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a traceback of a package that is installed and broken."""

    def broken(name: str) -> Any:
        raise OSError("libfoo.so is missing")

    monkeypatch.setattr(recipes, "find_spec", lambda name: object())
    monkeypatch.setattr(recipes, "import_module", broken)
    assert dbl("plan", "digits_dit", "--rivals=adamw_8bit") == 2
    error = capsys.readouterr().err
    assert 'torchao cannot be imported (libfoo.so is missing): pip install -e ".[torchao]"' in error
