"""Backend `slurm`: a job array with one task for each block, submitted through submitit."""

import re
import secrets
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typing_extensions import override

from dbl.commands.launch.backend import Outcome, WatchedBackend, watch
from dbl.commands.launch.job import GRACE_S, Done, Job, first_line, job_environment, write_to_log
from dbl.commands.launch.slurm_task import BlockTask
from dbl.utils.checks import check_numbers, whole
from dbl.utils.errors import UserError, optional_package

# One query for all tasks, and no more often: all users of a cluster share its accounting.
_QUERY_EVERY_S = 15.0
# State of a task that neither the accounting nor the queue lists any more.
_GONE = "GONE"

ENDED_STATES = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT"}
ENDED_STATES |= {_GONE}


class States:
    """States of tasks according to Slurm's accounting, or to its queue on a cluster without accounting.

    submitit's own watcher is not used: it takes a suspended task for ended, never looks again at one that ended once
    although Slurm may have requeued it, and needs accounting.

    Args:
        names: names of the tasks, e.g. 123_0.
    """

    def __init__(self, names: list[str]) -> None:
        self._names = names
        self._states: dict[str, str] = {}
        self._queried = float("-inf")

    def of(self, name: str) -> str:
        """State of a task a few seconds ago, e.g. RUNNING; UNKNOWN if Slurm does not list it."""
        if time.monotonic() - self._queried > _QUERY_EVERY_S:
            self.query()
        state = self._states.get(name, "").split()
        return state[0].rstrip("+") if state else "UNKNOWN"  # CANCELLED by 1000

    def query(self) -> None:
        """Query Slurm now."""
        self._queried = time.monotonic()
        jobs = "--jobs=" + ",".join(sorted({name.split("_")[0] for name in self._names}))
        code, text = _output("sacct", "--noheader", "--parsable2", "--format=JobID,State", jobs)
        if code == 0:
            self._states.update(_parsed(text))
            return
        code, text = _output("squeue", "--noheader", "--array", "--format=%i|%T", jobs)
        if code == 0 or "Invalid job id" in text:
            self._states = dict.fromkeys(self._names, _GONE) | _parsed(text)


def _output(*command: str) -> tuple[int, str]:
    """Exit code and output of a command; 127 if it is not installed."""
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return 127, ""
    return ended.returncode, ended.stdout + ended.stderr


def _parsed(text: str) -> dict[str, str]:
    """State by name, from lines such as `123_[0-2%2]|PENDING`."""
    from submitit.slurm.slurm import SlurmInfoWatcher

    info = SlurmInfoWatcher().read_info("JobID|State\n" + text)
    return {name: stats["State"] for name, stats in info.items() if "State" in stats}


# Slurm signals a task this long before its time limit: it must finish its step and save within it.
_SAVE_S = 120
# Requeues after a time limit: enough for any training, and an end to one that never saves a step.
_MAX_TIMEOUTS = 50
# A shared file system may show the result of a task this late, and Slurm may still requeue one that lost its node.
_RESULT_WAIT_S = 60.0

_REMEDIES = {
    "OUT_OF_MEMORY": "; --slurm.memory_gb asks for more",
    "TIMEOUT": "; --slurm.minutes asks for more",
    "DEADLINE": "; --slurm.minutes asks for more",
}
# Options of sbatch that this backend sets itself and relies on.
_OURS = {"array", "error", "export", "nodes", "ntasks", "open-mode", "output", "requeue", "signal", "wrap"}


