"""A worker, run in its own process, that sends itself SIGKILL at a chosen step and place."""

import io
import os
import random
import signal
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dbl.commands.main import main
from dbl.training.block import DiffusionBlock

# Where it is killed: in a step, with half a checkpoint written, and before the whole checkpoint is renamed.
PLACES = ("step", "half a checkpoint", "checkpoint without its name")


class Kill(NamedTuple):
    """When and where a worker is killed.

    Args:
        batches: number of batches from its start on.
        place: one of `PLACES`.
    """

    batches: int
    place: str

    @classmethod
    def from_seed(cls, seed: int) -> "Kill":
        """A random step and place, by the seed."""
        draw = random.Random(seed)
        return cls(draw.randint(1, 5), draw.choice(PLACES))


def fit(folder: Path, arguments: list[str], kill: Kill | None) -> None:
    """Run `dbl fit` in a folder until it ends or is killed."""
    os.chdir(folder)
    torch.set_num_threads(1)
    if kill:
        _prepare(kill)
    raise SystemExit(main(["fit", *arguments]))


def _prepare(kill: Kill) -> None:
    seen = 0
    step, save, rename = DiffusionBlock.training_step, torch.save, Path.replace

    def counted_step(block: DiffusionBlock, *batch: Any) -> Any:
        nonlocal seen
        seen += 1
        result = step(block, *batch)
        if kill.place == "step" and seen >= kill.batches:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    def half_save(checkpoint: Any, file: Any) -> None:
        if kill.place == "half a checkpoint" and seen >= kill.batches:
            whole = io.BytesIO()
            save(checkpoint, whole)
            file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        save(checkpoint, file)

    def no_rename(path: Path, target: Any) -> Path:
        if kill.place == "checkpoint without its name" and seen >= kill.batches and Path(target).name == "last.ckpt":
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(path, target)

    DiffusionBlock.training_step = counted_step  # type: ignore[method-assign]
    torch.save = half_save
    Path.replace = no_rename  # type: ignore[method-assign]
