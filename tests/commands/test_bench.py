"""`dbl bench`: the rows of every kind of network, what follows from the seconds, and what it refuses."""

import json
from typing import Any

import pytest

from dbl.commands import bench
from dbl.training import speed

from .conftest import Run
from .text_runs import KINDS, run_command


def _check(found: dict[str, Any]) -> None:
    samples = found["batch_size"] * found["accumulate"]
    whole, whole_again, block, block_again = found["rows"]
    for row in found["rows"]:
        assert row["samples_per_second"] == pytest.approx(samples / row["step_seconds"])
        assert row["mfu"] == pytest.approx(row["flops"] / row["step_seconds"] / (1e12 * found["peak_tflops"]))
        assert row["ratio"] == pytest.approx(row["step_seconds"] / whole["step_seconds"])
    # Neither what is computed again nor what is kept counts for the model's own work.
    assert whole["flops"] == whole_again["flops"] > 0
    assert block["flops"] == block_again["flops"] > 0


def test_a_block_stands_beside_the_whole_network(dbl: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches rates that contradict the seconds, and FLOPs that count what checkpointing computes again."""
    assert dbl("bench", "digits_dit", "--num_steps=2", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    _check(found)
    names = ["end to end", "end to end, checkpointing", "3 blocks", "3 blocks, checkpointing"]
    assert [row["name"] for row in found["rows"]] == names
    assert [row["num_layers"] for row in found["rows"]] == [3, 3, 1, 1]
    whole, _, block, _ = found["rows"]
    assert block["flops"] < 0.5 * whole["flops"]
    assert (found["peak_source"], found["device"], found["batch_size"]) == ("measured", "cpu", 32)
    assert dbl("plan", "digits_dit", "--num_blocks=3", "--json") == 0
    planned = {row["name"]: row["peak_bytes"] for row in json.loads(capsys.readouterr().out)["rows"]}
    assert [row["peak_bytes"] for row in found["rows"]] == [planned[name] for name in names]


def test_all_batches_of_an_accumulation_make_a_step(
    dbl: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches samples or FLOPs of one batch, or of the two that a plan runs, beside the seconds of a whole step."""
    timed: list[int] = []
    monkeypatch.setattr(speed, "median_seconds", lambda step, *_: timed.append(step.num_batches) or 1.0)
    found = []
    for accumulate in (1, 5):
        assert dbl("bench", "digits_vit", "--num_steps=1", "--json", f"--model.recipe.accumulate={accumulate}") == 0
        found.append(json.loads(capsys.readouterr().out))
        _check(found[-1])
    once, often = found
    assert [row["flops"] for row in often["rows"]] == [5 * row["flops"] for row in once["rows"]]
    assert timed == [1] * len(once["rows"]) + [5] * len(often["rows"])


@pytest.mark.parametrize("kind", KINDS)
def test_text_is_measured(
    kind: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches an architecture whose step needs more than made-up data."""
    monkeypatch.chdir(tmp_path)
    assert run_command("bench", kind, "--num_steps=1", "--json", "--peak_tflops=2") == 0
    found = json.loads(capsys.readouterr().out)
    _check(found)
    assert (found["peak_tflops"], found["peak_source"]) == (2, "given")


def test_the_table_shows_every_row(dbl: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a table that says nothing about where the peak is from, or whose step is not the one measured."""
    assert dbl("bench", "digits_dit", "--num_steps=1", "--peak_tflops=0.25", "--model.recipe.accumulate=2") == 0
    printed = capsys.readouterr().out
    assert "2 batches of 32 samples, 32-true" in printed
    assert all(f" {name} " in printed for name in ("end to end", "end to end, checkpointing", "3 blocks"))
    assert "peak: 0.25 TFLOP/s, given by --peak_tflops" in printed


def test_a_network_that_does_not_fit_leaves_the_block_measured(
    dbl: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a process that the system ends because the whole network was tried."""
    assert dbl("plan", "digits_dit", "--num_blocks=3", "--json") == 0
    planned = json.loads(capsys.readouterr().out)["rows"]
    whole, checkpointed, block = (planned[row]["peak_bytes"] for row in (0, 1, 3))
    monkeypatch.setattr(bench, "free_bytes", lambda device: (whole + max(block, checkpointed)) // 2)
    assert dbl("bench", "digits_dit", "--num_steps=1") == 0
    assert "does not fit" in capsys.readouterr().out
    assert dbl("bench", "digits_dit", "--num_steps=1", "--json") == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["step_seconds"] is None for row in rows] == [True, False, False, False]
    assert all(rows[0][name] is None for name in ("samples_per_second", "mfu", "ratio", "allocated_bytes"))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--num_steps=0", "--num_steps (0) must be a whole number"),
        ("--peak_tflops=0", "--peak_tflops (0.0) must be a finite number above 0"),
        ("--peak_tflops=nan", "peak_tflops (nan) must be a number"),
        ("--trainer.accelerator=cuda", "trainer.accelerator=cuda is not there: choose auto or cpu"),
        ("--trainer.precision=16-mixed", "trainer.precision=16-mixed is not supported"),
        ("--contract.partition.num_blocks=2", "3 layers cannot be split evenly"),
    ],
)
def test_bad_input_is_one_line(dbl: Run, capsys: pytest.CaptureFixture[str], option: str, message: str) -> None:
    """Catches a traceback, and a measurement of something else than was asked for."""
    assert dbl("bench", "digits_dit", option) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_step_larger_than_the_memory_is_refused(
    dbl: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a table without a number, and a process that the system ends."""
    monkeypatch.setattr(bench, "free_bytes", lambda device: 1000)
    assert dbl("bench", "digits_dit") == 2
    error = capsys.readouterr().err.strip()
    assert "data.init_args.batch_size=32 needs" in error
    assert len(error) <= 200
