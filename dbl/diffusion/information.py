"""The information that a noise level resolves about a discrete target, and the noise distribution based on it.

For `z = y + sigma * noise` with y a row of a table, the I-MMSE relation (Guo, Shamai, Verdu 2005; arXiv cs/0412108)
gives the information resolved per level,

    i(sigma) = sigma^-3 mmse(sigma)   nats per unit of sigma,

whose integral over all levels is the entropy of y. Drawing sigma from this density and cutting it into equal parts
gives every block the same number of nats to resolve. It needs no network, since the optimal denoiser of a table is its
posterior mean.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from dbl.diffusion.noise import NOISE, NoiseDistribution, TabulatedNoise
from dbl.utils.checks import SEED, Number, check_numbers, whole
from dbl.utils.errors import UserError
from dbl.utils.seeding import generator_for


def mmse(table: Tensor, frequencies: Tensor, sigmas: Tensor, num_draws: int, seed: int) -> Tensor:
    """Minimum mean squared error of estimating a table row from `row + sigma * noise`, by Monte Carlo.

    Args:
        table: [C, D] rows.
        frequencies: [C] probabilities of the rows, summing to 1.
        sigmas: [K] levels.
        num_draws: number of Monte Carlo draws, even.
        seed: random seed of the draws.

    Returns:
        [K] squared errors, summed over D, float64.
    """
    generator = generator_for(seed, "mmse")
    # All levels share the draws, so that the curve is smooth in sigma; antithetic pairs halve the error.
    rows = _stratified_rows(frequencies, num_draws // 2, generator).repeat(2)
    noise = torch.randn(num_draws // 2, table.shape[1], generator=generator, dtype=table.dtype)
    noise = torch.cat([noise, -noise])
    errors = [_squared_error(table, frequencies, rows, noise, sigma).mean() for sigma in sigmas.tolist()]
    return torch.stack(errors).double()


def _stratified_rows(frequencies: Tensor, num_draws: int, generator: torch.Generator) -> Tensor:
    """[num_draws] row indices that follow the frequencies closely: one per stratum of equal probability."""
    jitter = torch.rand(num_draws, generator=generator, dtype=torch.float64)
    uniform = (torch.arange(num_draws, dtype=torch.float64) + jitter) / num_draws
    return torch.searchsorted(frequencies.double().cumsum(0), uniform).clamp(max=len(frequencies) - 1)


def _squared_error(table: Tensor, frequencies: Tensor, rows: Tensor, noise: Tensor, sigma: float) -> Tensor:
    """[num_draws] squared distance between the true row and the posterior mean."""
    clean = table[rows]
    noisy = clean + sigma * noise
    # log p(z | row) up to a constant: |z - row|^2 expanded, without the |z|^2 that all rows share
    evidence = (noisy @ table.T - 0.5 * table.square().sum(1)) / sigma**2
    posterior = torch.softmax(evidence + frequencies.log(), dim=1)
    return (clean - posterior @ table).square().sum(1)


def information_density(
    table: Tensor, frequencies: Tensor, sigmas: Tensor, num_draws: int = 2048, seed: int = 0
) -> Tensor:
    """Nats resolved per unit of ln sigma, `sigma * i(sigma) = sigma^-2 mmse(sigma)`; arguments as in `mmse`.

    Returns:
        [K] float64; its integral over ln sigma is the entropy of the frequencies.
    """
    return mmse(table, frequencies, sigmas, num_draws, seed) / sigmas.double().square()


@dataclass(frozen=True)
class InformationNoise(NoiseDistribution):
    """Levels drawn in proportion to the information that they resolve about a class or token (ours).

    It has no density of its own: `fit` measures one from the table and returns a `TabulatedNoise`.

    Args:
        sigma_min: smallest level; below it the nearest row is the answer.
        sigma_max: largest level; above it the noisy vector carries no information.
        uniform_share: weight of the log-uniform distribution mixed in so that the tails are trained too; in (0, 1].
        num_levels: number of levels at which the density is measured, equally spaced in ln sigma.
        num_draws: number of Monte Carlo draws at each level.
        seed: random seed of the Monte Carlo draws.

    Example:
        >>> import dbl, torch
        >>> noise = dbl.InformationNoise(sigma_min=0.1).fit(torch.eye(10), frequencies=torch.full((10,), 0.1))
        >>> median = noise.quantile(torch.tensor(0.5))  # half of what there is to know is found at higher levels
        >>> round(median.item(), 1)
        0.6
    """

    sigma_min: float = 0.05
    sigma_max: float = 10.0
    uniform_share: float = 0.1
    num_levels: int = 96
    num_draws: int = 2048
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(
            NOISE,
            self,
            uniform_share=Number(above=0, at_most=1),
            num_levels=whole(2, 10_000),
            num_draws=whole(2, 10**6),
            seed=SEED,
        )

    @override
    def fit(self, table: Tensor | None, frequencies: Tensor) -> TabulatedNoise:
        """Measure the density for a table [C, D] with class frequencies [C].

        Raises UserError if there is no table, or nothing to learn about its rows.
        """
        if table is None:
            raise UserError("noise InformationNoise needs a target with a table, such as dbl.ClassTarget")
        logs = torch.linspace(math.log(self.sigma_max), math.log(self.sigma_min), self.num_levels, dtype=torch.float64)
        sigmas = logs.exp()
        sigmas[0], sigmas[-1] = self.sigma_max, self.sigma_min  # exact ends: exp(log(x)) can round
        density = information_density(table.float().cpu(), frequencies.float().cpu(), sigmas, self.num_draws, self.seed)
        nats = -torch.trapezoid(density, logs)
        if nats < 1e-3:
            raise UserError("noise InformationNoise: between sigma_min and sigma_max nothing is learnt about the class")
        uniform = self.uniform_share / math.log(self.sigma_max / self.sigma_min)
        return TabulatedNoise.from_density(sigmas, (1 - self.uniform_share) * density / nats + uniform)

    @override
    def cdf(self, sigma: Tensor) -> Tensor:
        raise RuntimeError("InformationNoise has no CDF before fit(table, frequencies)")

    @override
    def quantile(self, q: Tensor) -> Tensor:
        raise RuntimeError("InformationNoise has no quantiles before fit(table, frequencies)")
