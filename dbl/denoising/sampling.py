"""Samplers: plain functions that carry noise along decreasing levels to a clean target, and the levels they step along.

A sampler takes `denoise(noisy, sigma) -> denoised`, a start [N, ...] at the first level and `sigmas`, K+1 decreasing
levels of which the last is 0. It knows nothing of blocks or training. The state has the dtype of the start, which
should be float64.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor

from dbl.diffusion.gaussian import euler_step
from dbl.diffusion.noise import NoiseDistribution
from dbl.diffusion.partition import Partition
from dbl.utils.checks import Number, check_choice, check_numbers, whole
from dbl.utils.errors import DblWarning

Denoise = Callable[[Tensor, Tensor], Tensor]
Levels = Tensor | Sequence[Tensor]


def state_dtype(device: torch.device) -> torch.dtype:
    """Type of a sampler's state: float64, or float32 on devices without float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def per_sample(sigma: Tensor, noisy: Tensor) -> Tensor:
    """[N] float32 levels for a batch [N, ...] that is at one level, a scalar."""
    return sigma.to(noisy.device, torch.float32).expand(len(noisy))


def karras_levels(num_steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Tensor:
    """[K+1] decreasing levels from sigma_max to sigma_min, then 0 (EDM, Eq. 5)."""
    ramp = torch.linspace(0, 1, num_steps, dtype=torch.float64)
    ends = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    levels = (ends[0] + ramp * (ends[1] - ends[0])) ** rho
    return torch.cat([levels, levels.new_zeros(1)])


def quantile_levels(num_steps: int, noise: NoiseDistribution) -> Tensor:
    """[K+1] decreasing levels at the quantiles 1 - k/K of the training distribution, then 0.

    With K = B and an equal-probability partition these are the upper ends of the blocks' intervals, so that each block
    is called once.
    """
    levels = noise.quantile(1 - torch.arange(num_steps, dtype=torch.float64) / num_steps)
    return torch.cat([levels, levels.new_zeros(1)])


def sample_euler(denoise: Denoise, start: Tensor, sigmas: Levels) -> Tensor:
    """Euler's method on the probability-flow ODE: first order, K calls."""
    noisy = start
    for sigma, sigma_next in pairwise(sigmas):
        noisy = euler_step(noisy, denoise(noisy, sigma), sigma, sigma_next)
    return noisy


def sample_heun(denoise: Denoise, start: Tensor, sigmas: Levels) -> Tensor:
    """Heun's method (EDM, Algorithm 1 without churn): second order, 2K - 1 calls; the last step is Euler's."""
    noisy = start
    for sigma, sigma_next in pairwise(sigmas):
        denoised = denoise(noisy, sigma)
        ahead = euler_step(noisy, denoised, sigma, sigma_next)
        if sigma_next > 0:
            slope = (noisy - denoised) / sigma
            slope_ahead = (ahead - denoise(ahead, sigma_next)) / sigma_next
            ahead = noisy + (sigma_next - sigma) * 0.5 * (slope + slope_ahead)
        noisy = ahead
    return noisy


def sample_dpmpp_2m(denoise: Denoise, start: Tensor, sigmas: Levels) -> Tensor:
    """DPM-Solver++(2M) (arXiv 2211.01095, Algorithm 2): second order from one earlier result, K calls."""
    noisy, earlier, width_before = start, None, None
    for sigma, sigma_next in pairwise(sigmas):
        denoised = denoise(noisy, sigma)
        width = (sigma / sigma_next).log()  # step in lambda = -ln(sigma); infinite for the last step to 0
        extrapolated = denoised
        if earlier is not None and width_before is not None and sigma_next > 0:
            extrapolated = denoised + (width / width_before) / 2 * (denoised - earlier)
        noisy = euler_step(noisy, extrapolated, sigma, sigma_next)
        earlier, width_before = denoised, width
    return noisy


def guided(denoise: Denoise, denoise_uncond: Denoise, scale: float) -> Denoise:
    """Classifier-free guidance (arXiv 2207.12598): `uncond + scale * (cond - uncond)`; scale 1 changes nothing."""

    def combined(noisy: Tensor, sigma: Tensor) -> Tensor:
        return torch.lerp(denoise_uncond(noisy, sigma), denoise(noisy, sigma), scale)

    return combined


Method = Literal["euler", "heun", "dpmpp_2m", "ancestral"]
Schedule = Literal["karras", "quantile"]
_METHODS = {"euler": sample_euler, "heun": sample_heun, "dpmpp_2m": sample_dpmpp_2m}


@dataclass(frozen=True)
class Sampler:
    """How an assembled stack is sampled: integrator, noise levels and guidance.

    Args:
        method: integrator, one of `euler` (one call a step), `heun` (two calls a step), `dpmpp_2m` (one call a step);
            `ancestral` for masked text, whose steps are `dbl.inference.generation.MaskedGenerator`'s.
        schedule: levels of the steps; `karras`: EDM's; `quantile`: equal shares of the training distribution.
        num_steps: number K of levels at which the network is called; `heun` calls it twice at each but the last.
        rho: exponent of the Karras schedule; larger puts more steps at low noise.
        guidance_scale: scale of classifier-free guidance; 1 samples the model as it is, larger values follow the class
            more closely (twice as many calls).
        temperature: factor on the start noise. 1 draws from the model's distribution: right for images. 0 starts at
            the mean and is deterministic: right for a classifier, where a draw from p(class | image) is right less
            often than the most probable class.

    Example:
        >>> import dbl
        >>> noise = dbl.LogNormalNoise()
        >>> sampler = dbl.Sampler(schedule="quantile", num_steps=3)
        >>> [round(level, 3) for level in sampler.levels(noise).tolist()]
        [80.0, 0.505, 0.18, 0.0]
        >>> sampler.calls_per_block(noise, dbl.PartitionConfig(num_blocks=3).build(noise, num_layers=6))
        [1, 1, 1]
    """

    method: Method = "euler"
    schedule: Schedule = "karras"
    num_steps: int = 50
    rho: float = 7.0
    guidance_scale: float = 1.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_choice("sampler.method", self.method, get_args(Method))
        check_choice("sampler.schedule", self.schedule, get_args(Schedule))
        check_numbers(
            "sampler",
            self,
            num_steps=whole(1, 100_000),
            rho=Number(at_least=0.1, at_most=1000),
            guidance_scale=Number(at_least=0, at_most=1000),
            temperature=Number(at_least=0, at_most=1000),
        )

    def levels(self, noise: NoiseDistribution) -> Tensor:
        """[K+1] decreasing levels for a training distribution; the last is 0."""
        if self.schedule == "karras":
            return karras_levels(self.num_steps, noise.sigma_min, noise.sigma_max, self.rho)
        return quantile_levels(self.num_steps, noise)

    def run(self, denoise: Denoise, start: Tensor, sigmas: Levels) -> Tensor:
        """Carry `start` [N, ...] along `sigmas` to level 0."""
        return _METHODS[self.method](denoise, start, sigmas)

    def sample(
        self,
        denoise: Denoise,
        unit_noise: Tensor,
        noise: NoiseDistribution,
        levels: Levels | None = None,
    ) -> Tensor:
        """Carry standard normal noise [N, ...] from the highest level of a training distribution to level 0.

        Args:
            denoise: function of noisy [N, ...] and a level.
            unit_noise: [N, ...].
            noise: training distribution.
            levels: result of `levels(noise)`, where many samples share it.
        """
        levels = self.levels(noise) if levels is None else levels
        return self.run(denoise, self.temperature * noise.sigma_max * unit_noise, levels)

    def calls_per_block(self, noise: NoiseDistribution, partition: Partition) -> list[int]:
        """[B] calls of each block in one sample, without the doubling of guidance; warns if a block is never called."""
        called = self.called_levels(noise)
        counts = torch.bincount(partition.block_for(called), minlength=partition.num_blocks).tolist()
        idle = [block for block, count in enumerate(counts) if count == 0]
        if idle:
            warnings.warn(
                f"sampler with {self.num_steps} {self.schedule} steps never calls block {', '.join(map(str, idle))} "
                f"(calls per block: {counts}): raise sampler.num_steps or choose another sampler.schedule",
                DblWarning,
                stacklevel=2,
            )
        return counts

    def called_levels(self, noise: NoiseDistribution) -> Tensor:
        """Levels at which a block is called in one sample, in order, without the doubling of guidance."""
        if self.method == "ancestral":
            return self.levels(noise)[:-1]
        called: list[Tensor] = []  # filled by running the sampler on a stand-in for the network

        def record(noisy: Tensor, sigma: Tensor) -> Tensor:
            called.append(sigma)
            return noisy

        self.run(record, torch.zeros(1, 1, dtype=torch.float64), self.levels(noise))
        return torch.stack(called)
