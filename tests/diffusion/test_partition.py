"""The partition: where levels and layers are cut, and the one rule from level to block."""

import math
from itertools import pairwise
from statistics import NormalDist
from typing import Any

import pytest
import torch

from dbl.diffusion.noise import LogNormalNoise, LogUniformNoise, UniformNoise
from dbl.diffusion.partition import Partition, PartitionConfig, Scheme
from dbl.utils.errors import UserError

PAPER = LogNormalNoise(0.002, 80.0, p_mean=-1.2, p_std=1.2)
UNEVEN = Partition(boundaries=(80.0, 1.5, 0.3, 0.002), layers=(3, 6, 3), overlap=0.05)


@pytest.mark.parametrize("num_blocks", [2, 3, 4, 6])
def test_equal_probability_boundaries_are_those_of_the_paper(num_blocks: int) -> None:
    """Catches cuts of the untruncated distribution or in rising order; closed form of Sec. 3.3 with the standard
    library.
    """
    normal = NormalDist()
    q_min, q_max = (normal.cdf((math.log(sigma) + 1.2) / 1.2) for sigma in (0.002, 80.0))
    q = [q_min + (b / num_blocks) * (q_max - q_min) for b in range(num_blocks, -1, -1)]
    expected = [math.exp(-1.2 + 1.2 * normal.inv_cdf(value)) for value in q]
    partition = PartitionConfig(num_blocks=num_blocks).build(PAPER, num_layers=12)
    assert partition.boundaries == pytest.approx(expected, rel=1e-8)
    assert (partition.boundaries[0], partition.boundaries[-1]) == (80.0, 0.002)


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [("uniform_sigma", (8.5, 6.5, 4.5, 2.5, 0.5)), ("uniform_log_sigma", (8.5, 8.5 / 17**0.25, 8.5 / 17**0.5))],
)
def test_uniform_schemes_have_equal_widths(scheme: Scheme, expected: tuple[float, ...]) -> None:
    """Catches the two ablations being exchanged, or depending on the noise distribution."""
    partition = PartitionConfig(num_blocks=4, scheme=scheme).build(LogNormalNoise(0.5, 8.5), num_layers=8)
    assert partition.boundaries[: len(expected)] == pytest.approx(expected, rel=1e-12)
    assert partition.boundaries[-1] == 0.5


def test_equal_probability_follows_the_law_it_is_given() -> None:
    """Catches a partition that always cuts the log-normal: under a uniform one, equal probability is equal width."""
    for noise, scheme in ((UniformNoise(0.5, 8.5), "uniform_sigma"), (LogUniformNoise(0.5, 8.5), "uniform_log_sigma")):
        cut, reference = PartitionConfig(num_blocks=4), PartitionConfig(num_blocks=4, scheme=scheme)
        assert cut.build(noise, 4).boundaries == pytest.approx(reference.build(noise, 4).boundaries, rel=1e-12)


def test_explicit_boundaries_are_kept() -> None:
    """Catches explicit boundaries that are recomputed or reversed."""
    cut = PartitionConfig(num_blocks=2, scheme="explicit", boundaries=[80.0, 0.7, 0.002], layers=[1, 4])
    assert cut.build(PAPER, num_layers=5) == Partition((80.0, 0.7, 0.002), (1, 4), overlap=0.05)


@pytest.mark.parametrize("scheme", ["equal_probability", "uniform_sigma", "uniform_log_sigma"])
def test_intervals_tile_the_range(scheme: Scheme) -> None:
    """Catches a gap between blocks, a range that is not covered, and a block order that rises with sigma."""
    partition = PartitionConfig(num_blocks=5, scheme=scheme).build(PAPER, num_layers=10)
    intervals = [partition.interval(block) for block in range(5)]
    assert intervals[0].high == 80.0
    assert intervals[-1].low == 0.002
    for above, below in pairwise(intervals):
        assert above.low == below.high
        assert below.low < below.high < above.high


def test_every_level_belongs_to_the_block_whose_interval_holds_it() -> None:
    """Catches an off-by-one in the rule from level to block; on a [2, 60] tensor against a plain loop."""
    levels = torch.logspace(math.log10(79.9), math.log10(0.0021), 120, dtype=torch.float64).reshape(2, 60)
    expected = [
        [next(b for b in range(3) if UNEVEN.interval(b).low < s <= UNEVEN.interval(b).high) for s in row]
        for row in levels.tolist()
    ]
    blocks = UNEVEN.block_for(levels)
    assert blocks.tolist() == expected
    assert blocks.dtype == torch.int64


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_boundaries_and_their_neighbours(dtype: torch.dtype) -> None:
    """Catches a boundary that changes its block by being rounded to float32, and a tolerance that is too wide."""
    partition = PartitionConfig(num_blocks=7).build(PAPER, num_layers=7)
    boundaries = torch.tensor(partition.boundaries, dtype=torch.float64)
    assert partition.block_for(boundaries.to(dtype)).tolist() == [0, 1, 2, 3, 4, 5, 6, 6]
    assert partition.block_for((boundaries[1:] * 1.00001).to(dtype)).tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert partition.block_for((boundaries[:-1] * 0.99999).to(dtype)).tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_one_block_owns_everything() -> None:
    """Catches a rule that needs an inner boundary: the baseline with B = 1 has none."""
    partition = PartitionConfig(num_blocks=1).build(PAPER, num_layers=3)
    assert partition.block_for(torch.tensor([80.0, 1.0, 0.002])).tolist() == [0, 0, 0]
    assert partition.training_interval(0) == partition.interval(0) == PAPER.range


