"""What an optimizer may ask about its parameters: their names, and which of them decay."""

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import nn

# The residual layer of a parameter, in its name: see `dbl.networks.layers.layers_of`.
_LAYER = re.compile(r"(?:.*?\.)?layers\.\d+\.")


class Named(NamedTuple):
    """A parameter of a described group.

    Attributes:
        name: its name in the module.
        parameter: the parameter itself.
        decays: whether it is a matrix of a linear layer or convolution, see `by_decay`.
    """

    name: str
    parameter: nn.Parameter
    decays: bool

    @property
    def layer(self) -> str | None:
        """The prefix of the residual layer that it belongs to; None outside them."""
        found = _LAYER.match(self.name)
        return found.group() if found else None


def described(groups: Iterable[dict[str, Any]]) -> list[Named]:
    """The parameters of groups that `TrainingConfig.make_optimizer` made for an optimizer with `describe_groups`."""
    return [
        Named(name, parameter, group["decays"])
        for group in groups
        for name, parameter in zip(group["names"], group["params"], strict=True)
    ]


def parameters_of(named: Iterable[Named]) -> list[nn.Parameter]:
    """The parameters alone."""
    return [one.parameter for one in named]
