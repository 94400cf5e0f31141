"""Training loss by noise level, and the figure of the partition."""

from itertools import pairwise
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from dbl.diffusion.plot import partition_figure
from dbl.training.block import DiffusionBlock
from dbl.utils.checks import check_numbers, whole

# Batches whose losses are sorted into bins at once: a few operations for many steps.
_MAX_BATCHES = 100


class LossByLevel(L.Callback):
    """Logs the training loss in bins of a block's training interval.

    The bins are equally probable under the noise distribution, and the metric names give their ends. Losses include the
    weight.

    Args:
        num_bins: number of bins.
    """

    def __init__(self, num_bins: int = 4) -> None:
        self.num_bins = num_bins
        check_numbers("loss_by_level", self, num_bins=whole(1, 10_000))

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compute the bins."""
        if isinstance(pl_module, DiffusionBlock):
            q = torch.linspace(0, 1, self.num_bins + 1, dtype=torch.float64)
            edges = pl_module.contract.noise.quantile_within(pl_module.interval, q)
            self._inner = edges[1:-1].to(pl_module.device, torch.float32)
            self._names = [f"train/loss_at_{low:.3g}_to_{high:.3g}" for low, high in pairwise(edges.tolist())]
            self._clear(pl_module.device)

    def _clear(self, device: torch.device) -> None:
        # On the device, so that adding a batch does not wait for it.
        self._sums = torch.zeros(self.num_bins, device=device, dtype=torch.float32)
        self._counts = torch.zeros_like(self._sums)
        self._batches: list[tuple[Tensor, Tensor]] = []  # losses and levels that are not in the sums yet

    def _add_batches(self) -> None:
        losses, levels = (torch.cat(values) for values in zip(*self._batches, strict=True))
        bins = torch.bucketize(levels, self._inner)
        self._sums.scatter_add_(0, bins, losses)
        self._counts.scatter_add_(0, bins, torch.ones_like(losses))
        self._batches.clear()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add a batch; log and reset every `trainer.log_every_n_steps` steps."""
        if not isinstance(pl_module, DiffusionBlock):
            return
        self._batches.append((outputs["per_sample"].float(), outputs["sigma"]))
        logs = not pl_module.accumulating and trainer.global_step % trainer.log_every_n_steps == 0  # type: ignore[attr-defined]
        if logs or len(self._batches) == _MAX_BATCHES:
            self._add_batches()
        if logs:
            for name, total, count in zip(self._names, self._sums.tolist(), self._counts.tolist(), strict=True):
                if count:
                    pl_module.log(name, total / count)
            self._clear(pl_module.device)


class PartitionFigure(L.Callback):
    """Logs a figure of the noise distribution and the blocks' intervals when training starts."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw and log the figure."""
        if not isinstance(pl_module, DiffusionBlock):
            return
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                figure = partition_figure(pl_module.contract.noise, pl_module.contract.partition, pl_module.index)
                logger.experiment.add_figure("partition", figure, global_step=trainer.global_step)
