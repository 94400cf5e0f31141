"""What backends have in common: they do jobs and say how each ended."""

import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from dbl.commands.launch.job import Job
from dbl.commands.launch.status_table import JobTable
from dbl.utils.errors import Interrupted

_POLL_S = 0.5


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Args:
        job: that was done, or not.
        code: exit code of `dbl fit`: 0, 2 for a fault of the input, 130 when it was stopped, others for crashes.
        lines: what it said last, if it failed.
    """

    job: Job
    code: int
    lines: list[str] = field(default_factory=list)


class Backend(ABC):
    """A way to do jobs: one after another, beside each other, or on other machines."""

    @abstractmethod
    def run(self, jobs: list[Job]) -> list[Outcome]:
        """Do all jobs; one that fails does not stop the others.

        Raises:
            Interrupted: if the launcher was told to stop; what ran was saved.
            UserError: if the backend cannot be used here.
        """


class WatchedBackend(Backend):
    """A backend whose jobs run in other processes, and which are shown in a live table from their status files."""

    @abstractmethod
    def start(self, jobs: list[Job]) -> None:
        """Start, or queue, all jobs."""

    @abstractmethod
    def ended(self) -> dict[str, int]:
        """Part -> exit code of the jobs that ended so far; called about twice a second."""

    @abstractmethod
    def stop(self) -> None:
        """Tell all jobs to save and stop, and wait for them."""

    def run(self, jobs: list[Job]) -> list[Outcome]:
        """See `Backend.run`."""
        with _termination_as_interrupt(), JobTable(jobs) as table:
            try:
                self.start(jobs)
                while len(ended := self.ended()) < len(jobs):
                    table.show(ended)
                    time.sleep(_POLL_S)
            except KeyboardInterrupt:
                self.stop()
                raise Interrupted("stopped; the same command resumes what is not done") from None
            table.show(ended)
        return [Outcome(job, ended[job.part], job.last_lines() if ended[job.part] else []) for job in jobs]


@contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """Let SIGTERM (a scheduler's pre-emption) do what Ctrl-C does."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
