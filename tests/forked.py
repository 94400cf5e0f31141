"""Commands of `dbl`, each in a child forked from one process that has imported everything (some 10 ms each)."""

import itertools
import multiprocessing
import os
import resource
import sys
from collections.abc import Callable, Sequence
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import NamedTuple

import torch

_NUMBERS = itertools.count()
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "forked",
        *(
            f"dbl.commands.{name}"
            for name in ("main", "fit", "train", "compare", "plan", "assemble", "sample", "export")
        ),
        "dbl.data",
        "dbl.evaluation.features",
        "dbl.inference.generation",
    ]
)


class Outcome(NamedTuple):
    """How a child ended.

    Attributes:
        code: exit code; negative if a signal ended it, None if it was still running when its time was over.
        output: what it printed.
        errors: what it printed on standard error.
    """

    code: int | None
    output: str
    errors: str

    def problem(self) -> str | None:
        """Why this is not a refusal in one line of at most 200 characters with exit code 2; None if it is one."""
        lines = [line for line in self.errors.splitlines() if "Warning: " not in line]
        if self.code is None:
            return "hangs"
        if "Traceback" in self.errors or self.code not in (0, 2):
            return f"exit code {self.code}: {lines[-1] if lines else 'nothing printed'}"
        if self.code == 0:
            return "accepted"
        if len(lines) != 1 or not lines[0].startswith("dbl: ") or len(lines[0]) > 200:
            return f"not one line of at most 200 characters: {lines}"
        return None


def run_dbl(folder: Path, *arguments: str, time_limit_s: float = 60, spare_bytes: int | None = None) -> Outcome:
    """Run a command of `dbl` in a folder, on one thread, with no more memory than it begins with and `spare_bytes`."""
    return run_forked(_dbl, folder, arguments, spare_bytes, time_limit_s=time_limit_s)


def run_together(folder: Path, *commands: Sequence[str], time_limit_s: float = 300) -> list[Outcome]:
    """Run commands of `dbl` in a folder, all at once: they begin when each child has started."""
    barrier = _CONTEXT.Barrier(len(commands))
    children = [Child(_dbl_together, folder, barrier, tuple(command)) for command in commands]
    return [child.outcome(time_limit_s) for child in children]


def run_forked(function: Callable[..., int], folder: Path, *arguments: object, time_limit_s: float = 60) -> Outcome:
    """Run `function(*arguments)`, which returns an exit code, in a child in a folder."""
    return Child(function, folder, *arguments).outcome(time_limit_s)


class Child:
    """A process that runs `function(*arguments)`, which returns an exit code, in a folder."""

    def __init__(self, function: Callable[..., int], folder: Path, *arguments: object) -> None:
        name = f".{os.getpid()}.{next(_NUMBERS)}"
        self._logs = [folder / f"{name}.output", folder / f"{name}.errors"]
        self.process = _CONTEXT.Process(target=_child, args=(function, folder, arguments, self._logs))
        self.process.start()

    def outcome(self, time_limit_s: float) -> Outcome:
        """How it ended; it is killed when its time is over."""
        self.process.join(time_limit_s)
        code = self.process.exitcode
        if code is None:
            self.process.kill()
            self.process.join()
        texts = [log.read_text(errors="replace") if log.exists() else "" for log in self._logs]
        for log in self._logs:
            log.unlink(missing_ok=True)
        return Outcome(code, *texts)


def _child(function: Callable[..., int], folder: Path, arguments: tuple[object, ...], logs: list[Path]) -> None:
    for descriptor, log in zip((1, 2), logs, strict=True):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    os.chdir(folder)
    torch.set_num_threads(1)
    sys.exit(function(*arguments))


def _dbl(arguments: tuple[str, ...], spare_bytes: int | None = None) -> int:
    from dbl.commands.main import main

    if spare_bytes is not None:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + spare_bytes, used + spare_bytes))
    return main(list(arguments))


def _dbl_together(barrier: Barrier, arguments: tuple[str, ...]) -> int:
    barrier.wait(120)
    return _dbl(arguments)
