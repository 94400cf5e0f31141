"""One block on several devices: how its weights are split over them, and what their processes (ranks) agree on.

| trainer.strategy | each device holds |
|---|---|
| `ddp` | the whole block |
| `fsdp2` | its share of weights, gradients, optimizer state and average; of the rest one layer at a time |
"""

from collections.abc import Iterable
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import (
    DDPStrategy,
    ModelParallelStrategy,
    SingleDeviceStrategy,
    Strategy,
    StrategyRegistry,
)
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from dbl.utils.errors import UserError


class ShardedStrategy(ModelParallelStrategy):
    """Fully sharded data parallelism (PyTorch's FSDP2) over all devices; `trainer.strategy=fsdp2`.

    Checkpoints are whole: one file, the same as without sharding.
    """

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        """Spread the data over all processes of all nodes."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The whole state.

        Raises:
            UserError: if there is none, which could not be taken up again.
        """
        if not optimizer.state:
            raise UserError(
                "trainer.strategy=fsdp2 cannot resume an optimizer without a state: give model.recipe.optimizer a "
                "momentum, or use ddp"
            )
        return super().optimizer_state(optimizer)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read without running code that the file might hold; Lightning does not pass `weights_only` on to here."""
        return super().load_checkpoint(checkpoint_path, weights_only=True)

    @property
    def mesh(self) -> DeviceMesh:
        """The devices over which weights are split."""
        return self.device_mesh["data_parallel"]


StrategyRegistry.register("fsdp2", ShardedStrategy, description=(ShardedStrategy.__doc__ or "").splitlines()[0])


def check_strategy(strategy: str | Strategy, training: bool = True) -> None:
    """Raise UserError unless a part can be trained, or evaluated, with this strategy of the trainer."""
    if isinstance(strategy, str):
        sharded, known = strategy == "fsdp2", strategy == "auto" or strategy.startswith("ddp")
    else:
        sharded = isinstance(strategy, ShardedStrategy)
        known = isinstance(strategy, SingleDeviceStrategy | DDPStrategy)
    name = strategy if isinstance(strategy, str) else type(strategy).__name__
    if not training and sharded:
        raise UserError(f"trainer.strategy={name} is for training only: evaluate with auto or ddp")
    if not sharded and not known:
        raise UserError(
            f"trainer.strategy={name} is not supported: use ddp, or fsdp2 for a block that is larger than a device"
        )


def shard(module: nn.Module, layers: Iterable[nn.Module], mesh: DeviceMesh, method: str) -> None:
    """Split the parameters of a module over the devices of a mesh.

    Args:
        module: whose parameters become shards, in place.
        layers: parts of it that are gathered one at a time; what is in none of them is gathered together.
        mesh: of one axis.
        method: of the module, the only way by which its parameters are used from outside.

    Raises:
        UserError: if a parameter has no axis to split.
    """
    if isinstance(module, FSDPModule):
        return  # Lightning may ask twice
    for name, parameter in module.named_parameters():
        if parameter.dim() == 0:
            raise UserError(
                f"trainer.strategy=fsdp2 cannot split {name}, a single number: give it the shape [1], or use ddp"
            )
    for layer in layers:
        fully_shard(layer, mesh=mesh)
        if hasattr(layer, "memorise"):  # the other way into a layer of a causal language model
            register_fsdp_forward_method(layer, "memorise")
    # Its own parameters, too, are shards outside of `method`: the average is made of shards.
    fully_shard(module, mesh=mesh, reshard_after_forward=True)
    register_fsdp_forward_method(module, method)


def whole(value: Tensor) -> Tensor:
    """A tensor that is split over the ranks as a plain one; every rank must ask."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def first_said(trainer: Trainer, text: str) -> str:
    """What the first rank with anything to say says; every rank must ask."""
    texts = [text]
    if trainer.world_size > 1:
        texts = [""] * trainer.world_size
        torch.distributed.all_gather_object(texts, text)
    return next(filter(None, texts), "")
