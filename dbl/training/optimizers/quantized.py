"""AdamW with moments in 8 or 4 bits, of torchao (arXiv 2110.02861 and 2309.01507)."""

import os
from collections.abc import Callable, Iterable
from functools import cache
from shutil import which
from typing import Any

import torch
import torchao.optim
import torchao.optim.adam
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode, is_traceable_wrapper_subclass
from typing_extensions import override

from dbl.training.memory.tracker import uncounted

_MOMENTS = ("exp_avg", "exp_avg_sq")


class _Quantized(torchao.optim.adam._AdamBase):
    """What torchao's optimizers lack here: a step whose memory can be counted, and a state of plain tensors."""

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        # With types, which torchao's own arguments lack and a config needs.
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    @override
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient.

        torchao compiles its step. Not so where memory is counted, which a compiled step does not allow; what it makes
        inside is left out, as it is of any compiled code. Nor on a CPU without a C++ compiler.
        """
        if not is_in_torch_dispatch_mode() and (_has_compiler() or not self._is_on_cpu()):
            return super().step(closure)
        with torch.compiler.set_stance("force_eager"), uncounted():
            return super().step(closure)

    def _is_on_cpu(self) -> bool:
        return any(p.device.type == "cpu" for group in self.param_groups for p in group["params"])

    @override
    def state_dict(self) -> dict[str, Any]:
        """The state with the codes and scales of each moment in a dict: torch reads no others without running code."""
        plain: dict[str, Any] = super().state_dict()
        states = {
            index: {key: _plain(value) for key, value in state.items()} for index, state in plain["state"].items()
        }
        return {**plain, "state": states}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a state that `state_dict` gave."""
        states = state_dict["state"]
        rest = {index: {k: v for k, v in state.items() if not isinstance(v, dict)} for index, state in states.items()}
        super().load_state_dict({**state_dict, "state": rest})
        groups = zip(self.param_groups, state_dict["param_groups"], strict=True)
        for group, stored in groups:
            for parameter, index in zip(group["params"], stored["params"], strict=True):
                for key in _MOMENTS:
                    if isinstance(states.get(index, {}).get(key), dict):
                        moment = self._new_buffer(parameter, key == "exp_avg")
                        _fill(moment, states[index][key])
                        self.state[parameter][key] = moment


@cache
def _has_compiler() -> bool:
    return any(which(name) for name in (os.environ.get("CXX", ""), "g++", "clang++"))


def _plain(value: Any) -> Any:
    if not isinstance(value, Tensor) or not is_traceable_wrapper_subclass(value):
        return value
    names, _ = value.__tensor_flatten__()
    return {name: getattr(value, name) for name in names}


def _fill(moment: Tensor, parts: dict[str, Tensor]) -> None:
    for name, part in parts.items():
        getattr(moment, name).copy_(part)


class AdamW8bit(_Quantized, torchao.optim.AdamW8bit):
    """8 bits for each number of the moments; arguments as in torchao. Parameters below 4,096 numbers keep 32 bits."""


class AdamW4bit(_Quantized, torchao.optim.AdamW4bit):
    """4 bits for each number of the moments; arguments as in torchao. Parameters below 4,096 numbers keep 32 bits."""
