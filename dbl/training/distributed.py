"""One block on several devices: strategies, sharding, and agreement between processes (ranks).

| trainer.strategy | each device holds |
|---|---|
| `ddp` | the whole block |
| `fsdp2` | its share of weights, gradients, optimizer state and average; one gathered layer at a time |
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
from typing_extensions import override

from dbl.utils.errors import UserError


class ShardedStrategy(ModelParallelStrategy):
    """Fully sharded data parallelism (PyTorch's FSDP2) over all devices; `trainer.strategy=fsdp2`.

    A checkpoint is one file with full tensors, the same as without sharding.
    """

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    @override
    def setup_environment(self) -> None:
        # Lightning's "auto" is one shard per node.
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    @override
    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the full state. Raises UserError if it is empty, since it could not be restored."""
        if not optimizer.state:
            raise UserError(
                "trainer.strategy=fsdp2 cannot resume an optimizer without a state: give model.recipe.optimizer a "
                "momentum, or use ddp"
            )
        return super().optimizer_state(optimizer)

    @override
    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        # Lightning does not pass `weights_only` on to here, and without it the file could run code.
        return super().load_checkpoint(checkpoint_path, weights_only=True)

    @property
    def mesh(self) -> DeviceMesh:
        """Devices over which weights are sharded."""
        return self.device_mesh["data_parallel"]


StrategyRegistry.register("fsdp2", ShardedStrategy, description=(ShardedStrategy.__doc__ or "").splitlines()[0])

_DDP = tuple(name for name in StrategyRegistry.available_strategies() if name.startswith("ddp"))


def check_strategy(strategy: str | Strategy, training: bool = True) -> None:
    """Raise UserError unless training, or evaluation, supports this strategy of the trainer."""
    if isinstance(strategy, str):
        sharded, known = strategy == "fsdp2", strategy == "auto" or strategy in _DDP
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
    """Shard the parameters of a module in place. Raises UserError if a parameter is a scalar.

    Args:
        module: module to shard.
        layers: submodules that are gathered one at a time; all other parameters are gathered together.
        mesh: devices, along one axis.
        method: name of the module's method through which its parameters are used.
    """
    if isinstance(module, FSDPModule):
        return  # Lightning may call this twice
    for name, parameter in module.named_parameters():
        if parameter.dim() == 0:
            raise UserError(
                f"trainer.strategy=fsdp2 cannot split {name}, a single number: give it the shape [1], or use ddp"
            )
    for layer in layers:
        fully_shard(layer, mesh=mesh)
        if hasattr(layer, "memorise"):  # causal language models enter a layer by this method too
            register_fsdp_forward_method(layer, "memorise")
    # Unlike FSDP's default, reshard the root too: EMA averages shards between steps.
    fully_shard(module, mesh=mesh, reshard_after_forward=True)
    register_fsdp_forward_method(module, method)


def full_tensor(value: Tensor) -> Tensor:
    """Gather a sharded tensor; plain ones are returned as they are. Collective: every rank must call it."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def mean_over_ranks(values: Tensor) -> Tensor:
    """Mean of a tensor over ranks, in place. Collective: every rank must call it, and none waits for the others.

    Lightning's `Strategy.reduce` begins with a barrier, at which the host of each rank waits.
    """
    torch.distributed.all_reduce(values)
    return values.div_(torch.distributed.get_world_size())


def first_message(trainer: Trainer, text: str) -> str:
    """Return the first non-empty text of any rank. Collective: every rank must call it."""
    texts = [text]
    if trainer.world_size > 1:
        texts = [""] * trainer.world_size
        torch.distributed.all_gather_object(texts, text)
    return next(filter(None, texts), "")
