"""Checkpoints of a part, written every few steps, at the end, and when a signal stops the training."""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from typing_extensions import override

from dbl.run.checkpoints import Checkpoints
from dbl.training.module import TrainingModule
from dbl.utils.checks import check_numbers, whole
from dbl.utils.errors import Interrupted, UserError
from dbl.utils.files import remove_unfinished, replacing


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint to a temporary file beside it, syncs it to disk and renames it.

    Lightning's own is not atomic across disks, since it goes through the system's temporary folder, and it buffers the
    whole file in memory. With several processes only the first one writes.

    Args:
        before_replacing: function called when the new file is complete, before it replaces the old one.
    """

    def __init__(self, before_replacing: Callable[[], None]) -> None:
        super().__init__()
        self._before_replacing = before_replacing

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write the file. Raises OSError, with the old file unchanged, if that fails."""
        with replacing(Path(path)) as temporary:
            try:
                with temporary.open("wb") as file:
                    torch.save(checkpoint, file)
                    file.flush()
                    os.fsync(file.fileno())
            except RuntimeError as error:  # torch hides the file's OSError behind its own
                raise error.__context__ if isinstance(error.__context__, OSError) else error from None
            self._before_replacing()


class LastCheckpoint(Checkpoint):
    """Saves `last.ckpt` after whole optimizer steps, and keeps the one before as `previous.ckpt`.

    A complete file replaces the old one atomically, so a kill or a full disk leaves the old one intact. On SIGINT
    (Ctrl-C) or SIGTERM the current step is finished and saved, with several ranks the one after it, and `Interrupted`
    is raised; a second signal acts at once. Raises UserError if a checkpoint cannot be written.

    Args:
        path: path of the checkpoint.
        every_n_steps: number of optimizer steps between two checkpoints.
    """

    def __init__(self, path: str, every_n_steps: int = 100) -> None:
        self.path = Path(path)
        self.every_n_steps = every_n_steps
        check_numbers("checkpoint", self, every_n_steps=whole(1, 10**9))
        self.last_saved: str | None = None
        self._signal: int | None = None
        self._saved_step = 0
        self._continued: Path | None = None  # checkpoint that this training resumed from or wrote last
        self._handlers: dict[int, Any] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Install the atomic writer and remove leftovers of killed processes."""
        if stage != "fit":
            return
        trainer.strategy.checkpoint_io = AtomicCheckpointIO(self._keep_previous)
        if trainer.is_global_zero:
            remove_unfinished(self.path.parent, alone=True)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Record what is resumed, and replace Lightning's signal handlers, which are installed by now."""
        if trainer.ckpt_path:
            self._saved_step = trainer.global_step
            self._continued = Path(trainer.ckpt_path).resolve()
            self.last_saved = f"{trainer.ckpt_path} (step {self._saved_step})"
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._receive)

            # For its own handlers Lightning exchanges a number at each step, and every rank waits for it.
            trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _nothing  # type: ignore[method-assign]

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Tell the part of a signal, which it tells the other ranks with its loss."""
        assert isinstance(pl_module, TrainingModule)
        pl_module.stop_asked = self._signal is not None

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restore the signal handlers."""
        self._restore_handlers()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Restore the signal handlers."""
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
        """Save every `every_n_steps` steps and at the end; stop if a signal came."""
        assert isinstance(pl_module, TrainingModule)
        if pl_module.accumulating:
            return  # a checkpoint would lose the accumulated gradients
        # All must stop at the same step, or the others would hang.
        asked = self._signal is not None if trainer.world_size == 1 else pl_module.stop_agreed
        step = trainer.global_step
        if step % self.every_n_steps == 0 or step >= trainer.max_steps or asked:
            self._save(trainer)
        if asked:
            raise _interruption(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save if another callback or `trainer.max_epochs` ends the training early, while live weights are in place."""
        assert isinstance(pl_module, TrainingModule)
        last_epoch = trainer.current_epoch + 1 == trainer.max_epochs
        if (trainer.should_stop or last_epoch) and not pl_module.accumulating:
            self._save(trainer)
        if self._asked_to_stop(trainer):
            raise _interruption(trainer, pl_module)

    def _save(self, trainer: L.Trainer) -> None:
        step = trainer.global_step
        if step == self._saved_step:
            return
        try:
            trainer.save_checkpoint(self.path, weights_only=False)
        except OSError as error:
            saved = f"step {self._saved_step} is still saved" if self._saved_step else "nothing is saved yet"
            raise UserError(
                f"{self.path} could not be written at step {step} ({error.strerror or error}); {saved}: fix that, "
                "e.g. free space; the same command resumes"
            ) from None
        self._saved_step = step
        self.last_saved = f"{self.path} (step {step})"

    def _keep_previous(self) -> None:
        """Keep the old file as the previous one, unless it belongs to another training or is damaged."""
        files = Checkpoints(self.path)
        if self._continued == files.last.resolve():
            files.keep_previous()
        elif self._continued != files.previous.resolve():
            files.set_aside()  # of another training; a damaged last.ckpt beside a resumed previous.ckpt is overwritten
        self._continued = files.last.resolve()

    def _asked_to_stop(self, trainer: L.Trainer) -> bool:
        """Whether a signal reached any rank. Collective: every rank must call it."""
        return trainer.strategy.reduce_boolean_decision(self._signal is not None, all=False)


def _nothing() -> None:
    """Do nothing."""


def _interruption(trainer: L.Trainer, part: TrainingModule) -> Interrupted:
    return Interrupted(
        f"{part.part} stopped at step {trainer.global_step} of {trainer.max_steps} and was saved; "
        "the same command resumes it (without --from_scratch)"
    )
