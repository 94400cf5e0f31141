"""Speed of training."""

import time
from typing import Any

import lightning as L

from dbl.training import TrainedPart


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
        assert isinstance(pl_module, TrainedPart)
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
