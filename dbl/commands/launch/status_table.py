"""Progress of the jobs: a live table in a terminal, an occasional line in a log file."""

import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from dbl.commands.launch.job import Job
from dbl.utils.errors import UserError
from dbl.utils.files import read_json

_LOG_EVERY_S = 30


class JobTable:
    """State, step, loss, speed and remaining time of each block, read from the status files that the workers write.

    Args:
        jobs: jobs to show.
        console: console to print to; standard error by default.
    """

    def __init__(self, jobs: list[Job], console: Console | None = None) -> None:
        self._jobs = jobs
        self._console = console or Console(stderr=True)
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None
        self._started = time.time()
        self._last_line = 0.0
        self._states: list[str] = []

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop the live table; its last state stays on the screen."""
        if self._live:
            self._live.stop()

    def show(self, ended: dict[str, int]) -> None:
        """Show the current state, given the exit code by part of the jobs that have ended."""
        rows = [self._row(job, ended.get(job.part)) for job in self._jobs]
        if self._live:
            self._live.update(_table(rows), refresh=True)
            return
        states = [row["state"] for row in rows]
        if states != self._states or time.time() - self._last_line > _LOG_EVERY_S:
            self._states, self._last_line = states, time.time()
            self._console.print("; ".join(_line(row) for row in rows), soft_wrap=True)

    def _row(self, job: Job, code: int | None) -> dict[str, str]:
        status = self._status(job)
        state = status.get("state", "waiting")
        if code is not None:
            state = {0: "done", 130: "stopped"}.get(code, f"failed ({code})")
        speed, left = status.get("steps_per_second"), status.get("max_steps", 0) - status.get("step", 0)
        return {
            "block": job.part,
            "state": state,
            "step": f"{status['step']}/{status['max_steps']}" if status else "",
            "loss": "" if status.get("loss") is None else f"{status['loss']:.4g}",
            "steps/s": f"{speed:.3g}" if speed else "",
            "remaining": _duration(left / speed) if speed and state == "training" else "",
        }

    def _status(self, job: Job) -> dict[str, Any]:
        """The last status that the worker wrote, unless it is from an earlier launch."""
        try:
            status = read_json(job.status)
        except UserError:
            return {}
        return status if _is_status(status) and status["updated"] >= self._started else {}


def _is_status(status: Any) -> bool:
    """Whether this is what `Status` writes, as far as it is shown: the file may be damaged, or from elsewhere."""
    if not isinstance(status, dict) or not isinstance(status.get("state"), str):
        return False
    numbers: list[Any] = [status.get(key) for key in ("step", "max_steps", "updated")]
    numbers += [status[key] for key in ("loss", "steps_per_second") if status.get(key) is not None]
    return all(type(number) in (int, float) and -(2**63) < number < 2**63 for number in numbers)


def _table(rows: list[dict[str, str]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in rows[0]:
        table.add_column(name, justify="left" if name in ("block", "state") else "right")
    for row in rows:
        table.add_row(*row.values())
    return table


def _line(row: dict[str, str]) -> str:
    details = [f"step {row['step']}" if row["step"] else "", f"loss {row['loss']}" if row["loss"] else ""]
    details.append(f"{row['remaining']} left" if row["remaining"] else "")
    return ", ".join([f"{row['block']} {row['state']}", *filter(None, details)])


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
