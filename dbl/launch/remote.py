"""What Ray and Slurm share: a job done on a machine that may not be the launcher's."""

import os
import socket
from dataclasses import dataclass

from dbl.launch.job import Job, worker_environment

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
