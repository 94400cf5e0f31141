"""An exponential moving average of the weights."""

from functools import partial

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn

from dbl.errors import UserError


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

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Move the average to the device: it was made before the module was moved there."""
        assert self._average_model is not None
        self._average_model.to(pl_module.device)


@torch.no_grad()
def _update(decay: float, averages: list[Tensor], current: list[Tensor], num_updates: Tensor) -> None:
    n = float(num_updates)
    torch._foreach_lerp_(averages, current, 1 - min(decay, (1 + n) / (10 + n)))
