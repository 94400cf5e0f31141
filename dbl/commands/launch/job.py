"""A block to train, described by names and paths, so that any machine that sees the run folder can train it."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from dbl.run.folder import LOG, STATUS

# A worker may meet the lock of one that has just died on another machine; it waits until that lock expires.
_LOCK_WAIT_S = 90
# A worker that does not save its step within this time is killed; it resumes from its last checkpoint.
GRACE_S = 60
# Prefixes of variables that a worker on another machine needs too.
_CARRIED = ("DBL_", "HF_")
# Start of the line in the log that separates the output of several workers of a job.
_LAUNCHED = "=== dbl: worker started"


@dataclass(frozen=True)
class Job:
    """`dbl fit` for one block.

    Args:
        run: run folder, absolute.
        block: number of the block.
        from_scratch: train anew what is trained already.
        cwd: folder where the launcher was started, to which relative paths of the config refer.
    """

    run: Path
    block: int
    from_scratch: bool
    cwd: Path

    @property
    def part(self) -> str:
        """Name of the block's folder."""
        return f"block_{self.block}"

    @property
    def log(self) -> Path:
        """File that holds the output of its workers."""
        return self.run / self.part / LOG

    @property
    def status(self) -> Path:
        """Progress file; see `dbl.training.callbacks.status.Status`."""
        return self.run / self.part / STATUS

    @property
    def options(self) -> list[str]:
        """Options of `dbl fit`."""
        options = ["--config", str(self.run / "config.yaml"), "--model.block", str(self.block)]
        return options + (["--from_scratch"] if self.from_scratch else [])

    @property
    def command(self) -> list[str]:
        """Command line of the worker."""
        return [sys.executable, "-m", "dbl.commands.launch.worker", *self.options]

    @property
    def resume_command(self) -> str:
        """What a user types to resume this block alone."""
        config = os.path.relpath(self.run / "config.yaml", self.cwd)
        return f"dbl train --config {config} --blocks {self.block}"

    def last_lines(self, number: int = 5) -> list[str]:
        """The last lines of its last worker, without empty lines and without progress bars."""
        try:
            text = self.log.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return []
        output = re.split(f"{_LAUNCHED}.*\n", text)[-1]
        return [line.rsplit("\r")[-1] for line in output.splitlines() if line.strip()][-number:]


def start_process(job: Job, environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    """Start the worker of a job; it stops by itself when this process ends, because its standard input closes then.

    Args:
        job: job to run.
        environment: variables added to those of this process, e.g. threads and devices.

    Returns:
        The process; its exit code is that of `dbl fit`, and its output is appended to the log of the job.
    """
    with begin_log(job) as log:
        return subprocess.Popen(
            job.command,
            cwd=job.cwd,
            env=launcher_environment() | dict(environment),
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the launcher, which tells its workers
        )


def begin_log(job: Job) -> BinaryIO:
    """Open the log of a job to append the output of another worker, after a line that separates it."""
    log = open_log(job)
    log.write(f"{_LAUNCHED} at {datetime.now():%Y-%m-%d %H:%M:%S}\n".encode())
    return log


def open_log(job: Job) -> BinaryIO:
    """Open the log of a job to append to it."""
    job.log.parent.mkdir(parents=True, exist_ok=True)
    return job.log.open("ab", buffering=0)


def launcher_environment() -> dict[str, str]:
    """Variables of this process, and of all workers."""
    return os.environ | worker_environment()


def worker_environment() -> dict[str, str]:
    """Variables of all workers: the launcher's import path, time to wait for expiring locks, unbuffered output."""
    paths = [path or str(Path.cwd()) for path in sys.path]
    return {
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        "DBL_LOCK_WAIT_S": str(_LOCK_WAIT_S),
    }


@dataclass(frozen=True)
class Done:
    """How a job ended, as a task reports it to the launcher."""

    code: int  # exit code of `dbl fit`, or 2 if the machine cannot run the job
    line: str | None = None  # reason, if there is none in the log of the job


def job_environment(cpus: float) -> dict[str, str]:
    """Variables that the launcher sends to a task on any machine.

    Args:
        cpus: CPUs of the task, and its number of threads unless OMP_NUM_THREADS is set where the launcher runs.
    """
    carried = {name: value for name, value in os.environ.items() if name.startswith(_CARRIED)}
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, int(cpus)))
    return carried | worker_environment() | {"OMP_NUM_THREADS": threads}


def refuse(job: Job) -> Done | None:
    """The result of a job whose files this machine does not see; None if it sees them."""
    for path in (job.cwd, job.run / "config.yaml"):
        if not path.exists():
            return Done(2, f"{socket.gethostname()} does not see {path}: put the run where all machines can read it")
    return None


def write_to_log(job: Job, line: str) -> None:
    """Append a line to the log of a job, whose last lines the launcher prints if the job failed."""
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("a", encoding="utf-8") as log:
        log.write(f"dbl: {line}\n")


def first_line(error: BaseException) -> str:
    """The first line of the message of an exception, or its name."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
