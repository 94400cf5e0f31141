"""The one checkpoint of a part: written at a step interval, at the end, and when a signal stops the training."""

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from dbl.errors import Interrupted, UserError
from dbl.training import TrainedPart


class LastCheckpoint(Checkpoint):
    """Keep `last.ckpt` up to date, always after a whole optimizer step.

    The file is written to a temporary name and renamed (Lightning's atomic save), so a kill leaves the one before. On
    SIGINT (Ctrl-C) or SIGTERM the running step is finished and saved, and `Interrupted` is raised; a second signal
    acts at once.

    Args:
        path: of the checkpoint.
        every_n_steps: optimizer steps between two checkpoints.
    """

    def __init__(self, path: str, every_n_steps: int = 100) -> None:
        if every_n_steps < 1:
            raise UserError(f"checkpoint.every_n_steps ({every_n_steps}) must be at least 1")
        self.path = Path(path)
        self.every_n_steps = every_n_steps
        self.last_saved: str | None = None
        self._signal: int | None = None
        self._saved_step = 0
        self._handlers: dict[int, Any] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Remember the checkpoint that is resumed."""
        if stage == "fit" and trainer.ckpt_path:
            self.last_saved = str(trainer.ckpt_path)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Listen to signals, in place of Lightning's handlers, which are in place by now."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._receive)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the signal handlers back."""
        self._restore_handlers()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Put the signal handlers back."""
        self._restore_handlers()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._signal = number
        self._restore_handlers()

    def _restore_handlers(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if it is time; stop if a signal came."""
        assert isinstance(pl_module, TrainedPart)
        if not pl_module.between_steps:
            return  # in the middle of an accumulation: its gradients would be lost
        step = trainer.global_step
        if step % self.every_n_steps == 0 or step >= trainer.max_steps or self._signal is not None:
            self._save(trainer)
        self._stop_if_asked(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save what another callback or `trainer.max_epochs` ends early, while the live weights are still in place."""
        assert isinstance(pl_module, TrainedPart)
        last_epoch = trainer.current_epoch + 1 == trainer.max_epochs
        if (trainer.should_stop or last_epoch) and pl_module.between_steps:
            self._save(trainer)
        self._stop_if_asked(trainer, pl_module)

    def _save(self, trainer: L.Trainer) -> None:
        step = trainer.global_step
        if step != self._saved_step:
            trainer.save_checkpoint(self.path, weights_only=False)
            self._saved_step = step
            self.last_saved = f"{self.path} (step {step})"

    def _stop_if_asked(self, trainer: L.Trainer, part: TrainedPart) -> None:
        if self._signal is not None:
            raise Interrupted(
                f"{part.part} stopped at step {trainer.global_step} of {trainer.max_steps} and was saved; "
                "the same command resumes it (without --from_scratch)"
            )