@dataclass(frozen=True)
class SlurmSettings:
    """What each task of the job array asks for.

    Args:
        partition: partition of the cluster; by default the cluster's own default.
        minutes: time limit; a task that reaches it is saved, requeued and resumed.
        memory_gb: memory in GB.
        cpus: cores.
        gpus: GPUs; 0 trains on the CPU.
        account: account to charge; by default the user's own default.
        extra: further options of sbatch without the dashes, e.g. {constraint: a100, qos: long}.
    """

    partition: str | None = None
    minutes: int = 720
    memory_gb: int = 16
    cpus: int = 4
    gpus: int = 1
    account: str | None = None
    extra: dict[str, str] | None = None

    def __post_init__(self) -> None:
        check_numbers(
            "--slurm",
            self,
            minutes=whole(5, 10**7),
            memory_gb=whole(1, 10**6),
            cpus=whole(1, 10**5),
            gpus=whole(0, 10**5),
        )
        for key in self.extra or {}:
            if not re.fullmatch(r"[a-z][a-z0-9-]*", key):
                raise UserError(f"--slurm.extra: {key!r} is no option of sbatch; write e.g. constraint, without dashes")
            if key in _OURS:
                raise UserError(f"--slurm.extra: {key} is set by this backend and cannot be changed")
        for key, value in {"partition": self.partition, "account": self.account, **(self.extra or {})}.items():
            if "\n" in str(value):
                raise UserError(f"--slurm: the value of {key} must be one line")

    def parameters(self, name: str, workers: int) -> dict[str, Any]:
        """Parameters of submitit's executor, for a job of this name with this number of parallel tasks."""
        wanted = {
            "job_name": name,
            "partition": self.partition,
            "account": self.account,
            "time": self.minutes,
            "mem": f"{self.memory_gb}GB",
            "cpus_per_task": self.cpus,
            "gpus_per_node": self.gpus or None,
            "signal_delay_s": _SAVE_S,
            "array_parallelism": workers,
            "additional_parameters": {"requeue": True, **(self.extra or {})},
            # From Slurm 22.05 on, srun gives a task one core unless it is told the number again.
            "srun_args": [f"--cpus-per-task={self.cpus}"],
        }
        return {key: value for key, value in wanted.items() if value is not None}


