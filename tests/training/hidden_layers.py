"""A network of a user's own whose layers have another name than `layers`, so that they are not found."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dbl.networks import Architecture


class _Units(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.units = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))

    def forward(self, noisy: torch.Tensor, c_noise: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
        return noisy + self.units(noisy)


@dataclass(frozen=True)
class HiddenLayers(Architecture):
    """Makes it, of one size."""

    num_layers: int = 3

    def build(self, *_: Any, **__: Any) -> nn.Module:
        """The network."""
        return _Units()
