"""Noise distributions against closed forms that are written out here with the standard library."""

import math
from collections.abc import Callable
from itertools import pairwise
from statistics import NormalDist

import numpy as np
import pytest
import torch
from torch import Tensor

from dbl.diffusion.noise import (
    Interval,
    LogNormalNoise,
    LogUniformNoise,
    NoiseDistribution,
    TabulatedNoise,
    UniformNoise,
    even_fractions,
)
from dbl.diffusion.partition import PartitionConfig
from dbl.utils.errors import UserError

LAWS = [
    LogNormalNoise(),
    LogNormalNoise(0.1, 10.0, p_mean=0.5, p_std=0.7),
    UniformNoise(0.2, 3.0),
    LogUniformNoise(0.01, 20.0),
    TabulatedNoise(0.5, 8.0, sigmas=(8.0, 3.0, 1.0, 0.5), cdf_values=(1.0, 0.7, 0.2, 0.0)),
]
every_law = pytest.mark.parametrize("distribution", LAWS, ids=lambda distribution: type(distribution).__name__)


def levels_of(distribution: NoiseDistribution, num: int) -> Tensor:
    """Decreasing levels over the whole range, ends included."""
    levels = torch.logspace(
        math.log10(distribution.sigma_max), math.log10(distribution.sigma_min), num, dtype=torch.float64
    )
    levels[0], levels[-1] = distribution.sigma_max, distribution.sigma_min
    return levels


def cdf_by_hand(distribution: NoiseDistribution) -> Callable[[float], float]:
    """The CDF up to a constant factor and offset, from the definition of the distribution."""
    match distribution:
        case LogNormalNoise():
            return lambda sigma: NormalDist(distribution.p_mean, distribution.p_std).cdf(math.log(sigma))
        case UniformNoise():
            return lambda sigma: sigma
        case LogUniformNoise():
            return math.log
        case TabulatedNoise():
            knots = [math.log(sigma) for sigma in reversed(distribution.sigmas)]
            return lambda sigma: float(np.interp(math.log(sigma), knots, distribution.cdf_values[::-1]))
    raise TypeError(distribution)


def share_below(distribution: NoiseDistribution, interval: Interval, sigma: float) -> float:
    """Share of the part of the distribution in `interval` that lies below sigma."""
    cdf = cdf_by_hand(distribution)
    return (cdf(sigma) - cdf(interval.low)) / (cdf(interval.high) - cdf(interval.low))


@every_law
def test_cdf_is_that_of_the_truncated_law(distribution: NoiseDistribution) -> None:
    """Catches a CDF that is not renormalised to the range, or computed in float32."""
    levels = levels_of(distribution, 23)
    expected = [share_below(distribution, distribution.range, sigma) for sigma in levels.tolist()]
    torch.testing.assert_close(
        distribution.cdf(levels), torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12
    )


@every_law
def test_quantile_inverts_cdf(distribution: NoiseDistribution) -> None:
    """Catches a quantile of another distribution than the CDF, or one that loses digits in a tail; on a [3, 19]
    tensor.
    """
    levels = levels_of(distribution, 57).reshape(3, 19)
    torch.testing.assert_close(distribution.quantile(distribution.cdf(levels)), levels, rtol=1e-8, atol=0)
    q = torch.linspace(0, 1, 57, dtype=torch.float64).reshape(3, 19)
    torch.testing.assert_close(distribution.cdf(distribution.quantile(q)), q, rtol=0, atol=1e-12)


@every_law
def test_ends_have_cdf_0_and_1(distribution: NoiseDistribution) -> None:
    """Catches a truncation that leaves probability outside the range, and a CDF that leaves [0, 1] beyond it."""
    ends = torch.tensor(
        [distribution.sigma_min / 2, distribution.sigma_min, distribution.sigma_max, distribution.sigma_max * 2],
        dtype=torch.float64,
    )
    torch.testing.assert_close(distribution.cdf(ends), torch.tensor([0.0, 0.0, 1.0, 1.0]).double(), rtol=0, atol=1e-14)
    assert distribution.cdf(ends).min() >= 0
    assert distribution.cdf(ends).max() <= 1


@every_law
def test_float32_levels_are_computed_in_float64(distribution: NoiseDistribution) -> None:
    """Catches arithmetic in the precision of the argument: a float32 level must give its float64 result."""
    levels = levels_of(distribution, 11).float()
    assert distribution.cdf(levels).dtype == torch.float64
    assert torch.equal(distribution.cdf(levels), distribution.cdf(levels.double()))
    assert torch.equal(
        distribution.quantile(torch.tensor([0.25])), distribution.quantile(torch.tensor([0.25]).double())
    )


