"""Noise distributions: how often each noise level is trained.

One object serves three purposes through its inverse CDF: the partition cuts it at quantiles, training draws from an
interval of it, and the samplers' quantile schedule steps along it. Levels are computed in float64.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Self

import torch
from torch import Tensor
from typing_extensions import override

from dbl.utils.checks import Number, check_items, check_numbers
from dbl.utils.errors import UserError

# Key of a distribution in a config.
NOISE = "contract.noise.init_args"
# Levels and their squares are float32 numbers.
_LEVEL = Number(at_least=1e-9, at_most=1e9)
# Share of ln sigma that must lie in the range: below, quantiles are rounding errors.
_LEAST_MASS = 1e-9


def even_fractions(index: Tensor) -> Tensor:
    """Numbers in [0, 1) for integers [N]: a golden-ratio sequence, so that any run of integers spreads evenly."""
    return ((index.double() + 0.5) * 0.6180339887498949) % 1


class Interval(NamedTuple):
    """Noise levels from `low` to `high` (standard deviations, in units of the target)."""

    low: float
    high: float


@dataclass(frozen=True)
class NoiseDistribution(ABC):
    """Distribution of the noise level sigma, truncated to `[sigma_min, sigma_max]`.

    Raises UserError if the range is empty or not positive.

    Args:
        sigma_min: smallest level, > 0, in units of the target.
        sigma_max: largest level.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        check_numbers(NOISE, self, sigma_min=_LEVEL, sigma_max=_LEVEL)
        if self.sigma_min >= self.sigma_max:
            raise UserError(
                f"{NOISE}.sigma_min ({self.sigma_min}) must be positive and below sigma_max ({self.sigma_max})"
            )

    @abstractmethod
    def cdf(self, sigma: Tensor) -> Tensor:
        """Probability of a level at or below sigma, from 0 at `sigma_min` to 1 at `sigma_max`; any shape, float64."""

    @abstractmethod
    def quantile(self, q: Tensor) -> Tensor:
        """Inverse of `cdf`; any shape, float64."""

    @property
    def range(self) -> Interval:
        """The interval of all levels."""
        return Interval(self.sigma_min, self.sigma_max)

    def sample(self, interval: Interval, num: int, generator: torch.Generator) -> Tensor:
        """Draw levels [num] from the distribution restricted to `interval`, float64 on the generator's device."""
        # Inverse-CDF sampling: an interval of levels is an interval of uniform numbers, so nothing is rejected.
        uniform = torch.rand(num, generator=generator, dtype=torch.float64, device=generator.device)
        return self.quantile_within(interval, uniform)

    def quantile_within(self, interval: Interval, uniform: Tensor) -> Tensor:
        """Quantiles of the distribution restricted to `interval`: 0 gives its lowest level, 1 its highest."""
        low, high = self.cdf(torch.tensor(interval, dtype=torch.float64, device=uniform.device))
        return self.quantile(torch.lerp(low, high, uniform)).clamp(interval.low, interval.high)

    def fit(self, table: Tensor | None, frequencies: Tensor) -> "NoiseDistribution":
        """Fit to a target table [C, D] (None for images) with class frequencies [C]; most return themselves."""
        return self


@dataclass(frozen=True)
class LogNormalNoise(NoiseDistribution):
    """`ln sigma ~ N(p_mean, p_std^2)`, as in EDM (arXiv 2206.00364, Table 1) and the paper.

    Args:
        p_mean: mean of ln sigma.
        p_std: standard deviation of ln sigma.

    Example:
        >>> import dbl, torch
        >>> levels = dbl.LogNormalNoise().quantile(torch.tensor([0.0, 0.5, 1.0]))
        >>> [round(level, 3) for level in levels.tolist()]
        [0.002, 0.301, 80.0]
    """

    p_mean: float = -1.2
    p_std: float = 1.2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(NOISE, self, p_mean=Number(), p_std=Number(at_least=1e-3, at_most=1e3))
        if not self._mass(*self._standardised(self.range, torch.zeros(()))) > _LEAST_MASS:
            raise UserError(
                f"{NOISE}.p_mean ({self.p_mean:g}) is ln of a level so far outside sigma_min ({self.sigma_min:g}) to "
                f"sigma_max ({self.sigma_max:g}) that none would be drawn"
            )

    @override
    def cdf(self, sigma: Tensor) -> Tensor:
        low, high = self._standardised(self.range, sigma)
        standardised = (sigma.double().log() - self.p_mean) / self.p_std
        return (self._mass(low, standardised) / self._mass(low, high)).clamp(0, 1)

    @override
    def quantile(self, q: Tensor) -> Tensor:
        """Paper, Sec. 3.3: `sigma = exp(p_mean + p_std Phi^-1(q))`, here with q inside the truncated range."""
        return self.quantile_within(self.range, q.double())

    @override
    def quantile_within(self, interval: Interval, uniform: Tensor) -> Tensor:
        """As in the base class, but not by way of `cdf`, which is 1 from 8.3 standard deviations above the mean on."""
        low, high = self._standardised(interval, uniform)
        below = torch.lerp(_normal_cdf(low), _normal_cdf(high), uniform)
        above = torch.lerp(_normal_cdf(-low), _normal_cdf(-high), uniform)
        normal = torch.where(below < 0.5, torch.special.ndtri(below), -torch.special.ndtri(above))
        return torch.exp(self.p_mean + self.p_std * normal).clamp(interval.low, interval.high)

    def _standardised(self, interval: Interval, like: Tensor) -> Tensor:
        """[2] ends as standard deviations from the mean of ln sigma, float64."""
        return (torch.tensor(interval, dtype=torch.float64, device=like.device).log() - self.p_mean) / self.p_std

    def _mass(self, low: Tensor, high: Tensor) -> Tensor:
        """Probability of a standard normal number between two of the range; from what lies above them in its tail."""
        sign = -1 if math.log(self.sigma_min) > self.p_mean else 1
        return (_normal_cdf(sign * high) - _normal_cdf(sign * low)) * sign


