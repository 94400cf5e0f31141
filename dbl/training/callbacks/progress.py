"""Progress: a bar of optimizer steps, a bar of the batches of an evaluation, and the training speed."""

import time
from collections.abc import Sequence
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm
from typing_extensions import override

from dbl.training.module import TrainingModule
from dbl.utils.progress import bar_options


class _Bar(ProgressBar):
    """A bar that Lightning turns off on all ranks but the first."""

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._bar: tqdm[Any] | None = None

    @override
    def enable(self) -> None:
        self._enabled = True

    @override
    def disable(self) -> None:
        self._enabled = False

    def _open(self, description: str, unit: str, total: int | None, **changes: Any) -> None:
        options = bar_options() | changes
        self._bar = tqdm(total=total, desc=description, unit=unit, disable=not self._enabled, **options)

    def _close(self, *_: Any, **__: Any) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    on_exception = _close  # so that the message starts on a new line


def has_progress_bar(callbacks: Sequence[L.Callback] | None) -> bool:
    """Whether the user's callbacks have a bar, which takes the place of ours: Lightning allows one."""
    return any(isinstance(callback, ProgressBar) for callback in callbacks or [])


class StepProgress(_Bar):
    """A progress bar of optimizer steps out of `trainer.max_steps`, with losses and speed.

    Lightning's own bars restart in every epoch, of which small data sets have many.
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the bar at the current step, which is not 0 after a resume."""
        part = str(getattr(pl_module, "part", "training"))
        self._open(part, "step", trainer.max_steps, initial=trainer.global_step, delay=0)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance the bar to the current step."""
        if self._bar is not None and trainer.global_step > self._bar.n:
            if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
                self._bar.set_postfix(self._metrics(trainer), refresh=False)
            self._bar.update(trainer.global_step - self._bar.n)

    def _metrics(self, trainer: L.Trainer) -> dict[str, str]:
        values = trainer.callback_metrics
        return {name: f"{float(values[name]):.4g}" for name in ("train/loss", "val/loss") if name in values}

    on_train_end = _Bar._close


class EvaluationProgress(_Bar):
    """A progress bar of the batches of a validation, test or prediction that is not part of a training.

    It closes before other callbacks measure at the end of the epoch, with bars of their own, if it stands before them.
    """

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the bar."""
        self._open_over(trainer.num_test_batches, "test")

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the bar."""
        self._open_over(trainer.num_val_batches, "validation")

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the bar."""
        self._open_over(trainer.num_predict_batches, "prediction")

    def _open_over(self, batches: list[int | float], description: str) -> None:
        total = sum(batches)
        self._open(description, "batch", int(total) if total != float("inf") else None)

    def _advance(self, *_: Any, **__: Any) -> None:
        if self._bar is not None:
            self._bar.update(1)

    on_test_batch_end = on_validation_batch_end = on_predict_batch_end = _advance
    on_test_epoch_end = on_validation_epoch_end = on_predict_epoch_end = _Bar._close


class Throughput(L.Callback):
    """Logs samples and optimizer steps per second of this process, averaged since the last log entry.

    It reads the clock without synchronizing with the device, which would cost speed; averaged over many steps the
    figure is still correct.
    """

    _start = 0.0  # a sanity check runs before the training starts

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._restart(trainer)

    def _restart(self, trainer: L.Trainer) -> None:
        self._samples, self._step, self._start = 0, trainer.global_step, time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count samples; log every `trainer.log_every_n_steps` steps."""
        assert isinstance(pl_module, TrainingModule)
        self._samples += len(outputs["per_sample"])
        steps = trainer.global_step - self._step
        if steps and trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            seconds = time.perf_counter() - self._start
            pl_module.log("train/samples_per_second", self._samples / seconds)
            pl_module.log("train/steps_per_second", steps / seconds)
            self._restart(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock."""
        self._paused = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restart the clock."""
        self._start += time.perf_counter() - self._paused
