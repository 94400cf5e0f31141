"""The information distribution against entropies and against channels whose mean squared error is known."""

import math

import pytest
import torch
from torch import Tensor

from dbl.diffusion.information import InformationNoise, information_density, mmse
from dbl.diffusion.noise import Interval, LogUniformNoise, TabulatedNoise
from dbl.diffusion.partition import PartitionConfig
from dbl.utils.errors import UserError

# Levels outside resolve less than 0.002 nats about rows that are sqrt(2) apart.
ALL = Interval(0.1, 20.0)


def log_levels(high: float, low: float, num: int) -> Tensor:
    return torch.linspace(math.log(high), math.log(low), num, dtype=torch.float64)


def resolved_nats(table: Tensor, frequencies: Tensor, interval: Interval, num_draws: int = 2048) -> float:
    """Integral of the density over ln sigma within an interval."""
    logs = log_levels(interval.high, interval.low, num=40)
    return -torch.trapezoid(information_density(table, frequencies, logs.exp(), num_draws), logs).item()


@pytest.mark.parametrize(("num_codes", "dim", "num_draws"), [(10, 16, 40000), (65, 72, 20000), (100, 128, 20000)])
def test_information_of_orthonormal_codes_is_ln_c(num_codes: int, dim: int, num_draws: int) -> None:
    """Catches a wrong power of sigma, a missing factor 1/2 or a density per unit of sigma: known answer, ln C nats."""
    frequencies = torch.full((num_codes,), 1 / num_codes)
    nats = resolved_nats(torch.eye(num_codes, dim), frequencies, ALL, num_draws)
    assert nats == pytest.approx(math.log(num_codes), rel=0.02)


def test_information_of_unequal_classes_is_their_entropy() -> None:
    """Catches class frequencies that are ignored, in the draw or in the posterior: known answer, the entropy."""
    frequencies = torch.tensor([0.5, 0.25, 0.15, 0.07, 0.03])
    entropy = -sum(p * math.log(p) for p in frequencies.tolist())
    nats = resolved_nats(torch.eye(5, 8), frequencies, ALL, num_draws=40000)
    assert nats == pytest.approx(entropy, rel=0.02)
    assert entropy < 0.8 * math.log(5)


@pytest.mark.parametrize("offset", [0.0, 1.0], ids=["equal lengths", "unequal lengths"])
def test_mmse_of_two_opposite_rows_is_the_known_integral(offset: float) -> None:
    """Catches an evidence that forgets sigma^2 or the length of a row: rows -1 and +1, then the same moved by 1."""
    sigmas = torch.tensor([2.0, 1.0, 0.6], dtype=torch.float64)
    t = torch.linspace(-9, 9, 4001, dtype=torch.float64)
    normal = torch.exp(-t.square() / 2) / math.sqrt(2 * math.pi)
    expected = [1 - torch.trapezoid(normal * torch.tanh(1 / s**2 + t / s), t).item() for s in sigmas.tolist()]
    table = torch.tensor([[-1.0], [1.0]]) + offset
    measured = mmse(table, torch.tensor([0.5, 0.5]), sigmas, num_draws=200_000, seed=0)
    torch.testing.assert_close(measured, torch.tensor(expected, dtype=torch.float64), rtol=0.03, atol=0)


def test_mmse_limits() -> None:
    """Catches an error that is averaged over coordinates, or a posterior that does not reach its two limits."""
    table = torch.tensor([[1.0, 0.0, 2.0], [0.0, -1.0, 0.5]])
    frequencies = torch.tensor([0.3, 0.7])
    mean = [0.3 * a + 0.7 * b for a, b in zip(*table.tolist(), strict=True)]
    variance = sum(
        p * sum((x - m) ** 2 for x, m in zip(row, mean, strict=True))
        for p, row in zip((0.3, 0.7), table.tolist(), strict=True)
    )
    far, near = mmse(table, frequencies, torch.tensor([1e4, 1e-2]), num_draws=1000, seed=3).tolist()
    assert far == pytest.approx(variance, rel=2e-3)
    assert near == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("uniform_share", [0.01, 0.3])