@dataclass(frozen=True)
class UniformNoise(NoiseDistribution):
    """Uniform distribution of sigma (an ablation).

    Example:
        >>> import dbl, torch
        >>> levels = dbl.UniformNoise(1.0, 3.0).quantile(torch.tensor([0.0, 0.5, 1.0]))
        >>> [round(level, 3) for level in levels.tolist()]
        [1.0, 2.0, 3.0]
    """

    @override
    def cdf(self, sigma: Tensor) -> Tensor:
        return ((sigma.double() - self.sigma_min) / (self.sigma_max - self.sigma_min)).clamp(0, 1)

    @override
    def quantile(self, q: Tensor) -> Tensor:
        return self.sigma_min + (self.sigma_max - self.sigma_min) * q.double()


@dataclass(frozen=True)
class LogUniformNoise(NoiseDistribution):
    """Uniform distribution of ln sigma (an ablation).

    Example:
        >>> import dbl, torch
        >>> levels = dbl.LogUniformNoise(0.01, 100.0).quantile(torch.tensor([0.0, 0.5, 1.0]))
        >>> [round(level, 3) for level in levels.tolist()]
        [0.01, 1.0, 100.0]
    """

    @override
    def cdf(self, sigma: Tensor) -> Tensor:
        return (torch.log(sigma.double() / self.sigma_min) / self._log_width).clamp(0, 1)

    @override
    def quantile(self, q: Tensor) -> Tensor:
        return self.sigma_min * torch.exp(self._log_width * q.double())

    @property
    def _log_width(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)


@dataclass(frozen=True)
class TabulatedNoise(NoiseDistribution):
    """Distribution given by its CDF at some levels, linear in ln sigma between them.

    Raises UserError if a list is not strictly decreasing or its ends do not match the range.

    Args:
        sigmas: [G] decreasing levels from `sigma_max` to `sigma_min`.
        cdf_values: [G] decreasing values of the CDF at these levels, from 1 to 0.

    Example:
        >>> import dbl, torch
        >>> noise = dbl.TabulatedNoise(1.0, 4.0, sigmas=(4.0, 2.0, 1.0), cdf_values=(1.0, 0.25, 0.0))
        >>> noise.quantile(torch.tensor([0.25])).item()
        2.0
    """

    sigmas: tuple[float, ...] = ()
    cdf_values: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "sigmas", tuple(self.sigmas))
        object.__setattr__(self, "cdf_values", tuple(self.cdf_values))
        check_items(f"{NOISE}.sigmas", self.sigmas, _LEVEL)
        check_items(f"{NOISE}.cdf_values", self.cdf_values, Number(at_least=0, at_most=1))
        if len(self.sigmas) != len(self.cdf_values) or len(self.sigmas) < 2:
            raise UserError(f"{NOISE}: sigmas and cdf_values must have the same length, at least 2")
        for name, values in (("sigmas", self.sigmas), ("cdf_values", self.cdf_values)):
            if any(first <= second for first, second in pairwise(values)):
                raise UserError(f"{NOISE}.{name} must decrease strictly")
        if (self.sigmas[0], self.sigmas[-1], self.cdf_values[0], self.cdf_values[-1]) != (*reversed(self.range), 1, 0):
            raise UserError(f"{NOISE}: sigmas must run from sigma_max to sigma_min and cdf_values from 1 to 0")

    @classmethod
    def from_density(cls, sigmas: Tensor, density: Tensor) -> Self:
        """Build the distribution whose density per unit of ln sigma is proportional to `density`.

        Args:
            sigmas: [G] decreasing levels.
            density: [G] positive values at these levels, integrated by the trapezoidal rule.
        """
        rising = density.double().flip(0)
        areas = 0.5 * (rising[1:] + rising[:-1]) * sigmas.double().log().flip(0).diff()
        cdf = torch.cat([areas.new_zeros(1), areas.cumsum(0)])
        values = (cdf / cdf[-1]).flip(0).tolist()
        levels = sigmas.double().tolist()
        return cls(levels[-1], levels[0], tuple(levels), tuple(values))

    @override
    def cdf(self, sigma: Tensor) -> Tensor:
        return _interpolate(sigma.double().log(), [math.log(s) for s in self.sigmas], self.cdf_values)

    @override
    def quantile(self, q: Tensor) -> Tensor:
        logs = _interpolate(q.double(), self.cdf_values, [math.log(s) for s in self.sigmas])
        return logs.exp().clamp(self.sigma_min, self.sigma_max)


def _normal_cdf(x: Tensor) -> Tensor:
    """CDF of the normal distribution to all digits; `torch.special.ndtr` is 0 below -8.3."""
    return 0.5 * torch.special.erfc(-math.sqrt(0.5) * x)


def _interpolate(x: Tensor, xs: Sequence[float], ys: Sequence[float]) -> Tensor:
    """Piecewise linear interpolation of points given in decreasing order; constant outside."""
    knots = torch.tensor(xs, dtype=torch.float64, device=x.device).flip(0)
    values = torch.tensor(ys, dtype=torch.float64, device=x.device).flip(0)
    right = torch.searchsorted(knots, x.contiguous()).clamp(1, len(knots) - 1)
    share = ((x - knots[right - 1]) / (knots[right] - knots[right - 1])).clamp(0, 1)
    return torch.lerp(values[right - 1], values[right], share)
