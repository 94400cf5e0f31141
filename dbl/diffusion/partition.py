"""The partition: which block owns which noise levels and which layers.

It is the only map from noise level to block. Block 0 has the highest noise and the first layers, and runs first.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Literal, get_args

import torch
from torch import Tensor

from dbl.diffusion.noise import Interval, NoiseDistribution
from dbl.utils.checks import Number, check_choice, check_items, check_numbers, shown, whole
from dbl.utils.errors import UserError

_LEVEL = Number(above=0, at_most=1e9)
_NUM_LAYERS = whole(1, 10_000)
# A block that is widened ten times its width on each side sees all levels of any partition in use.
_OVERLAP = Number(at_least=0, at_most=10)
# Relative; a boundary that was rounded to float32 still belongs to the interval that it ends.
_TOLERANCE = 1e-6

Scheme = Literal["equal_probability", "uniform_sigma", "uniform_log_sigma", "explicit"]


@dataclass(frozen=True)
class Partition:
    """Noise levels and layers of each block.

    Raises UserError if levels do not decrease, a block has no layer, or the overlap is negative.

    Args:
        boundaries: [B+1] decreasing levels from `sigma_max` to `sigma_min`; block b owns `boundaries[b+1]` (excluded,
            except for the last block) to `boundaries[b]` (included).
        layers: [B] number of layers of each block, in the order in which they run.
        overlap: fraction of its width in ln sigma by which a block's training interval is widened on each side.

    Example:
        >>> import dbl, torch
        >>> partition = dbl.Partition(boundaries=(10.0, 1.0, 0.1), layers=(3, 3))
        >>> partition.block_for(torch.tensor([10.0, 5.0, 1.0, 0.1]))
        tensor([0, 0, 1, 1])
        >>> partition.layer_range(1)
        range(3, 6)
    """

    boundaries: tuple[float, ...]
    layers: tuple[int, ...]
    overlap: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "boundaries", tuple(self.boundaries))
        object.__setattr__(self, "layers", tuple(self.layers))
        check_items("partition.boundaries", self.boundaries, _LEVEL)
        check_items("partition.layers", self.layers, _NUM_LAYERS)
        check_numbers("partition", self, overlap=_OVERLAP)
        if len(self.boundaries) < 2:
            raise UserError(f"partition.boundaries {list(self.boundaries)} must have at least 2 levels")
        if any(high <= low for high, low in pairwise(self.boundaries)):
            raise UserError(f"partition.boundaries {list(self.boundaries)} must be positive and decrease strictly")
        if len(self.layers) != len(self.boundaries) - 1:
            raise UserError(
                f"partition.layers {list(self.layers)} must give at least one layer to each of "
                f"{len(self.boundaries) - 1} blocks"
            )

    @property
    def num_blocks(self) -> int:
        """Number of blocks, B."""
        return len(self.layers)

    def interval(self, block: int) -> Interval:
        """Levels for which block `block` is used at inference."""
        self.check_block(block)
        return Interval(low=self.boundaries[block + 1], high=self.boundaries[block])

    def training_interval(self, block: int) -> Interval:
        """Levels on which block `block` is trained: its interval, widened by the overlap (paper, App. C).

        `[low / alpha, high * alpha]` with `alpha = (high / low)^overlap`, clipped to the whole range.
        """
        low, high = self.interval(block)
        alpha = (high / low) ** self.overlap
        return Interval(low=max(low / alpha, self.boundaries[-1]), high=min(high * alpha, self.boundaries[0]))

    def describe(self, blocks: Iterable[int]) -> str:
        """List blocks with their levels for messages, such as `block 1 (sigma 0.8 to 0.2)`."""
        ends = ((block, self.interval(block)) for block in blocks)
        return ", ".join(f"block {block} (sigma {high:.3g} to {low:.3g})" for block, (low, high) in ends)

    def merged(self) -> "Partition":
        """Merge all levels and layers into one block."""
        return Partition((self.boundaries[0], self.boundaries[-1]), (sum(self.layers),))

    def layer_range(self, block: int) -> range:
        """Indices of the layers of block `block` in the whole network."""
        self.check_block(block)
        ends = [0, *accumulate(self.layers)]
        return range(ends[block], ends[block + 1])

    def block_for(self, sigma: Tensor) -> Tensor:
        """Block indices (int64) that own levels of any shape, without overlap. Raises ValueError outside the range."""
        levels = sigma.double()
        highest, lowest = self.boundaries[0], self.boundaries[-1]
        inside = (levels <= highest * (1 + _TOLERANCE)) & (levels >= lowest * (1 - _TOLERANCE))
        if not inside.all():
            outside = levels[~inside].flatten()[0].item()
            raise ValueError(f"noise level {outside:g} lies outside [{lowest:g}, {highest:g}]")
        # The index is the number of inner boundaries at or above the level.
        inner = torch.tensor(self.boundaries[1:-1], dtype=torch.float64, device=sigma.device)
        return (levels.unsqueeze(-1) <= inner * (1 + _TOLERANCE)).sum(-1)

    def check_block(self, block: int) -> None:
        """Raise UserError unless `block` is a block index."""
        if not whole(0, self.num_blocks - 1).allows(block):
            raise UserError(f"block {shown(block)} does not exist: this run has blocks 0 to {self.num_blocks - 1}")


@dataclass(frozen=True)
class PartitionConfig:
    """How to cut a network and its noise range into blocks; `build` makes the `Partition`.

    Args:
        num_blocks: number of blocks, B; 1 keeps the network whole.
        scheme: placement of the cuts. `equal_probability`: each interval holds 1/B of the noise distribution (paper,
            Sec. 3.3); `uniform_sigma`, `uniform_log_sigma`: equal widths in sigma or ln sigma; `explicit`: at
            `boundaries`.
        boundaries: [B+1] decreasing levels, for `explicit` only.
        layers: [B] number of layers of each block; null splits them evenly.
        overlap: fraction of its width in ln sigma by which a block's training interval is widened on each side; the
            paper uses 0.05 (0.1 for text).

    Example:
        >>> import dbl
        >>> partition = dbl.PartitionConfig(num_blocks=3, layers=[3, 6, 3]).build(dbl.LogNormalNoise(), num_layers=12)
        >>> [round(sigma, 3) for sigma in partition.boundaries]
        [80.0, 0.505, 0.18, 0.002]
    """

    num_blocks: int = 3
    scheme: Scheme = "equal_probability"
    boundaries: list[float] | None = None
    layers: list[int] | None = None
    overlap: float = 0.05

    def __post_init__(self) -> None:
        check_choice("contract.partition.scheme", self.scheme, get_args(Scheme))
        check_numbers("contract.partition", self, num_blocks=whole(1, 10_000), overlap=_OVERLAP)
        check_items("contract.partition.boundaries", self.boundaries or [], _LEVEL)
        check_items("contract.partition.layers", self.layers or [], _NUM_LAYERS)
        if (self.scheme == "explicit") != (self.boundaries is not None):
            raise UserError(
                "contract.partition.boundaries and contract.partition.scheme=explicit go together: give both or neither"
            )
        if self.boundaries is not None and len(self.boundaries) != self.num_blocks + 1:
            raise UserError(
                f"contract.partition.boundaries has {len(self.boundaries)} levels: {self.num_blocks} blocks need "
                f"{self.num_blocks + 1}"
            )

    def build(self, noise: NoiseDistribution, num_layers: int) -> Partition:
        """Cut `num_layers` layers and the range of `noise`.

        Raises UserError if the layers cannot be split as configured, or explicit boundaries do not span the range.
        """
        boundaries = self._levels(noise)
        if (boundaries[0], boundaries[-1]) != (noise.sigma_max, noise.sigma_min):
            raise UserError(
                f"contract.partition.boundaries must run from sigma_max of the noise ({noise.sigma_max}) to its "
                f"sigma_min ({noise.sigma_min})"
            )
        return Partition(tuple(boundaries), tuple(self.split(num_layers)), self.overlap)

    def coarsened(self, num_blocks: int) -> "PartitionConfig":
        """The same cuts with fewer, equal blocks; `num_blocks` divides the present number, and layers split evenly."""
        merged = self.num_blocks // num_blocks
        boundaries = None if self.boundaries is None else self.boundaries[::merged]
        return replace(self, num_blocks=num_blocks, boundaries=boundaries, layers=None)

    def _levels(self, noise: NoiseDistribution) -> list[float]:
        if self.boundaries is not None:
            return list(self.boundaries)
        q = torch.linspace(1, 0, self.num_blocks + 1, dtype=torch.float64)
        low, high = noise.range
        if self.scheme == "equal_probability":
            inner = noise.quantile(q)
        elif self.scheme == "uniform_sigma":
            inner = low + q * (high - low)
        else:
            inner = low * (high / low) ** q
        return [high, *inner[1:-1].tolist(), low]  # exact ends, which rounding in `quantile` could miss

    def split(self, num_layers: int) -> list[int]:
        """[B] layers of each block. Raises UserError if the layers cannot be split as configured."""
        if self.num_blocks > num_layers:
            raise UserError(
                f"contract.partition.num_blocks ({self.num_blocks}) must be at most the {num_layers} layers"
            )
        if self.layers is None:
            if num_layers % self.num_blocks:
                raise UserError(
                    f"{num_layers} layers cannot be split evenly into partition.num_blocks={self.num_blocks}: give "
                    f"contract.partition.layers, {self.num_blocks} numbers that add up to {num_layers}"
                )
            return [num_layers // self.num_blocks] * self.num_blocks
        if len(self.layers) != self.num_blocks or sum(self.layers) != num_layers:
            raise UserError(
                f"contract.partition.layers {self.layers} must be {self.num_blocks} numbers that add up to {num_layers}"
            )
        return list(self.layers)
