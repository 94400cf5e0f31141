"""The likelihood of blocks on discrete targets: a variational bound in nats that is a sum over the blocks.

*Gaussian noise.* A denoiser D of `z = y + sigma * noise`, with y a row of a table, is a generative model of the rows,
whatever loss trained it. Its negative log-likelihood has the bound of variational diffusion models (Kingma et al. 2021,
arXiv 2107.00630, Sec. 5, in continuous time), here in terms of sigma, with `d(sigma^-2) = -2 sigma^-3 d sigma`:

    -ln p(y | x) <= |y - m|^2 / (2 sigma_max^2)                                     prior
                    + sum over blocks b of  integral of sigma^-3 E|y - D_b|^2       over the interval of b
                    + E[-ln softmax(logits)[y]] at sigma_min                        reconstruction, by the last block

with m the mean row. For the posterior mean of the rows the integral is the information that the levels resolve (see
`information.py`) and the bound is the entropy of the rows.

*Hidden tokens.* With masking probability m as the level, the bound of masked diffusion (MD4, arXiv 2406.04329,
Eq. 5) has the same form for any schedule: no prior, the integral of `m^-1 E[cross-entropy of the hidden tokens]` over
the interval of each block, and the cross-entropy of the tokens hidden at the smallest m.

Both integrands are a rate per unit of ln sigma, given by a `dbl.denoising.channels.Channel`. The training distribution
only decides where in an interval levels are placed: every stratum is weighted by its width in ln sigma, so the estimate
is unbiased under any distribution.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from dbl.data.spec import IGNORED
from dbl.denoising.channels import Channel
from dbl.denoising.readout import Prediction
from dbl.diffusion.noise import Interval, NoiseDistribution
from dbl.diffusion.partition import Partition
from dbl.utils.seeding import SampleDraws

# (block, noisy [N, ..., D], sigma [N]) -> that block's prediction
Predict = Callable[[int, Tensor, Tensor], Prediction]


def strata(noise: NoiseDistribution, interval: Interval, num_strata: int) -> Tensor:
    """[num_strata + 1] decreasing levels that split an interval into parts of equal probability."""
    q = torch.linspace(1, 0, num_strata + 1, dtype=torch.float64)
    ends = noise.quantile_within(interval, q)
    ends[0], ends[-1] = interval.high, interval.low  # exactly, so that neighbouring intervals leave no gap
    return ends


@dataclass(frozen=True)
class Estimate:
    """A mean over samples: nats, and the standard error of the mean (0 for a single sample, where it is unknown)."""

    nats: float
    standard_error: float


@dataclass(frozen=True)
class CurveStep:
    """One stratum: its ends, the block that owns it, and the mean rate of the channel in it."""

    sigma_high: float
    sigma_low: float
    block: int
    nats_per_log_sigma: float


@dataclass(frozen=True)
class Bound:
    """Bound on the negative log-likelihood of one target (one label, one token), mean over the samples, in nats.

    Attributes:
        nats: sum of the prior, the reconstruction and all blocks.
        standard_error: standard error of `nats`.
        prior: nats lost above sigma_max.
        reconstruction: nats left at sigma_min.
        blocks: [B] part of each block.
        num_samples: independent samples: labels, or sequences of tokens.
        num_scored: labels or tokens whose nats were counted; `nats` is the mean over them.
        levels_per_block: strata of each interval.
        curve: strata from high noise to low.
    """

    nats: float
    standard_error: float
    prior: float
    reconstruction: float
    blocks: list[Estimate]
    num_samples: int
    num_scored: int
    levels_per_block: int
    curve: list[CurveStep]

    def to_plain(self) -> dict[str, Any]:
        """The bound as JSON values, with the names above as keys."""
        return asdict(self)


class BoundSums:
    """Sums over samples, in float64 on the CPU; sums of several processes may be added up.

    Args:
        num_blocks: number B of blocks.
        num_strata: number S of strata of each block.

    Attributes:
        counts: [3] samples, scored labels, and the sum of their squares over the samples.
        sums: [3 + B] nats: total, prior, reconstruction and blocks.
        squares: [3 + B] sums of the squares of each sample's nats.
        products: [3 + B] sums of each sample's nats times its scored labels.
        strata: [B, S] nats of each stratum.
    """

    def __init__(self, num_blocks: int, num_strata: int) -> None:
        self.counts = torch.zeros(3, dtype=torch.float64)
        self.sums, self.squares, self.products = torch.zeros(3, 3 + num_blocks, dtype=torch.float64)
        self.strata = torch.zeros(num_blocks, num_strata, dtype=torch.float64)

    def add(self, prior: Tensor, strata: Tensor, reconstruction: Tensor, scored: Tensor) -> None:
        """Add samples.

        Args:
            prior: [N] nats of the prior, summed over the labels of each sample.
            strata: [B, S, N] nats of every stratum.
            reconstruction: [N] nats of the reconstruction.
            scored: [N] number of labels that count in each sample.
        """
        prior, strata, reconstruction, num = (part.cpu().double() for part in (prior, strata, reconstruction, scored))
        blocks = strata.sum(1)
        parts = torch.stack([prior + reconstruction + blocks.sum(0), prior, reconstruction, *blocks])
        self.counts = self.counts + torch.stack([torch.ones_like(num).sum(), num.sum(), num.square().sum()])
        self.sums = self.sums + parts.sum(1)
        self.squares = self.squares + parts.square().sum(1)
        self.products = self.products + (parts * num).sum(1)
        self.strata = self.strata + strata.sum(2)

    def reduce(self, total: Callable[[Tensor], Tensor]) -> None:
        """Replace every sum by its total over all processes."""
        for name in ("counts", "sums", "squares", "products", "strata"):
            setattr(self, name, total(getattr(self, name)))

    def bound(self, levels_per_block: int, curve: list[CurveStep]) -> Bound:
        """The mean nats of one label with their standard errors; raises ValueError if nothing was scored."""
        num, scored, scored_squares = self.counts
        if not scored:
            raise ValueError("the likelihood bound has no samples yet")
        means = self.sums / scored
        # The error of a ratio of two sums over samples, which are independent; labels and strata of one sample are not.
        spread = (self.squares - 2 * means * self.products + means.square() * scored_squares).clamp(min=0)
        standard_errors = (spread * num / (num - 1).clamp(min=1)).sqrt() / scored
        (nats, prior, reconstruction, *blocks), (error, _, _, *errors) = means.tolist(), standard_errors.tolist()
        return Bound(
            nats=nats,
            standard_error=error,
            prior=prior,
            reconstruction=reconstruction,
            blocks=[Estimate(*pair) for pair in zip(blocks, errors, strict=True)],
            num_samples=int(self.counts[0]),
            num_scored=int(self.counts[1]),
            levels_per_block=levels_per_block,
            curve=curve,
        )


class BoundEstimator:
    """Estimates the bound of the module's docstring, one batch at a time.

    Every sample is denoised at one log-uniform level of each stratum, with noise of its own.

    Args:
        channel: kind of noise.
        noise: distribution that places the strata.
        partition: blocks that own the strata; its overlap does not matter.
        levels_per_block: number S of strata of each block's interval.
        seed: random seed; levels and noise are functions of (seed, block, stratum, index of the sample).
    """

    def __init__(
        self, channel: Channel, noise: NoiseDistribution, partition: Partition, levels_per_block: int = 8, seed: int = 0
    ) -> None:
        num_blocks = partition.num_blocks
        self.channel = channel
        self.sigma_min, self.sigma_max = noise.range
        self.edges = [strata(noise, partition.interval(block), levels_per_block) for block in range(num_blocks)]
        self.levels_per_block = levels_per_block
        self.seed = seed
        self.sums = BoundSums(num_blocks, levels_per_block)

    @torch.no_grad()
    def add(self, clean: Tensor, labels: Tensor, indices: Tensor, predict: Predict) -> None:
        """Add a batch. Blocks are called in order, each at all of its levels at once.

        Args:
            clean: [N, D] rows, [N, T, D] rows of sequences or [N, T] tokens; a sequence has one level for all tokens.
            labels: [N] or [N, T] labels of the targets, IGNORED where nothing is scored.
            indices: [N] number of each sample.
            predict: prediction of a block; logits [N, C] or [N, T, C].
        """
        scored = labels != IGNORED
        blocks = [self._block(block, clean, labels, indices, predict) for block in range(len(self.edges))]
        reconstruction = self._reconstruction(clean, labels, indices, predict)
        prior = _per_sample(self.channel.prior(clean, self.sigma_max) * scored)
        self.sums.add(prior, torch.stack(blocks), reconstruction, _per_sample(scored.cpu().double()))

    def _block(self, block: int, clean: Tensor, labels: Tensor, indices: Tensor, predict: Predict) -> Tensor:
        """[S, N] nats of each stratum and sample: `ln(high / low)` times the rate."""
        draws = SampleDraws(self.seed, ("likelihood", block), indices)
        nats = []
        for high, low in pairwise(self.edges[block]):
            # Uniform in ln sigma, because the rate is one per unit of it, whatever distribution placed the strata.
            sigma = (low * (high / low) ** draws.uniform()).to(clean.device, torch.float32)
            noisy = self.channel.corrupt(clean, draws.normal(clean.float()), sigma)
            rate = self.channel.rate(clean, labels, noisy, sigma, predict(block, noisy, sigma))
            nats.append(float((high / low).log()) * _per_sample(rate * (labels != IGNORED)))
        return torch.stack(nats)

    def _reconstruction(self, clean: Tensor, labels: Tensor, indices: Tensor, predict: Predict) -> Tensor:
        """[N] nats left at sigma_min by the last block."""
        unit_noise = SampleDraws(self.seed, ("likelihood", "reconstruction"), indices).normal(clean.float())
        sigma = torch.full((len(clean),), self.sigma_min, device=clean.device)
        noisy = self.channel.corrupt(clean, unit_noise, sigma)
        return _per_sample(self.channel.reconstruction(labels, noisy, predict(len(self.edges) - 1, noisy, sigma)))

    def result(self) -> Bound:
        """The bound over all samples so far; raises ValueError if there are none."""
        return self.sums.bound(self.levels_per_block, self._curve() if self.sums.counts[1] else [])

    def _curve(self) -> list[CurveStep]:
        ends = torch.stack(self.edges)  # B, S + 1
        values = self.sums.strata / self.sums.counts[1] / (ends[:, :-1] / ends[:, 1:]).log()  # B, S
        return [
            CurveStep(high, low, block, value)
            for block, row in enumerate(values.tolist())
            for (high, low), value in zip(pairwise(ends[block].tolist()), row, strict=True)
        ]


def _per_sample(values: Tensor) -> Tensor:
    """[N] sums of values [N, ...] over all axes but the first."""
    return values.flatten(1).sum(1) if values.ndim > 1 else values
