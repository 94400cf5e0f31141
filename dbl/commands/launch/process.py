"""Backend `process`: several workers on this machine, each with its own share of cores or GPUs."""

import os
import subprocess

import torch
from typing_extensions import override

from dbl.commands.devices import Devices
from dbl.commands.launch.backend import Outcome, WatchedBackend, watch
from dbl.commands.launch.forked import ForkedWorker, ForkServer, can_fork
from dbl.commands.launch.job import GRACE_S, Job, start_process
from dbl.utils.errors import UserError


class ProcessBackend(WatchedBackend):
    """Parallel workers on one machine.

    On the CPU the cores are divided among the workers, unless OMP_NUM_THREADS says how many threads each has. On a
    machine with GPUs each worker sees its own. Where the system allows it, workers of one device are forked from a
    process that has imported everything.

    Args:
        workers: number of parallel workers; None: as many as there are GPUs for, or cores on a machine without.
        devices: devices of one worker: how many, -1 for all, or the numbers of its GPUs; `auto` is one.
        on_cpu: whether the trainer uses the CPU although there are GPUs.

    Raises UserError if there are fewer GPUs than one worker needs.
    """

    def __init__(self, workers: int | None = None, devices: Devices = 1, on_cpu: bool = False) -> None:
        gpus = [] if on_cpu else _gpus()
        if isinstance(devices, list):
            self._devices, self._gpus = len(devices), [gpus]  # their numbers count among all GPUs
        else:
            self._devices = max(1, len(gpus)) if devices == -1 else 1 if isinstance(devices, str) else devices
            self._gpus = _shares(gpus, self._devices)
        if gpus and self._devices > len(gpus):
            raise UserError(f"trainer.devices={devices}: this machine has {len(gpus)}")
        # With more workers than there are shares, workers share.
        self._limit = workers or len(self._gpus) or max(1, _cores() // self._devices)
        self._waiting: list[Job] = []
        self._running: dict[int, tuple[Job, subprocess.Popen[bytes] | ForkedWorker]] = {}  # slot -> what runs in it
        # Lightning starts the processes of further devices by the command line of the first.
        self._forks = self._devices == 1 and can_fork()
        self._server: ForkServer | None = None
        self._ended: dict[str, int] = {}

    @override
    def run(self, jobs: list[Job]) -> list[Outcome]:
        try:
            return watch(self, jobs)
        finally:
            if self._server:
                self._server.close()

    @override
    def start(self, jobs: list[Job]) -> None:
        self._limit = min(self._limit, len(jobs))
        self._waiting = list(jobs)
        self._fill()

    def _fill(self) -> None:
        """Start waiting jobs in free slots."""
        for slot in range(self._limit):
            if slot not in self._running and self._waiting:
                job = self._waiting.pop(0)
                self._running[slot] = (job, self._start(job, self._environment(slot)))

    def _start(self, job: Job, environment: dict[str, str]) -> subprocess.Popen[bytes] | ForkedWorker:
        if not self._forks:
            return start_process(job, environment)
        if not (self._server and self._server.runs):
            self._server = ForkServer(job, environment)
        return self._server.start(job, environment)

    def _environment(self, slot: int) -> dict[str, str]:
        if self._gpus:
            return {"CUDA_VISIBLE_DEVICES": ",".join(self._gpus[slot % len(self._gpus)])}
        threads = max(1, _cores() // (self._limit * self._devices))
        return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(threads)}

    @override
    def ended(self) -> dict[str, int]:
        for slot, (job, process) in list(self._running.items()):
            code = process.poll()
            if code is not None:
                self._ended[job.part] = code
                del self._running[slot]
        self._fill()
        return dict(self._ended)

    @override
    def stop(self) -> None:
        self._waiting = []
        for _, process in self._running.values():
            process.terminate()
        for _, process in self._running.values():
            try:
                process.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _shares(gpus: list[str], size: int) -> list[list[str]]:
    """The GPUs of each worker."""
    return [gpus[first : first + size] for first in range(0, len(gpus) - size + 1, size)] if gpus else []


def _gpus() -> list[str]:
    """Names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES spells them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name for name in chosen.split(",") if name]
    return [str(number) for number in range(torch.cuda.device_count())]


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
