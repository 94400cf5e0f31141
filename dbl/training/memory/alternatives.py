"""Parts of a run as other ways to save memory would train them, for planning alone: LoRA, and memory of the host."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.optim import AdamW, Optimizer
from typing_extensions import override

from dbl.networks.adapters import LoRA
from dbl.training.config import TrainingConfig
from dbl.training.module import Losses, TrainingModule

MakePart = Callable[[], TrainingModule]
MakeFromRecipe = Callable[[TrainingConfig], MakePart]

# Parameters below this many numbers stay on the device: torchao's default.
_LEAST_OFFLOADED = 4096


def with_lora(recipe: TrainingConfig, make: MakeFromRecipe) -> MakePart:
    """A part whose adapters alone are trained: those of the recipe, or `LoRA()`."""
    make_part, lora = make(replace(recipe, lora=None)), recipe.lora or LoRA()

    def made() -> TrainingModule:
        part = make_part()
        part.adapt(lora)
        return part

    return made


def with_offloaded_activations(recipe: TrainingConfig, make: MakeFromRecipe) -> MakePart:
    """A part whose forward pass keeps nothing on the device, as in `torch.autograd.graph.save_on_cpu`."""
    make_part = make(recipe)

    def made() -> TrainingModule:
        part = make_part()
        losses = part.losses

        def offloaded(batch: Any) -> Losses:
            with _OnHost() as host:
                found = losses(batch)
            part.host_bytes = host.bytes  # type: ignore[assignment]
            return found

        part.losses = offloaded  # type: ignore[method-assign]
        return part

    return made


class _OnHost(AbstractContextManager["_OnHost"]):
    """Keeps shapes in place of what is saved for the backward pass, and gives new tensors back when it needs them."""

    def __init__(self) -> None:
        self.bytes = 0
        self._hooks = saved_tensors_hooks(self._pack, self._unpack)

    def _pack(self, tensor: Tensor) -> tuple[torch.Size, torch.dtype, torch.device]:
        self.bytes += tensor.numel() * tensor.element_size()
        return tensor.shape, tensor.dtype, tensor.device

    @staticmethod
    def _unpack(packed: tuple[torch.Size, torch.dtype, torch.device]) -> Tensor:
        shape, dtype, device = packed
        return torch.empty(shape, dtype=dtype, device=device)

    def __enter__(self) -> "_OnHost":
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._hooks.__exit__(*error)


def with_offloaded_optimizer(recipe: TrainingConfig, make: MakeFromRecipe) -> MakePart:
    """A part trained by AdamW in the memory of the host, as torchao's `CPUOffloadOptimizer` does."""
    return make(replace(recipe, optimizer=_OffloadedAdamW))


class _OffloadedAdamW(Optimizer):
    """What `CPUOffloadOptimizer` keeps where: on the device only small parameters have moments.

    The host has a copy, a gradient and both moments of each other parameter. Gradients also stay on the device until
    the step, since their norm is clipped there.
    """

    def __init__(self, params: Iterable[dict[str, Any]]) -> None:
        super().__init__(params, {"weight_decay": 0.0})
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        small = [parameter for parameter in parameters if parameter.numel() < _LEAST_OFFLOADED]
        self._on_device = AdamW(small) if small else None
        self.host_bytes = sum(4 * _bytes(parameter) for parameter in parameters) - sum(4 * _bytes(one) for one in small)

    @override
    def step(self, closure: Any = None) -> Any:
        """Update the small parameters."""
        if self._on_device:
            self._on_device.step()
            self.state = self._on_device.state


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


# Rivals of `dbl.training.recipes` that need more than another recipe.
ALTERNATIVES: dict[str, Callable[[TrainingConfig, MakeFromRecipe], MakePart]] = {
    "lora": with_lora,
    "offload_activations": with_offloaded_activations,
    "offload_optimizer": with_offloaded_optimizer,
}
# Those of them that use the memory of the host.
OFFLOADING = ("offload_activations", "offload_optimizer")