def test_far_tail_of_the_paper_law_inverts() -> None:
    """Catches lost digits where q is within 1e-6 of 1: EDM's largest level, 80, is 4.65 standard deviations out."""
    distribution = LogNormalNoise(sigma_min=0.002, sigma_max=80.0, p_mean=-1.2, p_std=1.2)
    levels = torch.tensor([75.0, 78.0, 79.0, 79.99], dtype=torch.float64)
    q = distribution.cdf(levels)
    assert ((1 - q) < 1e-6).all()
    assert (q < 1).all()
    torch.testing.assert_close(distribution.quantile(q), levels, rtol=1e-9, atol=0)


def tail(number: float) -> float:
    """Probability of a standard normal number above this one, to all digits."""
    return math.erfc(number / math.sqrt(2)) / 2


@pytest.mark.parametrize("ends", [(2e5, 1e6), (1e-9, 1e-8)], ids=["10.9 standard deviations above", "16 below"])
def test_a_block_in_a_far_tail_trains_on_all_its_levels(ends: tuple[float, float]) -> None:
    """Catches a block that sees one level, since the CDF is 1 to the last digit at both ends of its interval."""
    distribution, interval = LogNormalNoise(1e-9, 1e6), Interval(*ends)
    side = 1 if ends[0] > 1 else -1

    def share(sigma: float) -> float:
        return tail(side * (math.log(sigma) + 1.2) / 1.2)

    levels = distribution.sample(interval, 2000, torch.Generator().manual_seed(0)).sort().values
    assert levels[0] >= interval.low
    assert levels[-1] <= interval.high
    assert len(levels.unique()) > 1900
    low, high = share(interval.low), share(interval.high)
    found = torch.tensor([(share(sigma) - low) / (high - low) for sigma in levels.tolist()])
    distance = (found - (torch.arange(2000) + 0.5) / 2000).abs().max()
    assert distance < 1.63 / 2000**0.5


def test_a_range_in_the_upper_tail_is_cut_evenly() -> None:
    """Catches boundaries from differences of numbers close to 1: 5.9 standard deviations out, 7 digits are lost."""
    distribution = LogNormalNoise(math.exp(-1.2 + 1.2 * 5.9), 1e9)
    boundaries = PartitionConfig(num_blocks=4).build(distribution, num_layers=4).boundaries
    above = [tail((math.log(sigma) + 1.2) / 1.2) for sigma in boundaries]
    shares = [(lower - higher) / above[-1] for higher, lower in pairwise(above)]
    assert shares == pytest.approx([0.25] * 4, rel=1e-10)
    assert distribution.cdf(torch.tensor(boundaries, dtype=torch.float64)).tolist() == pytest.approx(
        [1.0, 0.75, 0.5, 0.25, 0.0], abs=1e-10
    )


def test_median_of_a_symmetric_log_normal() -> None:
    """Catches a natural logarithm mixed up with another base, and p_std used as a variance."""
    distribution = LogNormalNoise(math.exp(-1.2 - 3.0), math.exp(-1.2 + 3.0), p_mean=-1.2, p_std=1.5)
    quartiles = distribution.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64))
    normal = NormalDist()
    shift = 1.5 * normal.inv_cdf(0.5 + 0.25 * (2 * normal.cdf(2.0) - 1))  # the range ends two standard deviations out
    expected = torch.tensor([math.exp(-1.2 - shift), math.exp(-1.2), math.exp(-1.2 + shift)], dtype=torch.float64)
    torch.testing.assert_close(quartiles, expected, rtol=1e-12, atol=0)


@every_law
def test_samples_follow_the_law_within_an_interval(distribution: NoiseDistribution) -> None:
    """Catches draws outside the interval, or uniform in it; Kolmogorov-Smirnov distance at the 1 % point."""
    interval = Interval(*torch.lerp(*levels_of(distribution, 2).flip(0), torch.tensor([0.02, 0.6]).double()).tolist())
    num = 3000
    samples = distribution.sample(interval, num, torch.Generator().manual_seed(1))
    assert samples.shape == (num,)
    assert samples.dtype == torch.float64
    assert interval.low <= samples.min() < samples.max() <= interval.high
    shares = [share_below(distribution, interval, sigma) for sigma in samples.sort().values.tolist()]
    distance = max(abs(share - (rank + 0.5) / num) for rank, share in enumerate(shares))
    assert distance < 1.63 / math.sqrt(num)


@every_law
def test_quantiles_within_an_interval_start_and_end_at_its_ends(distribution: NoiseDistribution) -> None:
    """Catches an interval whose ends are swapped or whose quantiles are those of the whole range."""
    interval = Interval(distribution.sigma_max / 9, distribution.sigma_max / 2)
    levels = distribution.quantile_within(interval, torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)).tolist()
    assert levels[0] == pytest.approx(interval.low, rel=1e-9)
    assert share_below(distribution, interval, levels[1]) == pytest.approx(0.3, abs=1e-9)
    assert levels[2] == pytest.approx(interval.high, rel=1e-9)


