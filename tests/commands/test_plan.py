"""`dbl plan`: the table, JSON, the picture, the largest batch, and what it refuses."""

import json
from pathlib import Path

import pytest

from .conftest import Run


def test_the_plan_stands_beside_its_picture(dbl: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a plan that trains, that allocates a run, or that prints another thing than it writes."""
    assert dbl("plan", "digits_dit", "--num_blocks=3", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(Path("runs/digits_dit/plan.json").read_text())
    assert Path("runs/digits_dit/plan.png").read_bytes()[:4] == b"\x89PNG"
    assert not Path("runs/digits_dit/contract.json").exists()
    names = ["end to end", "end to end, checkpointing", "end to end, checkpointing, Adafactor"]
    assert [row["name"] for row in printed["rows"]] == [
        *names,
        *(name.replace("end to end", "3 blocks") for name in names),
    ]
    assert printed["batch_size"] == 32
    assert printed["rows"][0]["ratio"] == 1
    assert printed["rows"][3]["ratio"] < 0.7


def test_the_table_shows_every_row_and_the_largest_batch(dbl: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a table without the answer to --fit, and a larger batch where more memory is needed."""
    assert dbl("plan", "digits_vit", "--num_blocks=3", "--fit=50MB", "--output=here.png") == 0
    assert "largest batch" in capsys.readouterr().out.replace("\n", " ")
    rows = json.loads(Path("here.json").read_text())["rows"]
    whole, block = (next(row for row in rows if row["name"] == name) for name in ("end to end", "3 blocks"))
    assert block["largest_batch"] > whole["largest_batch"] > 0


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--fit=1kB", "--fit 1kB is below what one sample needs"),
        ("--fit=much", "--fit much must be a size such as 12GB"),
        ("--num_blocks=two", "--num_blocks two must be numbers"),
        ("--num_blocks=2", "3 layers cannot be split evenly"),
        ("--device=tpu", "--device tpu cannot be planned here"),
        ("--output=plan.json", "--output plan.json must end in .png"),
        ("--output=/proc/plan/plan.png", "--output /proc/plan/plan.png: cannot make its folder"),
        ("--trainer.precision=16-mixed", "trainer.precision=16-mixed is not supported"),
    ],
)
def test_bad_input_is_one_line(dbl: Run, capsys: pytest.CaptureFixture[str], option: str, message: str) -> None:
    """Catches a traceback, and a wrong plan for a wrong option."""
    assert dbl("plan", "digits_dit", "--num_blocks=3", option) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
