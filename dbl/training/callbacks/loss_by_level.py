"""Training loss by noise level."""

from itertools import pairwise
from typing import Any

import lightning as L
import torch
from torch import Tensor

from dbl.training.block import DiffusionBlock
from dbl.training.event_log import event_writers
from dbl.utils.checks import check_numbers, whole
from dbl.utils.markdown import table

# Batches whose losses are sorted into bins at once: a few operations for many steps.
_MAX_BATCHES = 100


class LossByLevel(L.Callback):
    """Logs the training loss in bins of a block's training interval.

    The bins are equally probable under the noise distribution. `train/loss_by_level/bin_0` has the highest noise, as
    block 0 has: no level is in the name, so that runs that are cut elsewhere share their charts. The ends of the bins
    are in the text `train/loss_by_level` of the log. Losses include the weight.

    Args:
        num_bins: number of bins.

    Attributes:
        edges: [num_bins + 1] ends of the bins, decreasing; empty before a training.
    """

    def __init__(self, num_bins: int = 4) -> None:
        self.num_bins = num_bins
        check_numbers("loss_by_level", self, num_bins=whole(1, 10_000))
        self.edges: list[float] = []

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compute the bins."""
        if isinstance(pl_module, DiffusionBlock):
            q = torch.linspace(0, 1, self.num_bins + 1, dtype=torch.float64)
            edges = pl_module.contract.noise.quantile_within(pl_module.interval, q)
            self.edges = edges.flip(0).tolist()
            self._inner = edges[1:-1].to(pl_module.device, torch.float32)  # increasing, for `bucketize`
            self._clear(pl_module.device)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the ends of the bins, once."""
        if trainer.global_step == 0 and isinstance(pl_module, DiffusionBlock):
            ends = (f"{level:.4g}" for level in self.edges)
            rows = [(number, *pair) for number, pair in enumerate(pairwise(ends))]
            for writer in event_writers(trainer):
                writer.add_text("train/loss_by_level", table(["bin", "from level", "to level"], rows))

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
            bins = zip(reversed(self._sums.tolist()), reversed(self._counts.tolist()), strict=True)
            for number, (total, count) in enumerate(bins):
                if count:
                    pl_module.log(f"train/loss_by_level/bin_{number}", total / count)
            self._clear(pl_module.device)
