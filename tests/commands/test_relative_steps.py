"""Blocks of one run that train for different numbers of steps."""

import json
from pathlib import Path

import pytest

from .conftest import Run

RUN = Path("runs/digits_dit")


def test_blocks_train_for_their_steps_at_equal_compute(dbl: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a schedule that ends elsewhere, rivals and an ancestor without all of the compute, and training again."""
    options = ["--relative_steps=[1,1,2]", "--contract.start=dbl.Ancestor", "--contract.start.share=0.5"]
    assert dbl("compare", "digits_dit", *options) == 0
    report = json.loads((RUN / "report" / "report.json").read_text())
    blocks, *rivals = report["sides"]
    assert [part["steps"] for part in blocks["parts"]] == [3, 3, 6]  # their mean is 4
    assert [part["steps"] for part in blocks["ancestors"]] == [12]
    assert {arm["layer_passes"] for arm in rivals} == {blocks["layer_passes"]}
    last = (RUN / "block_2" / "metrics.csv").read_text().splitlines()
    assert float(last[-1].split(",")[last[0].split(",").index("step")]) == 6
    capsys.readouterr()
    assert dbl("train", "digits_dit", *options) == 0
    printed = capsys.readouterr().out
    assert [f"block_{block} is trained already" in printed for block in range(3)] == [True] * 3


@pytest.mark.parametrize("steps", ["[1,2]", "[1,1,0]", "[1,1,.nan]", "[]", "[1,1,-2]"])
def test_steps_that_are_not_one_for_each_block(dbl: Run, capsys: pytest.CaptureFixture[str], steps: str) -> None:
    """Catches steps of too few blocks, and steps that are none."""
    assert dbl("train", "digits_dit", f"--relative_steps={steps}") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "relative_steps" in error
    assert "3 numbers" in error
    assert not (RUN / "block_0").exists()
