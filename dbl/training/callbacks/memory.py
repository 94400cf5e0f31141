"""Measured memory of a training step by category."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from dbl.training.callbacks.ema import EMA
from dbl.training.distributed import ShardedStrategy
from dbl.training.event_log import event_writers
from dbl.training.memory.tracker import MemoryTracker
from dbl.training.module import TrainingModule
from dbl.utils.checks import check_numbers, whole
from dbl.utils.files import write_json
from dbl.utils.markdown import table


class Memory(L.Callback):
    """Measures the peak memory of one training step, forward to optimizer, and writes it to `memory.json`.

    Bytes by category are counted per tensor, in the same way on every device (see `MemoryTracker`); on CUDA the
    allocator's own peaks, allocated and reserved, are recorded too. Only the measured step is slower.

    Keys of `memory.json`: `step`, `device`, `batch_size`, `bytes` (category -> bytes at the peak; null if the network
    is compiled or sharded, which hides its internal tensors), `peak_bytes` (their sum), `cuda` (null, or
    `allocated_bytes` and `reserved_bytes`).

    Args:
        path: path of the file.
        step: number of the measured optimizer step of this call, counted from 1; at least 2, since the optimizer has
            no state before.
    """

    def __init__(self, path: str, step: int = 3) -> None:
        self.path = path
        self.step = step
        check_numbers("memory", self, step=whole(2, 10**9, remedy="the optimizer has no state before"))
        self._first_step = 0
        self._tracker: MemoryTracker | None = None
        self._active = ExitStack()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count steps from here, since a resumed training is measured again; remove the file of another training."""
        self._first_step = trainer.global_step
        if trainer.global_step == 0 and trainer.is_global_zero:
            Path(self.path).unlink(missing_ok=True)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin the measurement if this batch completes the requested step."""
        assert isinstance(pl_module, TrainingModule)
        ends_step = (pl_module.batches_seen + 1) % pl_module.recipe.accumulate == 0
        if not ends_step or trainer.global_step - self._first_step != self.step - 1:
            return
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
            torch.cuda.reset_peak_memory_stats(pl_module.device)
        self._tracker = MemoryTracker()
        if _sees_tensors(trainer, pl_module):
            self._tracker.watch(pl_module, trainer.optimizers[0], _average(trainer), batch)
            self._active.enter_context(self._tracker)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End the measurement and write the file."""
        assert isinstance(pl_module, TrainingModule)
        if self._tracker is None:
            return
        self._active.close()
        peak = self._tracker.peak if _sees_tensors(trainer, pl_module) else None
        self._tracker = None
        if trainer.is_global_zero:
            facts: dict[str, Any] = {
                "step": trainer.global_step,
                "device": pl_module.device.type,
                "batch_size": len(outputs["per_sample"]),
                "bytes": peak,
                "peak_bytes": None if peak is None else sum(peak.values()),
                "cuda": None,
            }
            if pl_module.device.type == "cuda":
                facts["cuda"] = {
                    "allocated_bytes": torch.cuda.max_memory_allocated(pl_module.device),
                    "reserved_bytes": torch.cuda.max_memory_reserved(pl_module.device),
                }
            write_json(Path(self.path), facts)
            _log(trainer, peak or {})

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Deactivate the dispatch mode."""
        self._active.close()
        self._tracker = None


def _log(trainer: L.Trainer, peak: dict[str, int]) -> None:
    """Write a table: a measurement is not a curve."""
    if not peak:
        return
    rows = [(name, f"{size:,}") for name, size in [*peak.items(), ("sum", sum(peak.values()))]]
    for writer in event_writers(trainer):
        text = table(["at the peak of a training step", "bytes"], rows)
        writer.add_text("train/memory", text, trainer.global_step)


def _sees_tensors(trainer: L.Trainer, part: TrainingModule) -> bool:
    return not (part.recipe.compile or isinstance(trainer.strategy, ShardedStrategy))


def _average(trainer: L.Trainer) -> list[Tensor]:
    averages = [callback.average for callback in trainer.callbacks if isinstance(callback, EMA)]  # type: ignore[attr-defined]
    return [tensor for module in averages if module for tensor in (*module.parameters(), *module.buffers())]
