"""One progress bar for the whole training of a part."""

import sys
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm

from dbl.training.module import TrainingModule


class StepProgress(ProgressBar):
    """Optimizer steps out of `trainer.max_steps`, with losses and speed.

    Lightning's own bars start again in every epoch, which small data sets have many of.
    """

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._bar: tqdm[Any] | None = None

    def enable(self) -> None:
        """Show the bar."""
        self._enabled = True

    def disable(self) -> None:
        """Show nothing (Lightning calls this on all ranks but the first)."""
        self._enabled = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the bar at the step that is resumed."""
        self._bar = tqdm(
            total=trainer.max_steps,
            initial=trainer.global_step,
            desc=str(getattr(pl_module, "part", "training")),
            unit="step",
            # A log file gets a line every ten seconds, a terminal a bar that moves.
            mininterval=0.2 if sys.stderr.isatty() else 10,
            dynamic_ncols=True,
            disable=not self._enabled,
        )

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar to the present step."""
        if self._bar is not None and trainer.global_step > self._bar.n:
            if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
                self._bar.set_postfix(self._metrics(trainer), refresh=False)
            self._bar.update(trainer.global_step - self._bar.n)

    def _metrics(self, trainer: L.Trainer) -> dict[str, str]:
        values = trainer.progress_bar_metrics
        return {name: f"{float(values[name]):.4g}" for name in ("train/loss", "val/loss") if name in values}

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Close the bar, so that the message stands on a line of its own."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class Throughput(L.Callback):
    """Log samples and optimizer steps per second of this process, averaged since the last log line.

    It reads the clock without waiting for the device, so it costs no speed; the average over many steps is still right.
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._restart(trainer)

    def _restart(self, trainer: L.Trainer) -> None:
        self._samples, self._step, self._time = 0, trainer.global_step, time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count; log every `trainer.log_every_n_steps` steps."""
        assert isinstance(pl_module, TrainingModule)
        self._samples += len(outputs["per_sample"])
        steps = trainer.global_step - self._step
        if steps and trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            seconds = time.perf_counter() - self._time
            pl_module.log("train/samples_per_second", self._samples / seconds)
            pl_module.log("train/steps_per_second", steps / seconds)
            self._restart(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave validation out of the time."""
        if trainer.training:
            self._restart(trainer)
