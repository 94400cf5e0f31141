"""An exponential moving average of the weights."""

from functools import partial
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.optim.swa_utils import AveragedModel

from dbl.training.distributed import ShardedStrategy
from dbl.training.module import TrainingModule
from dbl.utils.errors import UserError


class EMA(WeightAveraging):
    """Average the weights over optimizer steps; validation and the assembled network use the average.

    Checkpoints hold both: the average as `state_dict`, the live weights as `current_model_state`.

    Args:
        decay: weight of the past in each update, in [0, 1). In the first steps it is (1 + n) / (10 + n) after n
            updates if that is smaller, so that a short training does not remember its start. 0 turns averaging off.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise UserError(f"ema.decay ({decay}) must lie in [0, 1)")
        # Buffers are constants here; averaging would turn integer ones into nonsense.
        super().__init__(use_buffers=False, multi_avg_fn=partial(_update, decay))

    @property
    def average(self) -> nn.Module | None:
        """The averaged copy of the module, once a training has started."""
        return self._average_model

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Copy the module; the copy is split over the ranks as the module will be.

        Lightning's own method would split the module first, and shards cannot be copied.
        """
        if stage != "fit":
            return
        strategy = trainer.strategy
        device = None if isinstance(strategy, ShardedStrategy) else pl_module.device  # it may have no room for a copy
        self._average_model = AveragedModel(pl_module, device, use_buffers=False, **self._kwargs)
        if isinstance(strategy, ShardedStrategy):
            self._part.shard(strategy)

    @property
    def _part(self) -> TrainingModule:
        assert self._average_model is not None
        part = self._average_model.module
        assert isinstance(part, TrainingModule)
        return part

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Move the average to the device: it was made before the module was moved there."""
        assert self._average_model is not None
        self._average_model.to(pl_module.device)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store average and live weights, whole ones even if they are split over the ranks."""
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if isinstance(trainer.strategy, ShardedStrategy):
            options = StateDictOptions(full_state_dict=True, cpu_offload=True)
            checkpoint["state_dict"] = get_model_state_dict(self._part, options=options)

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take up average and live weights."""
        if not isinstance(trainer.strategy, ShardedStrategy):
            super().on_load_checkpoint(trainer, pl_module, checkpoint)
            return
        # The strategy has put the average into the module and taken it out of the checkpoint.
        assert self._average_model is not None
        for average, loaded in zip(self._part.parameters(), pl_module.parameters(), strict=True):
            average.data.copy_(loaded.data)
        self._average_model.n_averaged.copy_(checkpoint["averaging_state"]["n_averaged"])
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        set_model_state_dict(pl_module, checkpoint["current_model_state"], options=options)


@torch.no_grad()
def _update(decay: float, averages: list[Tensor], current: list[Tensor], num_updates: Tensor) -> None:
    n = float(num_updates)
    torch._foreach_lerp_(averages, current, 1 - min(decay, (1 + n) / (10 + n)))