@pytest.mark.parametrize("level", [80.01, 0.00199, 0.0, -1.0, math.nan, math.inf])
def test_levels_outside_the_range_are_refused(level: float) -> None:
    """Catches a level on which no block was trained being handed to the nearest block."""
    with pytest.raises(ValueError, match="outside"):
        UNEVEN.block_for(torch.tensor([1.0, level]))


def test_layers_are_used_once_each_in_order() -> None:
    """Catches uneven splits that overlap, skip or reverse layers."""
    assert [list(UNEVEN.layer_range(b)) for b in range(3)] == [[0, 1, 2], [3, 4, 5, 6, 7, 8], [9, 10, 11]]
    even = PartitionConfig(num_blocks=4).build(PAPER, num_layers=12)
    assert [layer for b in range(4) for layer in even.layer_range(b)] == list(range(12))
    assert even.layers == (3, 3, 3, 3)


def test_overlap_widens_training_intervals_by_the_formula() -> None:
    """Catches widening in sigma instead of ln sigma, on one side only, or beyond the range (paper, App. C)."""
    overlap = 0.1
    partition = Partition((80.0, 1.5, 0.3, 0.002), (1, 1, 1), overlap)
    for block, (low, high) in enumerate(((1.5, 80.0), (0.3, 1.5), (0.002, 0.3))):
        alpha = (high / low) ** overlap
        expected = max(low / alpha, 0.002), min(high * alpha, 80.0)
        assert partition.training_interval(block) == pytest.approx(expected, rel=1e-12)
    assert partition.training_interval(1).low < 0.3 < 1.5 < partition.training_interval(1).high
    assert partition.training_interval(0).high == 80.0
    assert partition.training_interval(2).low == 0.002


def test_overlap_never_changes_inference() -> None:
    """Catches routing by the widened intervals."""
    levels = torch.logspace(1.9, -2.6, 200, dtype=torch.float64)
    sharp, wide = (Partition(UNEVEN.boundaries, (1, 1, 1), overlap) for overlap in (0.0, 0.5))
    assert torch.equal(sharp.block_for(levels), wide.block_for(levels))
    for block in range(3):
        assert sharp.training_interval(block) == sharp.interval(block) == wide.interval(block)


@pytest.mark.parametrize(
    ("settings", "num_layers", "message"),
    [
        ({"num_blocks": 3}, 2, r"num_blocks \(3\) must be at most the 2 layers"),
        ({"num_blocks": 3}, 10, "10 layers cannot be split evenly"),
        ({"num_blocks": 3, "layers": [3, 6, 3]}, 10, "add up to 10"),
        ({"num_blocks": 3, "layers": [6, 6]}, 12, "3 numbers"),
        ({"num_blocks": 3, "layers": [0, 6, 6]}, 12, r"layers\[0\] \(0\)"),
        ({"num_blocks": 3, "overlap": -0.01}, 12, "overlap"),
        ({"num_blocks": 3, "overlap": math.nan}, 12, "overlap"),
        ({"num_blocks": 2, "scheme": "explicit", "boundaries": [80.0, 1.0, 0.01]}, 12, "sigma_min"),
        ({"num_blocks": 2, "scheme": "explicit", "boundaries": [0.002, 1.0, 80.0]}, 12, "sigma_max"),
        ({"num_blocks": 2, "scheme": "explicit", "boundaries": [80.0, 90.0, 0.002]}, 12, "decrease"),
        ({"num_blocks": 3, "scheme": "explicit", "boundaries": [80.0, 1.0, 1.0, 0.002]}, 12, "decrease"),
    ],
)
def test_impossible_splits_are_refused(settings: dict[str, Any], num_layers: int, message: str) -> None:
    """Catches a cut that drops layers, leaves a block empty or leaves levels without a block."""
    with pytest.raises(UserError, match=message):
        PartitionConfig(**settings).build(PAPER, num_layers)


def test_contradictory_cuts_are_refused() -> None:
    """Catches boundaries that are given but not used, missing where they are needed, or too many for the blocks."""
    with pytest.raises(UserError, match="explicit"):
        PartitionConfig(num_blocks=2, boundaries=[80.0, 1.0, 0.002])
    with pytest.raises(UserError, match="explicit"):
        PartitionConfig(num_blocks=2, scheme="explicit")
    with pytest.raises(UserError, match="3 blocks need 4"):
        PartitionConfig(num_blocks=3, scheme="explicit", boundaries=[80.0, 1.0, 0.002])
    with pytest.raises(UserError, match="num_blocks"):
        PartitionConfig(num_blocks=0)


@pytest.mark.parametrize("block", [-1, 3])
def test_blocks_that_do_not_exist_are_refused(block: int) -> None:
    """Catches a negative index that silently means the last block."""
    for method in (UNEVEN.interval, UNEVEN.training_interval, UNEVEN.layer_range):
        with pytest.raises(UserError, match="blocks 0 to 2"):
            method(block)