def test_equal_cut_gives_equal_nats_up_to_the_uniform_share(uniform_share: float) -> None:
    """Catches a mixture with the wrong shares: each part must hold 1/B of nats and log-uniform distribution taken
    together.
    """
    table, frequencies = torch.eye(6, 9), torch.tensor([0.3, 0.25, 0.2, 0.1, 0.1, 0.05])
    recipe = InformationNoise(uniform_share=uniform_share)
    partition = PartitionConfig(num_blocks=4).build(recipe.fit(table, frequencies), num_layers=4)
    parts = [partition.interval(block) for block in range(4)]
    nats = [resolved_nats(table, frequencies, part) for part in parts]
    widths = [math.log(part.high / part.low) for part in parts]
    for block in range(4):
        mixed = (1 - uniform_share) * nats[block] / sum(nats) + uniform_share * widths[block] / sum(widths)
        assert mixed == pytest.approx(0.25, abs=0.005)


def test_only_the_uniform_share_gives_the_log_uniform_law() -> None:
    """Catches a share that is applied to the wrong part of the mixture: with share 1 the distribution is the log-
    uniform one.
    """
    distribution = InformationNoise(0.1, 5.0, uniform_share=1.0, num_draws=64).fit(torch.eye(3, 4), torch.ones(3) / 3)
    levels = torch.tensor([4.0, 1.0, 0.3, 0.12], dtype=torch.float64)
    torch.testing.assert_close(distribution.cdf(levels), LogUniformNoise(0.1, 5.0).cdf(levels), rtol=0, atol=1e-9)


def test_fit_is_a_function_of_table_and_seed() -> None:
    """Catches draws from the global generator: every machine must build on the same boundaries."""
    table, frequencies = torch.eye(4, 6), torch.tensor([0.4, 0.3, 0.2, 0.1])
    distributions: list[TabulatedNoise] = []
    for global_seed in (0, 1):
        torch.manual_seed(global_seed)
        distributions.append(InformationNoise(num_draws=100).fit(table, frequencies))
    assert distributions[0] == distributions[1]
    assert distributions[0] != InformationNoise(num_draws=100, seed=1).fit(table, frequencies)


def test_fitted_law_spans_the_range_exactly() -> None:
    """Catches ends that were rounded by exp and log, which the partition and the table of levels would refuse."""
    recipe = InformationNoise(sigma_min=0.07, sigma_max=9.3, num_draws=50)
    distribution = recipe.fit(torch.eye(3, 5), torch.tensor([0.2, 0.3, 0.5]))
    assert distribution.range == recipe.range
    assert distribution.sigmas[0] == 9.3
    assert distribution.sigmas[-1] == 0.07


def test_a_class_that_never_occurs_is_allowed() -> None:
    """Catches 0 * log(0): the information must be that of the classes that do occur, and finite."""
    frequencies = torch.tensor([0.5, 0.0, 0.5])
    nats = resolved_nats(torch.eye(3, 4), frequencies, ALL, num_draws=40000)
    assert nats == pytest.approx(math.log(2), rel=0.02)


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1])
def test_impossible_shares_are_refused(share: float) -> None:
    """Catches a distribution without any mass in its tails, which no table of levels can invert."""
    with pytest.raises(UserError, match="uniform_share"):
        InformationNoise(uniform_share=share)


def test_an_unfitted_law_says_so() -> None:
    """Catches an unfitted recipe that is silently used as a distribution."""
    with pytest.raises(RuntimeError, match="fit"):
        InformationNoise().cdf(torch.tensor([1.0]))
    with pytest.raises(RuntimeError, match="fit"):
        InformationNoise().quantile(torch.tensor([0.5]))
