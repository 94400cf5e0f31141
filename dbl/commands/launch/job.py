"""One block to train, as any process on any machine that sees the run folder can: names and paths, no tensor."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from dbl.run.folder import LOG, STATUS

# A worker may find the lock of one that has just died on another machine; it waits until that lock is stale.
LOCK_WAIT_S = 90
# A worker that does not save its step within this time is killed; it resumes from its last checkpoint.
GRACE_S = 60
# Begins the line of the log that separates what several workers of a job said.
_LAUNCHED = "=== dbl: worker started"


@dataclass(frozen=True)
class Job:
    """`dbl fit` for one block.

    Args:
        run: the run folder, absolute.
        block: its number.
        from_scratch: train anew what is trained already.
        cwd: where the launcher was started: relative paths of the config are meant from there.
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
        """What the worker prints."""
        return self.run / self.part / LOG

    @property
    def status(self) -> Path:
        """How far it is; see `dbl.training.callbacks.status.Status`."""
        return self.run / self.part / STATUS

    @property
    def options(self) -> list[str]:
        """Of `dbl fit`."""
        options = ["--config", str(self.run / "config.yaml"), "--model.block", str(self.block)]
        return options + (["--from-scratch"] if self.from_scratch else [])

    @property
    def command(self) -> list[str]:
        """Of the worker."""
        return [sys.executable, "-m", "dbl.commands.launch.worker", *self.options]

    @property
    def resume_command(self) -> str:
        """What a user types to go on with this block alone."""
        config = os.path.relpath(self.run / "config.yaml", self.cwd)
        return f"dbl train --config {config} --blocks {self.block}"

    def last_lines(self, number: int = 5) -> list[str]:
        """What its last worker said at the end, without empty lines and without progress bars."""
        try:
            text = self.log.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return []
        said = re.split(f"{_LAUNCHED}.*\n", text)[-1]
        return [line.rsplit("\r")[-1] for line in said.splitlines() if line.strip()][-number:]


def start_process(job: Job, environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    """Start the worker of a job; it stops by itself when this process ends, because its standard input closes then.

    What every backend but `inline` runs.

    Args:
        job: to do.
        environment: added to that of this process, e.g. threads and devices.

    Returns:
        The process; its exit code is that of `dbl fit`, its output goes to the end of the job's log.
    """
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("ab") as log:
        log.write(f"{_LAUNCHED} at {datetime.now():%Y-%m-%d %H:%M:%S}\n".encode())
        log.flush()
        return subprocess.Popen(
            job.command,
            cwd=job.cwd,
            env=os.environ | worker_environment() | dict(environment),
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the launcher, which tells its workers
        )


def worker_environment() -> dict[str, str]:
    """What all workers are given: classes that the launcher can import, patience with stale locks, output at once."""
    paths = [path or str(Path.cwd()) for path in sys.path]
    return {
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        "DBL_LOCK_WAIT_S": str(LOCK_WAIT_S),
    }


# Settings of the launcher's environment that a process on another machine needs too.
_CARRIED = ("DBL_", "HF_")


@dataclass(frozen=True)
class Done:
    """How a job ended, as a task tells the launcher.

    Args:
        code: exit code of `dbl fit`, or 2 if the machine cannot do the job.
        line: why it could not, if there is nothing in the job's log.
    """

    code: int
    line: str | None = None


def job_environment(cpus: float) -> dict[str, str]:
    """What the launcher gives the training process of a task, wherever it runs.

    Args:
        cpus: that the task has; as many threads, unless OMP_NUM_THREADS is set where the launcher runs.
    """
    carried = {name: value for name, value in os.environ.items() if name.startswith(_CARRIED)}
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, int(cpus)))
    return carried | worker_environment() | {"OMP_NUM_THREADS": threads}


def cannot_do(job: Job) -> Done | None:
    """What to answer if this machine does not see the files of a job; None if it does."""
    for path in (job.cwd, job.run / "config.yaml"):
        if not path.exists():
            return Done(2, f"{socket.gethostname()} does not see {path}: put the run where all machines can read it")
    return None


def write_to_log(job: Job, line: str) -> None:
    """Add a line to the log of a job, from which the launcher tells the user how the job ended."""
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("a", encoding="utf-8") as log:
        log.write(f"dbl: {line}\n")


def first_line(error: BaseException) -> str:
    """The first line of what an exception says, or its name."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
