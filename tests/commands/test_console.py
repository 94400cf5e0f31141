"""What commands say in the terminal: a header, progress, and a few rounded lines at the end."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from dbl.commands.console import _named, compare_summary, train_summary
from dbl.run.folder import RunFolder

from .conftest import Run

_COMPARED = Path(__file__).parents[2] / "docs/results/digits_vit/report.json"


def test_train_says_what_it_trains_and_ends_with_what_came_out(dbl: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a run without a word about its blocks, and an end that is a table of the logger."""
    assert dbl("train", "digits_dit") == 0
    out, errors = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == "DiT of 3 layers on digits, in 3 blocks"
    assert [line.split()[:4] for line in lines[1:4]] == [
        ["block", str(block), "layer", str(block)] for block in range(3)
    ]
    assert "sigma 80 to " in lines[1]
    assert "4 steps of 32 samples for each block" in lines[4]
    assert "CPU" in lines[5]
    assert "backend inline" in lines[5]
    assert lines[6].split() == ["folder", "runs/digits_dit"]
    report = json.loads(Path("runs/digits_dit/report/report.json").read_text())
    labels = {line.split()[0]: line for line in lines[-5:]}
    assert list(labels) == ["quality", "memory", "report", "samples", "next"]
    assert f"denoising loss {report['sides'][0]['quality']['loss']['mean']:.4g}" in labels["quality"]
    assert "KiB at the peak of a training step of a block" in labels["memory"]
    assert labels["next"].endswith("dbl sample runs/digits_dit; dbl compare --config runs/digits_dit/config.yaml")
    for name in ("report", "samples"):
        assert Path(labels[name].split()[1]).is_file()
    assert "Test metric" not in out
    assert errors == ""  # trainer.enable_progress_bar is false


def test_an_ancestor_is_in_the_header(dbl: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a run that trains something first without a word."""
    assert dbl("train", "digits_dit", "--contract.start=dbl.Ancestor", "--blocks=0") == 0
    assert "1 layer for all levels, trained first with 50% of the compute" in capsys.readouterr().out


def test_layers_are_named_in_the_order_in_which_they_run() -> None:
    """Catches neighbours where a block takes layers of all depths."""
    assert _named([3]) == "layer 3"
    assert _named([4, 5, 6]) == "layers 4 to 6"
    assert _named([1, 5, 9]) == "layers 1, 5, 9"
    assert _named([6, 5]) == "layers 6, 5"


def test_a_script_is_all_that_a_dry_run_prints(dbl: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a header in front of what is written into a file and submitted."""
    pytest.importorskip("submitit")
    assert dbl("train", "digits_dit", "--backend=slurm", "--dry_run") == 0
    assert capsys.readouterr().out.startswith("#!")


def test_fit_says_where_things_are_and_what_is_next(dbl: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a training that ends without a word, and a next command that was done already."""
    assert dbl("fit", "digits_dit", "--model.block=1") == 0
    labels = {line.split()[0]: line.split(maxsplit=1)[1] for line in capsys.readouterr().out.splitlines()}
    assert labels["block_1"] == "4 steps"
    assert Path(labels["checkpoint"]).is_file()
    assert Path(labels["logs"].partition(";")[0]).is_file()
    assert labels["next"] == "dbl fit --config runs/digits_dit/config.yaml --model.block 0"
    for block in (0, 2):
        assert dbl("fit", "digits_dit", f"--model.block={block}") == 0
    assert capsys.readouterr().out.splitlines()[-1].split(maxsplit=1)[1] == "dbl assemble runs/digits_dit"


@pytest.fixture
def compared() -> dict[str, Any]:
    report: dict[str, Any] = json.loads(_COMPARED.read_text())
    return report


def test_a_comparison_ends_with_its_arms_side_by_side(compared: dict[str, Any]) -> None:
    """Catches a figure below the wrong arm, and one without what it is to be compared with."""
    heads, accuracy, memory, seconds, *rest = compare_summary(compared, RunFolder("digits_vit")).splitlines()
    assert heads.split() == ["blocks", "end", "to", "end"]
    first, second = (arm["quality"]["accuracy"] for arm in compared["sides"])
    assert accuracy.startswith("accuracy")
    assert f"{first['mean']:.4g}" in accuracy.partition(f"{second['mean']:.4g}")[0]
    assert accuracy.endswith("a uniform guess 0.1")
    assert memory.startswith("peak memory")
    assert seconds.split()[2:] == [part for arm in compared["sides"] for part in (f"{arm['seconds']:.0f}", "s")]
    seeds = len(compared["seeds"])
    assert rest[-1].startswith("next")
    assert ("--seeds 0,1,2" in rest[-1]) == (seeds == 1)
    several = compare_summary(compared | {"seeds": [4, 5]}, RunFolder("digits_vit"))
    assert several.endswith("dbl test --config runs/digits_vit/seed_4/config.yaml")  # a classifier draws no samples


def test_quality_stands_beside_real_data_or_a_guess(compared: dict[str, Any]) -> None:
    """Catches a figure that says nothing alone."""
    run = RunFolder("digits")
    assert ", a uniform guess 0.1" in train_summary(compared, run).splitlines()[0]
    images = copy.deepcopy(compared)
    images["target"]["class_path"] = "dbl.PixelTarget"
    side = images["sides"][0]
    side["quality"] = {"fid_digits": {"mean": 1.23456, "values": [1.23456]}}
    side["image_quality"] = {"real_test_images": {"fid_digits": 0.3456789}}
    assert "FID (digits features) 1.235, real test images 0.3457" in train_summary(images, run).splitlines()[0]
    rows = [{"name": "end to end", "peak_bytes": 3 * 2**20}]
    images["memory_plan"] = {"rows": rows}
    assert "of the whole network 3 MiB (planned)" in train_summary(images, run).splitlines()[1]
    side["memory"] = None
    assert "memory      not measured" in train_summary(images, run)
