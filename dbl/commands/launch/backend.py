"""What backends have in common: they run jobs and report how each ended."""

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
    """How a job ended."""

    job: Job
    code: int  # of `dbl fit`: 0, 2 for an error in the input, 130 if it was stopped, others for crashes
    lines: list[str] = field(default_factory=list)  # the last of its log, if it failed


class Backend(ABC):
    """A way to run jobs: one after another, in parallel, or on other machines."""

    @abstractmethod
    def run(self, jobs: list[Job]) -> list[Outcome]:
        """Run all jobs; one that fails does not stop the others.

        Raises:
            Interrupted: if the launcher was told to stop; running jobs have saved.
            UserError: if the backend cannot be used here.
        """


class WatchedBackend(Backend):
    """A backend whose jobs run in other processes, for `watch` to start and stop."""

    @abstractmethod
    def start(self, jobs: list[Job]) -> None:
        """Start, or queue, all jobs."""

    @abstractmethod
    def ended(self) -> dict[str, int]:
        """Exit code by part of the jobs that have ended; called about twice a second."""

    @abstractmethod
    def stop(self) -> None:
        """Tell all jobs to save and stop, and wait for them."""


def watch(backend: WatchedBackend, jobs: list[Job]) -> list[Outcome]:
    """Start all jobs, show their status files in a live table until all have ended, and stop them if told to."""
    with _termination_as_interrupt(), JobTable(jobs) as table:
        try:
            backend.start(jobs)
            while len(ended := backend.ended()) < len(jobs):
                table.show(ended)
                time.sleep(_POLL_S)
        except KeyboardInterrupt:
            backend.stop()
            raise Interrupted("stopped; the same command resumes what is not done") from None
        table.show(ended)
    return [Outcome(job, ended[job.part], job.last_lines() if ended[job.part] else []) for job in jobs]


@contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """Treat SIGTERM (a scheduler's pre-emption) like Ctrl-C."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