@every_law
def test_quantiles_never_leave_an_interval_by_rounding(distribution: NoiseDistribution) -> None:
    """Catches a level a hair above the interval's end, which belongs to another block and may lie outside the range."""
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    levels = levels_of(distribution, 40).tolist()
    for low, high in zip(levels[1:], levels[:-1], strict=True):
        lowest, highest = distribution.quantile_within(Interval(low, high), ends).tolist()
        assert low <= lowest < highest <= high


def test_sampling_depends_on_the_generator_alone() -> None:
    """Catches a draw from the global generator, which would make a block's noise depend on what ran before it."""
    distribution = LogNormalNoise()
    torch.manual_seed(0)
    first = distribution.sample(distribution.range, 7, torch.Generator().manual_seed(5))
    torch.manual_seed(1)
    state = torch.get_rng_state()
    again = distribution.sample(distribution.range, 7, torch.Generator().manual_seed(5))
    assert torch.equal(first, again)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(first, distribution.sample(distribution.range, 7, torch.Generator().manual_seed(6)))


@pytest.mark.parametrize("start", [0, 1797, 50_000_000])
def test_even_fractions_of_any_run_of_indices_spread_evenly(start: int) -> None:
    """Catches fractions that repeat, leave gaps, or lose digits for large indices: a part of the range never seen."""
    num = 89
    fractions = even_fractions(torch.arange(start, start + num))
    assert fractions.dtype == torch.float64
    assert 0 <= fractions.min() < fractions.max() < 1
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    gaps = torch.cat([fractions, ends]).sort().values.diff()
    assert gaps.max() < 2 / num
    assert gaps[1:-1].min() > 0.3 / num
    for n, fraction in enumerate(fractions.tolist()):
        expected = (start + n + 0.5) * (math.sqrt(5) - 1) / 2 % 1
        assert fraction == pytest.approx(expected, abs=1e-6)


def test_a_law_without_a_table_is_not_changed_by_fit() -> None:
    """Catches a `fit` that changes the paper's distribution when a data set has a target table."""
    assert LogNormalNoise().fit(torch.eye(3, 4), torch.tensor([0.2, 0.3, 0.5])) == LogNormalNoise()


def test_law_from_a_density_integrates_it() -> None:
    """Catches a density taken per unit of sigma instead of ln sigma, and a table read in the wrong order."""
    sigmas = torch.logspace(1, -1, 401, dtype=torch.float64)  # 10 down to 0.1
    distribution = TabulatedNoise.from_density(sigmas, 3.0 * sigmas.sqrt())
    q = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0], dtype=torch.float64)
    low, high = 0.1**0.5, 10**0.5
    torch.testing.assert_close(distribution.quantile(q), (low + q * (high - low)).square(), rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LogNormalNoise(sigma_min=2.0, sigma_max=2.0), "sigma_min"),
        (lambda: UniformNoise(sigma_min=3.0, sigma_max=2.0), "sigma_min"),
        (lambda: LogUniformNoise(sigma_min=0.0, sigma_max=2.0), "sigma_min"),
        (lambda: LogUniformNoise(sigma_min=1.0, sigma_max=math.inf), "sigma_max"),
        (lambda: UniformNoise(sigma_min=math.nan, sigma_max=2.0), "sigma_min"),
        (lambda: LogNormalNoise(p_std=0.0), "p_std"),
        (lambda: LogNormalNoise(p_std=-1.2), "p_std"),
        (lambda: TabulatedNoise(1.0, 4.0, (4.0, 2.0, 2.0, 1.0), (1.0, 0.6, 0.3, 0.0)), "sigmas must decrease"),
        (lambda: TabulatedNoise(1.0, 4.0, (1.0, 2.0, 4.0), (0.0, 0.6, 1.0)), "sigmas must decrease"),
        (lambda: TabulatedNoise(1.0, 4.0, (4.0, 2.0, 1.0), (1.0, 1.0, 0.0)), "cdf_values must decrease"),
        (lambda: TabulatedNoise(1.0, 4.0, (4.0, 2.0, 1.0), (1.0, 0.0)), "same length"),
        (lambda: TabulatedNoise(1.0, 4.0, (3.0, 2.0, 1.0), (1.0, 0.5, 0.0)), "sigma_max"),
        (lambda: TabulatedNoise(1.0, 4.0, (4.0, 2.0, 1.0), (0.9, 0.5, 0.0)), "from 1 to 0"),
    ],
)
def test_impossible_laws_are_refused(make: Callable[[], NoiseDistribution], message: str) -> None:
    """Catches a distribution with an empty range, no spread or a table that cannot be inverted getting as far as
    training.
    """
    with pytest.raises(UserError, match=message):
        make()
