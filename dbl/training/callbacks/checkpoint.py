"""The checkpoint of a part: written at a step interval, at the end, and when a signal stops the training."""

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

from dbl.run.checkpoints import Checkpoints
from dbl.training.module import TrainingModule
from dbl.utils.errors import Interrupted, UserError
from dbl.utils.files import remove_unfinished, replacing


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it when it is on the disk.

    Lightning's own writes it into the system's temporary folder, from where it is copied, not renamed, to another disk;
    and it holds the whole file in memory. Under several processes only the first one writes.

    Args:
        before_replacing: called when the new file is whole, before it takes the place of the old one.
    """

    def __init__(self, before_replacing: Callable[[], None]) -> None:
        super().__init__()
        self._before_replacing = before_replacing

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write; OSError if that is impossible, and then nothing has changed."""
        with replacing(Path(path)) as temporary:
            try:
                with temporary.open("wb") as file:
                    torch.save(checkpoint, file)
                    file.flush()
                    os.fsync(file.fileno())
            except RuntimeError as error:  # torch's writer stumbles over what the file has raised
                raise error.__context__ if isinstance(error.__context__, OSError) else error from None
            self._before_replacing()


class LastCheckpoint(Checkpoint):
    """Keep `last.ckpt` up to date, always after a whole optimizer step, and the one before it as `previous.ckpt`.

    A file takes its place when it is whole, so a kill or a full disk leaves the one before. On SIGINT (Ctrl-C) or
    SIGTERM the running step is finished and saved, and `Interrupted` is raised; a second signal acts at once.

    Args:
        path: of the checkpoint.
        every_n_steps: optimizer steps between two checkpoints.

    Raises:
        UserError: if `every_n_steps` is too small, or a checkpoint cannot be written.
    """

    def __init__(self, path: str, every_n_steps: int = 100) -> None:
        if every_n_steps < 1:
            raise UserError(f"checkpoint.every_n_steps ({every_n_steps}) must be at least 1")
        self.path = Path(path)
        self.every_n_steps = every_n_steps
        self.last_saved: str | None = None
        self._signal: int | None = None
        self._saved_step = 0
        self._continued: Path | None = None  # the file whose training this one continues
        self._handlers: dict[int, Any] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """See to it that checkpoints are written whole."""
        if stage != "fit":
            return
        trainer.strategy.checkpoint_io = WholeCheckpointIO(self._keep_the_one_before)
        if trainer.is_global_zero:
            remove_unfinished(self.path)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remember what is resumed; listen to signals, in place of Lightning's handlers, which are in place by now."""
        if trainer.ckpt_path:
            self._saved_step = trainer.global_step
            self._continued = Path(trainer.ckpt_path).resolve()
            self.last_saved = f"{trainer.ckpt_path} (step {self._saved_step})"
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
        assert isinstance(pl_module, TrainingModule)
        if not pl_module.between_steps:
            return  # in the middle of an accumulation: its gradients would be lost
        step, asked = trainer.global_step, self._asked_to_stop(trainer)
        if step % self.every_n_steps == 0 or step >= trainer.max_steps or asked:
            self._save(trainer)
        if asked:
            raise _interruption(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save what another callback or `trainer.max_epochs` ends early, while the live weights are still in place."""
        assert isinstance(pl_module, TrainingModule)
        last_epoch = trainer.current_epoch + 1 == trainer.max_epochs
        if (trainer.should_stop or last_epoch) and pl_module.between_steps:
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
                f"{self.path} could not be written at step {step} ({error.strerror or error}); {saved}; fix that, "
                "e.g. free space on the disk, and the same command resumes (without --from-scratch)"
            ) from None
        self._saved_step = step
        self.last_saved = f"{self.path} (step {step})"

    def _keep_the_one_before(self) -> None:
        """Make room for a new file: the old one is kept, but for one that was found damaged when training resumed."""
        files = Checkpoints(self.path)
        if self._continued == files.last.resolve():
            files.keep_previous()
        elif self._continued != files.previous.resolve():
            files.set_aside()  # what lies there is of another training
        self._continued = files.last.resolve()

    def _asked_to_stop(self, trainer: L.Trainer) -> bool:
        """Whether a signal reached any rank: all stop at the same step, or the others would wait for it for ever."""
        return trainer.strategy.reduce_boolean_decision(self._signal is not None, all=False)


def _interruption(trainer: L.Trainer, part: TrainingModule) -> Interrupted:
    return Interrupted(
        f"{part.part} stopped at step {trainer.global_step} of {trainer.max_steps} and was saved; "
        "the same command resumes it (without --from-scratch)"
    )
