"""Modulations of a whole network at one level of noise: computed once, they serve every token that is written.

Axes: N batch, D token width.
"""

from collections.abc import Sequence
from typing import NamedTuple, Self, cast

from torch import Tensor, nn

from dbl.networks.layers import Modulation
from dbl.networks.llama import LlamaHead, LlamaLayer, Noise


class LevelModulations(NamedTuple):
    """What modulates the parts of a network.

    Attributes:
        layers: modulation of each layer; None where a layer is not modulated.
        head: modulation of the head.
    """

    layers: tuple[Noise | None, ...]
    head: Noise

    @classmethod
    def of(cls, layers: nn.ModuleList, head: LlamaHead, noise: Tensor) -> Self:
        """Shifts, scales and gates that layers and head make of modulation vectors [N, D]."""
        each = (cast(LlamaLayer, layer).modulation for layer in layers)
        made = tuple(None if modulation is None else modulation(noise) for modulation in each)
        return cls(made, cast(Modulation, head.modulation)(noise))

    def rows(self, start: int, end: int) -> "LevelModulations":
        """Those of some rows of the batch."""
        layers = tuple(None if one is None else _rows(one, start, end) for one in self.layers)
        return LevelModulations(layers, _rows(self.head, start, end))


def _rows(noise: Noise, start: int, end: int) -> Noise:
    return noise[start:end] if isinstance(noise, Tensor) else tuple(vector[start:end] for vector in noise)


def of_layers(noise: Tensor | LevelModulations | None, num_layers: int) -> Sequence[Noise | None]:
    """What modulates each layer: the same vector [N, D], or what is made of it already."""
    return noise.layers if isinstance(noise, LevelModulations) else (noise,) * num_layers


def of_head(noise: Tensor | LevelModulations | None) -> Noise | None:
    """What modulates the head."""
    return noise.head if isinstance(noise, LevelModulations) else noise
