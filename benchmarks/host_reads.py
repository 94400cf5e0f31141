"""How often the host reads a number in a training step: on a device it would wait there each time."""

from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dbl.utils.files import write_json


class Reads(TorchDispatchMode):
    """Counts the operations with which the host reads a number."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and count it if it reads."""
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


class ReadsInSteps(L.Callback):
    """Counts in some steps, each from the end of a batch to the end of the next; to be the last callback.

    Args:
        after_step: optimizer step at whose end the counting begins.
        num_steps: number of steps in which it counts.
        output: JSON file for the smallest count of a step, `reads`: in some the clock makes the status be written.
    """

    def __init__(self, after_step: int = 5, num_steps: int = 1, output: Path | None = None) -> None:
        self.after_step = after_step
        self.num_steps = num_steps
        self.output = output
        self.counts: list[int] = []
        self._reads: Reads | None = None

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Note the count of the step that ends, and begin that of the next."""
        if self._reads is not None:
            self._reads.__exit__(None, None, None)
            self.counts.append(self._reads.count)
            self._reads = None
        if self.after_step <= trainer.global_step < self.after_step + self.num_steps:
            self._reads = Reads()
            self._reads.__enter__()
        elif self.counts and self.output is not None:
            write_json(self.output, {"reads": min(self.counts)})