class SlurmBackend(WatchedBackend):
    """A job array; its scripts, results and Slurm's own logs are in a new folder inside `slurm` of the run.

    Args:
        workers: number of parallel tasks; None: as many as the cluster has room for.
        settings: resources of a task.
        dry_run: print the script and the commands, submit nothing. `run` then returns no outcome.

    Raises UserError if the package or the commands of Slurm are absent.
    """

    def __init__(self, workers: int | None, settings: SlurmSettings, dry_run: bool = False) -> None:
        optional_package("submitit", "slurm", "--backend slurm")
        missing = [command for command in ("sbatch", "srun") if shutil.which(command) is None]
        if missing and not dry_run:
            raise UserError(
                f"--backend slurm: there is no {missing[0]} on this machine; start it where jobs are submitted "
                "(--dry_run prints the scripts anywhere)"
            )
        self._workers = workers
        self._settings = settings
        self._dry_run = dry_run
        # Lightning takes a Slurm task for a member of a distributed training, unless the task is called interactive.
        self._environment = job_environment(settings.cpus) | {"SLURM_JOB_NAME": "interactive"}
        self._running: dict[str, tuple[Job, Any]] = {}  # part -> job and submitit's handle
        self._ended: dict[str, int] = {}
        self._lost_since: dict[str, float] = {}
        self._states = States([])

    @override
    def run(self, jobs: list[Job]) -> list[Outcome]:
        if self._dry_run:
            self._print_script(jobs)
            return []
        return watch(self, jobs)

    @override
    def start(self, jobs: list[Job]) -> None:
        from submitit.core.utils import FailedJobError, FailedSubmissionError
        from submitit.helpers import clean_env
        from submitit.slurm.slurm import SlurmExecutor

        executor = SlurmExecutor(_folder(jobs), max_num_timeout=_MAX_TIMEOUTS)
        executor.update_parameters(**self._parameters(jobs))
        tasks = [BlockTask(job, self._environment) for job in jobs]
        try:
            with clean_env():  # without the variables of an allocation in which the launcher itself may run
                handles = executor.submit_array(tasks)
        except (FailedJobError, FailedSubmissionError, OSError) as error:
            raise UserError(f"sbatch refused the job array: {_sbatch_error(error)} (see --slurm.*)") from error
        self._running = {job.part: (job, handle) for job, handle in zip(jobs, handles, strict=True)}
        self._states = States([handle.job_id for handle in handles])

    def _parameters(self, jobs: list[Job]) -> dict[str, Any]:
        name = re.sub(r"[^\w.-]", "_", f"dbl-{jobs[0].run.name}")
        return self._settings.parameters(name, self._workers or len(jobs))

    def _print_script(self, jobs: list[Job]) -> None:
        """Print what `start` would submit, and what each task runs."""
        from submitit.slurm.slurm import _make_sbatch_string

        folder = _folder(jobs)
        command = f"{sys.executable} -u -m submitit.core._submit {folder}"
        array: dict[str, Any] = {"map_count": len(jobs)} if len(jobs) > 1 else {}
        # The executor itself cannot be made on a machine without Slurm.
        print(_make_sbatch_string(command, folder, **self._parameters(jobs), **array))
        for number, job in enumerate(jobs):
            print(f"# task {number}: {job.part}: cd {job.cwd} && dbl fit {' '.join(job.options)}")

    @override
    def ended(self) -> dict[str, int]:
        for part, (job, handle) in list(self._running.items()):
            done = self._done(part, handle)
            if done is not None:
                del self._running[part]
                self._ended[part] = done.code
                if done.line:
                    write_to_log(job, done.line)
        return dict(self._ended)

    def _done(self, part: str, handle: Any) -> Done | None:
        """How a task ended, by its result or by the state that it has had in Slurm for a while; None if it has not."""
        if handle.paths.result_pickle.exists():
            return _result(handle)
        state = self._states.of(handle.job_id)
        if state not in ENDED_STATES:
            self._lost_since.pop(part, None)
            return None
        if time.monotonic() - self._lost_since.setdefault(part, time.monotonic()) < _RESULT_WAIT_S:
            return None
        code = 130 if state == "CANCELLED" else 1
        return Done(code, f"Slurm ended task {handle.job_id}: {state}{_REMEDIES.get(state, '')}; {handle.paths.stderr}")

    @override
    def stop(self) -> None:
        names = [handle.job_id for _, handle in self._running.values()]
        if not names:
            return
        # A plain scancel kills 30 s after its SIGTERM (KillWait): too soon for a long step.
        _scancel("--state=PENDING", *names)
        _scancel("--signal=TERM", *names)
        deadline = time.monotonic() + GRACE_S
        while time.monotonic() < deadline and self._any_left():
            time.sleep(2)
        _scancel(*names)

    def _any_left(self) -> bool:
        self._states.query()
        left = [handle for _, handle in self._running.values() if not handle.paths.result_pickle.exists()]
        return any(self._states.of(handle.job_id) not in ENDED_STATES for handle in left)


def _folder(jobs: list[Job]) -> Path:
    # Results are pickles: in a folder that nobody can guess, none can lie there from before.
    return jobs[0].run / "slurm" / secrets.token_hex(8)


def _result(handle: Any) -> Done:
    """The result of a task; an error of the task itself becomes its line."""
    from submitit.core.utils import UncompletedJobError

    try:
        done: Done = handle.result()
    except UncompletedJobError as error:
        lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith(("-", "You can"))]
        return Done(1, f"task {handle.job_id} failed: {lines[-1].strip()}; {handle.paths.stderr}")
    return done


def _sbatch_error(error: Exception) -> str:
    """The error line of sbatch in the exception of submitit."""
    lines = [line.strip() for line in str(error).splitlines() if "error:" in line]
    return lines[0] if lines else first_line(error)


def _scancel(*arguments: str) -> None:
    """Cancel or signal tasks; for one that has just ended, do nothing."""
    subprocess.run(["scancel", *arguments], check=False, capture_output=True)
