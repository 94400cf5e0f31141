"""Commands of `dbl`, each in a child forked from one process that has imported everything (some 10 ms each)."""

import multiprocessing
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "forked",
        *(f"dbl.commands.{name}" for name in ("main", "fit", "train", "compare", "plan", "assemble", "sample")),
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


def run_dbl(folder: Path, *arguments: str, time_limit_s: float = 60) -> Outcome:
    """Run a command of `dbl` in a folder, on one thread."""
    return run_forked(_dbl, folder, arguments, time_limit_s=time_limit_s)


def run_forked(function: Callable[..., int], folder: Path, *arguments: object, time_limit_s: float = 60) -> Outcome:
    """Run `function(*arguments)`, which returns an exit code, in a child in a folder."""
    logs = [folder / f".{os.getpid()}.{name}" for name in ("output", "errors")]
    child = _CONTEXT.Process(target=_child, args=(function, folder, arguments, logs))
    child.start()
    child.join(time_limit_s)
    code = child.exitcode
    if code is None:
        child.kill()
        child.join()
    texts = [log.read_text(errors="replace") if log.exists() else "" for log in logs]
    for log in logs:
        log.unlink(missing_ok=True)
    return Outcome(code, *texts)


def _child(function: Callable[..., int], folder: Path, arguments: tuple[object, ...], logs: list[Path]) -> None:
    for descriptor, log in zip((1, 2), logs, strict=True):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    os.chdir(folder)
    torch.set_num_threads(1)
    sys.exit(function(*arguments))


def _dbl(arguments: tuple[str, ...]) -> int:
    from dbl.commands.main import main

    return main(list(arguments))
