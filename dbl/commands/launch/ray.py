"""Backend `ray`: one task of a Ray cluster for each block."""

import math
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from typing_extensions import override

from dbl.commands.launch.backend import Outcome, WatchedBackend, watch
from dbl.commands.launch.job import (
    GRACE_S,
    Done,
    Job,
    first_line,
    job_environment,
    refuse,
    start_process,
    write_to_log,
)
from dbl.utils.checks import Number, check_numbers, whole
from dbl.utils.errors import UserError, optional_package

_CONNECT_S = 10
_POLL_S = 0.2


@dataclass(frozen=True)
class RaySettings:
    """Where the tasks run and what each of them gets.

    Args:
        address: address of a running cluster, e.g. auto or 10.0.0.1:6379; by default RAY_ADDRESS, or else a cluster on
            this machine that is started for this call.
        cpus: CPUs of each block.
        gpus: GPUs of each block, or a share of one; 0 trains on the CPU.
        retries: number of times that a block is started again, and resumes, if Ray loses its process or machine.
    """

    address: str | None = None
    cpus: float = 1
    gpus: float = 0
    retries: int = 3

    def __post_init__(self) -> None:
        check_numbers(
            "--ray",
            self,
            cpus=Number(above=0, at_most=100_000),
            gpus=Number(at_least=0, at_most=100_000),
            retries=whole(0, 10**6),
        )
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise UserError(f"--ray.gpus ({self.gpus}) must be a whole number, or a share of one GPU between 0 and 1")


class RayBackend(WatchedBackend):
    """Tasks of a Ray cluster, on machines that all see the run folder.

    The launcher sends names and paths only. A block that exits with an error is not started again; one whose Ray worker
    died is, and resumes from its last checkpoint.

    Args:
        workers: number of parallel tasks; None: as many as the cluster has room for.
        settings: cluster, and resources of a task.

    Raises UserError if the package is absent.
    """

    def __init__(self, workers: int | None, settings: RaySettings) -> None:
        self._ray = optional_package("ray", "ray", "--backend ray")
        self._workers = workers
        self._settings = settings
        self._environment = job_environment(settings.cpus)
        self._waiting: list[Job] = []
        self._running: dict[Any, Job] = {}  # Ray's reference of the result -> job
        self._ended: dict[str, int] = {}

    @override
    def run(self, jobs: list[Job]) -> list[Outcome]:
        slots = min(self._workers or len(jobs), len(jobs))
        with _connected(self._ray, self._settings, self._workers and slots):
            _check_room(self._ray, self._settings)
            return watch(self, jobs)

    @override
    def start(self, jobs: list[Job]) -> None:
        self._waiting = list(jobs)
        self._fill()

    def _fill(self) -> None:
        """Submit waiting jobs, as many as may run in parallel."""
        settings = self._settings
        task = self._ray.remote(
            num_cpus=settings.cpus, num_gpus=settings.gpus, max_retries=settings.retries, retry_exceptions=False
        )(_train)
        while self._waiting and (self._workers is None or len(self._running) < self._workers):
            job = self._waiting.pop(0)
            self._running[task.options(name=job.part).remote(job, self._environment)] = job

    @override
    def ended(self) -> dict[str, int]:
        if self._running:
            ready, _ = self._ray.wait(list(self._running), num_returns=len(self._running), timeout=0)
            for reference in ready:
                job = self._running.pop(reference)
                self._ended[job.part] = self._code(job, reference)
        self._fill()
        return dict(self._ended)

    def _code(self, job: Job, reference: Any) -> int:
        try:
            done: Done = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            done = Done(1, f"{self._describe(error)} ({type(error).__name__}: {first_line(error)})")
        if done.line:
            write_to_log(job, done.line)
        return done.code

    def _describe(self, error: Exception) -> str:
        exceptions = self._ray.exceptions
        lost = (exceptions.WorkerCrashedError, exceptions.NodeDiedError, exceptions.OutOfMemoryError)
        if isinstance(error, lost):
            return f"Ray lost the task {self._settings.retries + 1} times; --ray.retries allows more"
        return "Ray could not do the task"

    @override
    def stop(self) -> None:
        self._waiting = []
        running = list(self._running)
        for reference in running:
            self._ray.cancel(reference, force=False)
        if running:
            self._ray.wait(running, num_returns=len(running), timeout=GRACE_S)


def _train(job: Job, environment: dict[str, str]) -> Done:
    """The task: `dbl fit` in its own process, on the node that Ray chose."""
    if refusal := refuse(job):
        return refusal
    process = start_process(job, environment)
    try:
        # Ray cancels a task by a KeyboardInterrupt between two instructions: it would not end a wait in the kernel.
        while process.poll() is None:
            time.sleep(_POLL_S)
    except KeyboardInterrupt:
        process.terminate()
        process.wait(GRACE_S)
        raise
    return Done(process.returncode)


@contextmanager
def _connected(ray: ModuleType, settings: RaySettings, slots: int | None) -> Iterator[None]:
    """Join the cluster, or start one on this machine that has room for `slots` tasks; leave or end it afterwards."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing about a run is reported to anyone
    address = settings.address or os.environ.get("RAY_ADDRESS")
    quiet = {"log_to_driver": False, "logging_level": "error"}
    before = signal.getsignal(signal.SIGTERM)  # Ray puts its own in place
    try:
        if address:
            _check_reachable(address)
            ray.init(address=address, **quiet)
        else:
            cpus = math.ceil(slots * settings.cpus) if slots else None  # None: those of the machine
            ray.init(address="local", num_cpus=cpus, include_dashboard=False, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        place = f"the cluster at {address} cannot be used" if address else "no cluster can be started on this machine"
        raise UserError(f"Ray: {place}: {first_line(error)} (see --ray.address)") from error
    try:
        yield
    finally:
        ray.shutdown()
        signal.signal(signal.SIGTERM, before)


def _check_reachable(address: str) -> None:
    """Raise OSError if nothing listens at a host:port: Ray itself would try for many minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()


def _check_room(ray: ModuleType, settings: RaySettings) -> None:
    """Raise UserError if no node has what a task asks for: Ray would let it wait for ever."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(n.get("CPU", 0) >= settings.cpus and n.get("GPU", 0) >= settings.gpus for n in nodes):
        return
    most = {kind: max((n.get(kind, 0) for n in nodes), default=0) for kind in ("CPU", "GPU")}
    raise UserError(
        f"no node of the Ray cluster has the {settings.cpus:g} CPUs and {settings.gpus:g} GPUs of --ray.cpus and "
        f"--ray.gpus: the largest have {most['CPU']:g} and {most['GPU']:g}"
    )
