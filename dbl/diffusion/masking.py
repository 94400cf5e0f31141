"""Masked diffusion (MD4: Shi et al. 2024, arXiv 2406.04329): masking tokens, loss weight, sampler step.

The noise level is the masking probability `mask_prob = 1 - alpha`. It takes the place of sigma everywhere: a block owns
an interval of it, and sampling decreases it from 1 to 0. Time t in [0, 1] only parametrises the schedule, with
`alpha(0) = 1` and `alpha(1) = 0`.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from typing_extensions import override

from dbl.diffusion.gaussian import append_axes
from dbl.diffusion.noise import NOISE, NoiseDistribution
from dbl.utils.checks import Number, check_choice, check_numbers

MaskSchedule = Literal["linear", "cosine"]


def mask_tokens(tokens: Tensor, noise: Tensor, mask_prob: Tensor, mask: int) -> Tensor:
    """Mask each token independently: [N, T] from tokens [N, T], unit normal noise [N, T] and mask_prob [N]."""
    # Every target draws normal noise; its CDF turns it into the uniform numbers needed here.
    hidden = torch.special.ndtr(noise) < append_axes(mask_prob, tokens)
    return tokens.masked_fill(hidden, mask)


def unmask(noisy: Tensor, drawn: Tensor, uniform: Tensor, mask_prob: float, mask_prob_next: float, mask: int) -> Tensor:
    """One step of the ancestral sampler (MD4, Eq. 4) from `mask_prob` down to `mask_prob_next`.

    A masked token is revealed with probability `(alpha' - alpha) / (1 - alpha) = 1 - mask_prob_next / mask_prob`.

    Args:
        noisy: [N, T] tokens and masks.
        drawn: [N, T] tokens drawn from the denoiser's distribution.
        uniform: [N, T] uniform random numbers in [0, 1).
        mask_prob: level of `noisy`.
        mask_prob_next: level of the result.
        mask: id of the mask token.
    """
    shown = (noisy == mask) & (uniform >= mask_prob_next / mask_prob)
    return torch.where(shown, drawn, noisy)


@dataclass(frozen=True)
class MaskingNoise(NoiseDistribution):
    """Distribution of the masking probability for uniform times (MD4).

    The paper's partition, `alpha_b = 1 - b / B` (App. D), is `contract.partition.scheme=uniform_sigma`; with the linear
    schedule `equal_probability` gives the same.

    Args:
        sigma_min: smallest masking probability; tokens still masked there are revealed in one last step.
        sigma_max: largest masking probability, at most 1.
        schedule: `linear`: alpha = 1 - t; `cosine`: alpha = 1 - cos(pi/2 (1 - t)).

    Example:
        >>> import dbl
        >>> config = dbl.PartitionConfig(num_blocks=2, scheme="uniform_sigma")
        >>> partition = config.build(dbl.MaskingNoise(0.1), num_layers=4)
        >>> [round(level, 3) for level in partition.boundaries]
        [1.0, 0.55, 0.1]
    """

    sigma_min: float = 0.001
    sigma_max: float = 1.0
    schedule: MaskSchedule = "linear"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(f"{NOISE}.schedule", self.schedule, get_args(MaskSchedule))
        check_numbers(NOISE, self, sigma_max=Number(at_most=1, remedy="it is a probability here"))

    @override
    def cdf(self, sigma: Tensor) -> Tensor:
        low, high = self._time_ends(sigma)
        return ((self._time(sigma.double()) - low) / (high - low)).clamp(0, 1)

    @override
    def quantile(self, q: Tensor) -> Tensor:
        low, high = self._time_ends(q)
        time = torch.lerp(low, high, q.double())
        level = time if self.schedule == "linear" else torch.cos(math.pi / 2 * (1 - time))
        return level.clamp(self.sigma_min, self.sigma_max)

    def weight(self, sigma: Tensor) -> Tensor:
        """`-alpha'(t) / (1 - alpha(t))` (MD4, Eq. 5; paper, App. D) in terms of the masking probability, any shape."""
        if self.schedule == "linear":
            return 1 / sigma
        return math.pi / 2 * (1 - sigma.square()).clamp(min=0).sqrt() / sigma

    def _time(self, level: Tensor) -> Tensor:
        return level if self.schedule == "linear" else 1 - 2 / math.pi * torch.acos(level.clamp(0, 1))

    def _time_ends(self, like: Tensor) -> Tensor:
        return self._time(torch.tensor(self.range, dtype=torch.float64, device=like.device))  # 2
