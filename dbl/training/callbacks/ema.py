"""Exponential moving average (EMA) of the weights."""

from collections.abc import Iterable
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.optim.swa_utils import AveragedModel
from typing_extensions import override

from dbl.training.distributed import ShardedStrategy
from dbl.training.module import TrainingModule
from dbl.utils.checks import check_number


class EMA(WeightAveraging):
    """Averages the weights over optimizer steps; validation and the assembled model use the average.

    Checkpoints hold both: the average as `state_dict`, the live weights as `current_model_state`.

    Args:
        decay: weight of the old average in each update, in [0, 1). After n updates it is at most (1 + n) / (10 + n), so
            that a short training forgets its start. 0 disables averaging.
    """

    def __init__(self, decay: float = 0.999) -> None:
        check_number("ema.decay", decay, at_least=0, below=1)
        super().__init__(use_buffers=False)
        self.decay = decay

    @property
    def average(self) -> nn.Module | None:
        """Averaged copy of the module; None before training starts."""
        return self._average_model

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Copy the module, and shard the copy as the module will be.

        Lightning's own method shards the module first, and shards cannot be copied.
        """
        if stage != "fit":
            return
        strategy = trainer.strategy
        device = None if isinstance(strategy, ShardedStrategy) else pl_module.device  # a device may not fit a full copy
        self._average_model = _Average(self.decay, pl_module, device)
        if isinstance(strategy, ShardedStrategy):
            self._part.shard(strategy)

    @property
    def _part(self) -> TrainingModule:
        assert self._average_model is not None
        part = self._average_model.module
        assert isinstance(part, TrainingModule)
        return part

    def hand_down(self, part: TrainingModule) -> None:
        """Replace the live weights by the average, and begin a new one."""
        assert isinstance(self._average_model, _Average)
        self._copy_average_to_current(part)
        self._average_model.begin()

    def average_only(self, trained: Iterable[nn.Parameter], part: TrainingModule) -> None:
        """Average some parameters alone; all others, which equal their average, share their memory with it."""
        assert isinstance(self._average_model, _Average)
        self._average_model.average_only({id(parameter) for parameter in trained}, part)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Move the average to the device, since the module was copied before it was moved there."""
        assert self._average_model is not None
        assert isinstance(pl_module, TrainingModule)
        if pl_module.lora is not None and not isinstance(trainer.strategy, ShardedStrategy):
            self.average_only((parameter for parameter in pl_module.parameters() if parameter.requires_grad), pl_module)
        self._average_model.to(pl_module.device)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store average and live weights as full tensors, even if they are sharded."""
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if isinstance(trainer.strategy, ShardedStrategy):
            options = StateDictOptions(full_state_dict=True, cpu_offload=True)
            checkpoint["state_dict"] = get_model_state_dict(self._part, options=options)

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Restore average and live weights."""
        if not isinstance(trainer.strategy, ShardedStrategy):
            super().on_load_checkpoint(trainer, pl_module, checkpoint)
            return
        # The strategy has already moved the average from the checkpoint into the module.
        assert self._average_model is not None
        for average, loaded in zip(self._part.parameters(), pl_module.parameters(), strict=True):
            average.data.copy_(loaded.data)
        self._average_model.n_averaged.copy_(checkpoint["averaging_state"]["n_averaged"])
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        set_model_state_dict(pl_module, checkpoint["current_model_state"], options=options)


class _Average(AveragedModel):
    """The average of the parameters; buffers are constants here.

    torch's own `update_parameters` reads the number of updates from the device three times in each of them.

    Args:
        decay: as in `EMA`.
        model: module to average.
        device: device of the average; None: that of the module.
    """

    def __init__(self, decay: float, model: nn.Module, device: torch.device | None) -> None:
        super().__init__(model, device, use_buffers=False)
        self._decay = decay
        self._num_updates: int | None = None
        self._pairs: tuple[list[Tensor], list[Tensor]] = ([], [])
        self._shared: set[int] = set()  # numbers of the parameters whose memory is the model's

    def begin(self) -> None:
        """Forget all updates: the next one copies."""
        self.n_averaged.zero_()
        self._num_updates = None

    def average_only(self, trained: set[int], model: nn.Module) -> None:
        """Share the memory of all parameters but those with these ids."""
        for number, (average, live) in enumerate(zip(self.module.parameters(), model.parameters(), strict=True)):
            if id(live) not in trained:
                average.data = live.detach()
                self._shared.add(number)
            elif number in self._shared:
                average.data = live.detach().clone()
                self._shared.remove(number)
        self._num_updates = None

    def _apart(self, model: nn.Module) -> list[Tensor]:
        return [parameter for number, parameter in enumerate(model.parameters()) if number not in self._shared]

    @override
    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        if self._num_updates is None:  # of this process
            self._num_updates = int(self.n_averaged)  # 0, or that of the checkpoint from which the training resumed
            # Kept: walking through the modules takes longer than the update. Their tensors change in place only.
            self._pairs = self._apart(self.module), self._apart(model)
        n = self._num_updates
        # The first update copies: a lerp by 1 is exact, and unlike a copy it works on shards.
        weight = 1 - min(self._decay, (1 + n) / (10 + n)) if n else 1.0
        # One kernel for all tensors; a loop over them would launch hundreds.
        torch._foreach_lerp_(*self._pairs, weight)
        self.n_averaged += 1
        self._num_updates += 1
