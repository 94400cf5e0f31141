"""A worker that is killed: run in a process of its own, it sends itself SIGKILL at a chosen step and place."""

import io
import os
import random
import signal
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dbl.commands.main import main
from dbl.training.block import DiffusionBlock

# Where the blow falls: in the step, after half a checkpoint, and before the whole checkpoint gets its name.
PLACES = ("step", "half a checkpoint", "checkpoint without its name")


class Blow(NamedTuple):
    """When and where a worker is killed.

    Args:
        batches: that it gets from its start on.
        place: one of `PLACES`.
    """

    batches: int
    place: str

    @classmethod
    def from_seed(cls, seed: int) -> "Blow":
        """The blow of a seed."""
        draw = random.Random(seed)
        return cls(draw.randint(1, 5), draw.choice(PLACES))


def fit(folder: Path, arguments: list[str], blow: Blow | None) -> None:
    """Run `dbl fit` in a folder until it ends or the blow falls."""
    os.chdir(folder)
    torch.set_num_threads(1)
    if blow:
        _prepare(blow)
    raise SystemExit(main(["fit", *arguments]))


def _prepare(blow: Blow) -> None:
    seen = 0
    step, save, rename = DiffusionBlock.training_step, torch.save, Path.replace

    def counted_step(block: DiffusionBlock, *batch: Any) -> Any:
        nonlocal seen
        seen += 1
        result = step(block, *batch)
        if blow.place == "step" and seen >= blow.batches:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    def half_save(checkpoint: Any, file: Any) -> None:
        if blow.place == "half a checkpoint" and seen >= blow.batches:
            whole = io.BytesIO()
            save(checkpoint, whole)
            file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        save(checkpoint, file)

    def no_rename(path: Path, target: Any) -> Path:
        if blow.place == "checkpoint without its name" and seen >= blow.batches and Path(target).name == "last.ckpt":
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(path, target)

    DiffusionBlock.training_step = counted_step  # type: ignore[method-assign]
    torch.save = half_save
    Path.replace = no_rename  # type: ignore[method-assign]
