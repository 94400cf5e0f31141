"""Networks in low precision: parameters are converted, and everything around a network stays in float32.

Frequencies, positions, tables and the scale of the data are buffers, whose values low precision would spoil.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from dbl.utils.errors import UserError

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def parameters_alone(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A function as `nn.Module._apply` takes it: what it does to types, it does to parameters alone."""

    def applied(tensor: Tensor) -> Tensor:
        found = function(tensor)
        if isinstance(tensor, nn.Parameter) or found.dtype == tensor.dtype:
            return found
        return tensor.to(found.device)

    return applied


def type_after(function: Callable[[Tensor], Tensor], dtype: torch.dtype) -> torch.dtype:
    """The type that such a function gives to parameters of a type.

    Raises UserError unless it is float32, bfloat16 or float16.
    """
    found = function(nn.Parameter(torch.empty(0, dtype=dtype), requires_grad=False)).dtype
    if found not in DTYPES:
        raise UserError(f"a stack cannot be {str(found).removeprefix('torch.')}: choose float32, bfloat16 or float16")
    return found


def computing_in(dtype: torch.dtype, device: torch.device) -> AbstractContextManager[object]:
    """The context in which networks with parameters of a type are called with float32 inputs."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)
