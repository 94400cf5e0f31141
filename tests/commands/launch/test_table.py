"""The table of the jobs: what it shows of the status files."""

import io
import json
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from dbl.commands.launch.job import Job
from dbl.commands.launch.status_table import JobTable


def _shown(tmp_path: Path, ended: dict[str, int], terminal: bool, *statuses: dict[str, Any]) -> str:
    made = [Job(tmp_path, block, False, tmp_path) for block in range(max(2, len(statuses)))]
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100)
    with JobTable(made, console) as table:
        for job, status in zip(made, statuses, strict=False):
            job.status.parent.mkdir(parents=True, exist_ok=True)
            job.status.write_text(json.dumps(status))
        table.show(ended)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def _status(**changes: Any) -> dict[str, Any]:
    status = {"state": "training", "step": 40, "max_steps": 100, "loss": 1.23456, "steps_per_second": 0.5}
    return status | {"updated": time.time() + 1} | changes


def test_a_log_file_gets_a_line(tmp_path: Path) -> None:
    """Catches a step, loss or remaining time of another block or in another unit."""
    shown = _shown(tmp_path, {"block_1": 1}, False, _status(), _status(step=7, loss=None))
    assert shown == ("block_0 training, step 40/100, loss 1.235, 2 min 00 s left; block_1 failed (1), step 7/100\n")


def test_a_terminal_gets_a_table(tmp_path: Path) -> None:
    """Catches a live table without a row for each block, or that forgets those that ended."""
    shown = _shown(tmp_path, {"block_0": 0}, True, _status(step=100, steps_per_second=3.0))
    assert all(word in shown for word in ("block_0", "done", "100/100", "block_1", "waiting", "steps/s", "remaining"))


def test_the_status_of_an_earlier_launch_is_not_shown(tmp_path: Path) -> None:
    """Catches a block shown as stopped, at its old step, while its new worker starts."""
    assert _shown(tmp_path, {}, False, _status(updated=time.time() - 60, state="stopped")) == (
        "block_0 waiting; block_1 waiting\n"
    )


def test_lines_come_when_a_state_changes(tmp_path: Path) -> None:
    """Catches a log with two lines a second."""
    job = Job(tmp_path, 0, False, tmp_path)
    console = Console(file=io.StringIO(), width=100)
    with JobTable([job], console) as table:
        for ended in ({}, {}, {}, {"block_0": 0}, {"block_0": 0}):
            table.show(ended)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines() == ["block_0 waiting", "block_0 done"]
