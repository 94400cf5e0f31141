"""Training progress of a part, in a file that other processes can watch."""

import math
import os
import socket
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import lightning as L
from torch import Tensor

from dbl.utils.errors import Interrupted
from dbl.utils.files import write_json

State = Literal["training", "done", "failed", "stopped"]

_EVERY_S = 1.0
_WINDOW = 30  # number of writes over which the speed is averaged


class Status(L.Callback):
    """Writes `status.json` at start and end, and at most once a second in between.

    Keys: `part`, `state` (training, done, failed or stopped), `step`, `max_steps`, `loss` (of the last batch, or null),
    `steps_per_second` (over the last half minute, or null), `seconds` (of this call), `updated` (Unix time), `pid`,
    `host`, `message` (one line that names the error, else null).

    Only the first rank writes, and only a write reads the loss from the device. A full disk does not stop the training.
    """

    def __init__(self, path: Path, part: str) -> None:
        self.path = path
        self.part = part
        self.step = 0
        self.max_steps = 0
        self.loss: float | None = None
        self._loss: Tensor | None = None  # of the last batch, not read from the device yet
        self._start = self._written = time.monotonic()
        self._window: deque[tuple[float, int]] = deque(maxlen=_WINDOW)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the first step."""
        self._start = time.monotonic()
        self._write_progress(trainer, "training")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write, at most once a second."""
        self._loss = outputs["loss"]
        if time.monotonic() - self._written >= _EVERY_S:
            self._write_progress(trainer, "training")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write whether all steps are done, since a time limit may have ended the training."""
        self._write_progress(trainer, "done" if trainer.global_step >= trainer.max_steps else "stopped")

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Write the last step and the error."""
        self.step, self.max_steps = trainer.global_step, trainer.max_steps
        if trainer.is_global_zero:
            self.record_failure(exception)

    def record_failure(self, error: BaseException) -> None:
        """Write that the training failed, or was stopped."""
        if isinstance(error, Interrupted | KeyboardInterrupt):
            self.write("stopped")
        else:
            self.write("failed", (str(error).strip() or type(error).__name__).splitlines()[0])

    def already_done(self, step: int, max_steps: int) -> None:
        """Write that all steps were done by an earlier call."""
        self.step, self.max_steps = step, max_steps
        self.write("done")

    def _write_progress(self, trainer: L.Trainer, state: State) -> None:
        if trainer.is_global_zero:
            self.step, self.max_steps = trainer.global_step, trainer.max_steps
            loss = math.nan if self._loss is None else float(self._loss)
            self.loss = loss if math.isfinite(loss) else None
            self.write(state)

    def write(self, state: State, message: str | None = None) -> None:
        """Write the file."""
        now = self._written = time.monotonic()
        self._window.append((now, self.step))
        status = {
            "part": self.part,
            "state": state,
            "step": self.step,
            "max_steps": self.max_steps,
            "loss": self.loss,
            "steps_per_second": self._speed(),
            "seconds": round(now - self._start, 1),
            "updated": time.time(),
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "message": message,
        }
        with suppress(OSError):
            write_json(self.path, status)

    def _speed(self) -> float | None:
        (first, step), (last, _) = self._window[0], self._window[-1]
        return (self.step - step) / (last - first) if last > first else None
