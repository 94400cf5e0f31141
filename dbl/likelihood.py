"""The likelihood of blocks on discrete targets: a variational bound in nats that is a sum over the blocks.

A denoiser D of `z = y + sigma * noise`, with y a row of a table, is a generative model of the rows, whatever loss
trained it. Its negative log-likelihood has the bound of variational diffusion models (Kingma et al. 2021, arXiv
2107.00630, Sec. 5, in continuous time), here in terms of sigma, with `d(sigma^-2) = -2 sigma^-3 d sigma`:

    -ln p(y | x) <= |y - m|^2 / (2 sigma_max^2)                                     prior
                    + sum over blocks b of  integral of sigma^-3 E|y - D_b|^2       over the interval of b
                    + E[-ln softmax(logits)[y]] at sigma_min                        reconstruction, by the last block

with m the mean row. For the posterior mean of the rows the integral is the information that the levels resolve (see
`information.py`) and the bound is the entropy of the rows. In each interval the training law only decides where levels
are placed: every stratum is weighted by its width in ln sigma, so the estimate is unbiased under any law.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dbl.diffusion import append_axes, corrupt
from dbl.noise import Interval, NoiseDistribution
from dbl.partition import Partition
from dbl.seeding import SampleDraws
from dbl.targets import Prediction

# (block, noisy [N, ..., D], sigma [N]) -> what that block says about the noisy targets
Predict = Callable[[int, Tensor, Tensor], Prediction]


def strata(noise: NoiseDistribution, interval: Interval, num_strata: int) -> Tensor:
    """The ends of the parts of an interval that hold equal shares of the law: [num_strata + 1] decreasing levels."""
    q = torch.linspace(1, 0, num_strata + 1, dtype=torch.float64)
    ends = noise.quantile_within(interval, q)
    ends[0], ends[-1] = interval.high, interval.low
    return ends


@dataclass(frozen=True)
class Estimate:
    """A mean over samples: nats, and the standard error of the mean (0 for a single sample, where it is unknown)."""

    nats: float
    standard_error: float


@dataclass(frozen=True)
class CurveStep:
    """One stratum: its ends, the block that owns it, and the mean of `sigma^-2 |y - D|^2` in it."""

    sigma_high: float
    sigma_low: float
    block: int
    nats_per_log_sigma: float


@dataclass(frozen=True)
class Bound:
    """The bound on the negative log-likelihood of one target (one label, one token), mean over the samples, in nats.

    Attributes:
        nats: prior, reconstruction and all blocks.
        standard_error: of `nats`.
        prior: nats that are lost above sigma_max.
        reconstruction: nats that are left at sigma_min.
        blocks: [B] the part of each block.
        num_samples: independent samples: labels, or sequences of tokens.
        levels_per_block: strata of each interval.
        curve: strata from high noise to low.
    """

    nats: float
    standard_error: float
    prior: float
    reconstruction: float
    blocks: list[Estimate]
    num_samples: int
    levels_per_block: int
    curve: list[CurveStep]

    def to_plain(self) -> dict[str, Any]:
        """As JSON values, with the names above as keys."""
        return asdict(self)


class BoundSums:
    """Sums over samples, in float64 on the CPU; those of several processes may be added up.

    Args:
        num_blocks: B.
        num_strata: S, of each block.

    Attributes:
        counts: [1] samples.
        sums: [3 + B] total, prior, reconstruction and blocks.
        squares: [3 + B] the same, squared for each sample.
        strata: [B, S] nats of each stratum.
    """

    def __init__(self, num_blocks: int, num_strata: int) -> None:
        self.counts = torch.zeros(1, dtype=torch.float64)
        self.sums = torch.zeros(3 + num_blocks, dtype=torch.float64)
        self.squares = torch.zeros(3 + num_blocks, dtype=torch.float64)
        self.strata = torch.zeros(num_blocks, num_strata, dtype=torch.float64)

    def add(self, prior: Tensor, strata: Tensor, reconstruction: Tensor) -> None:
        """Add samples: nats of the prior [N], of every stratum [B, S, N] and of the reconstruction [N]."""
        prior, strata, reconstruction = (part.cpu().double() for part in (prior, strata, reconstruction))
        blocks = strata.sum(1)
        parts = torch.stack([prior + reconstruction + blocks.sum(0), prior, reconstruction, *blocks])
        self.counts = self.counts + len(prior)
        self.sums = self.sums + parts.sum(1)
        self.squares = self.squares + parts.square().sum(1)
        self.strata = self.strata + strata.sum(2)

    def reduce(self, total: Callable[[Tensor], Tensor]) -> None:
        """Replace every sum by its total over all processes."""
        for name in ("counts", "sums", "squares", "strata"):
            setattr(self, name, total(getattr(self, name)))

    def means(self) -> list[float]:
        """[3 + B] in the order of `sums`."""
        means: list[float] = (self.sums / self.counts).tolist()
        return means

    def standard_errors(self) -> list[float]:
        """[3 + B] of the means. Samples are independent, the strata of one sample are not: they share its target."""
        spread = (self.squares - self.sums.square() / self.counts).clamp(min=0)
        errors: list[float] = (spread / (self.counts - 1).clamp(min=1) / self.counts).sqrt().tolist()
        return errors


class BoundEstimator:
    """Estimates the bound of the module's docstring, a batch at a time.

    Every sample is denoised at one level in each stratum, log-uniform within it, with a noise of its own.

    Args:
        table: [C, D] rows.
        frequencies: [C] probabilities of the rows, adding up to 1; for the mean row of the prior.
        noise: the law that places the strata.
        partition: whose blocks own them; its overlap does not matter.
        levels_per_block: S, strata of each block's interval.
        seed: of levels and noise, which are functions of (seed, block, stratum, index of the sample).
    """

    def __init__(
        self,
        table: Tensor,
        frequencies: Tensor,
        noise: NoiseDistribution,
        partition: Partition,
        levels_per_block: int = 8,
        seed: int = 0,
    ) -> None:
        num_blocks = partition.num_blocks
        self.sigma_min, self.sigma_max = noise.range
        self.edges = [strata(noise, partition.interval(block), levels_per_block) for block in range(num_blocks)]
        self.levels_per_block = levels_per_block
        self.seed = seed
        self.sums = BoundSums(num_blocks, levels_per_block)
        self._mean_row = (frequencies.cpu().double() @ table.cpu().double()).to(table.dtype)

    @torch.no_grad()
    def add(self, clean: Tensor, labels: Tensor, indices: Tensor, predict: Predict) -> None:
        """Add a batch. Blocks are asked in order, each for all that it is needed for.

        Args:
            clean: [N, D] rows, or [N, T, D] for sequences, of which each has one level for all its tokens. The nats of
                a sequence are the mean over its tokens, and sequences are the independent samples.
            labels: [N] or [N, T] index of each row.
            indices: [N] number of each sample.
            predict: denoises with a block; logits [N, C] or [N, T, C].
        """
        blocks = [self._block(block, clean, indices, predict) for block in range(len(self.edges))]
        reconstruction = self._reconstruction(clean, labels, indices, predict)
        distance = (clean - self._mean_row.to(clean.device)).square().sum(-1)
        self.sums.add(_per_sample(distance) / (2 * self.sigma_max**2), torch.stack(blocks), reconstruction)

    def _block(self, block: int, clean: Tensor, indices: Tensor, predict: Predict) -> Tensor:
        """[S, N] nats of each stratum and sample: `ln(high / low) sigma^-2 |y - D|^2`."""
        draws = SampleDraws(self.seed, ("likelihood", block), indices)
        nats = []
        for high, low in pairwise(self.edges[block]):
            sigma = (low * (high / low) ** draws.uniform()).to(clean.device, torch.float32)
            denoised = predict(block, corrupt(clean, draws.normal(clean), sigma), sigma).denoised
            errors = (clean - denoised).float().square().sum(-1)
            per_log_sigma = errors / append_axes(sigma, errors).square()
            nats.append(float((high / low).log()) * _per_sample(per_log_sigma))
        return torch.stack(nats)

    def _reconstruction(self, clean: Tensor, labels: Tensor, indices: Tensor, predict: Predict) -> Tensor:
        """[N] cross-entropy of the last block at sigma_min."""
        unit_noise = SampleDraws(self.seed, ("likelihood", "reconstruction"), indices).normal(clean)
        sigma = torch.full((len(clean),), self.sigma_min, device=clean.device)
        logits = predict(len(self.edges) - 1, corrupt(clean, unit_noise, sigma), sigma).logits
        if logits is None:
            raise ValueError("the likelihood bound needs logits: the target must be discrete")
        nats = F.cross_entropy(logits.float().flatten(0, -2), labels.flatten(), reduction="none")
        return _per_sample(nats.reshape(labels.shape))

    def result(self) -> Bound:
        """The bound over all samples so far.

        Raises:
            ValueError: if there are none.
        """
        if not self.sums.counts.item():
            raise ValueError("the likelihood bound has no samples yet")
        (nats, prior, reconstruction, *blocks), (error, _, _, *errors) = self.sums.means(), self.sums.standard_errors()
        return Bound(
            nats=nats,
            standard_error=error,
            prior=prior,
            reconstruction=reconstruction,
            blocks=[Estimate(*pair) for pair in zip(blocks, errors, strict=True)],
            num_samples=int(self.sums.counts.item()),
            levels_per_block=self.levels_per_block,
            curve=self._curve(),
        )

    def _curve(self) -> list[CurveStep]:
        ends = torch.stack(self.edges)  # B, S + 1
        values = self.sums.strata / self.sums.counts / (ends[:, :-1] / ends[:, 1:]).log()
        return [
            CurveStep(high, low, block, value)
            for block, row in enumerate(values.tolist())
            for (high, low), value in zip(pairwise(ends[block].tolist()), row, strict=True)
        ]


def _per_sample(values: Tensor) -> Tensor:
    """[N] means of values [N, ...] over all axes but the first."""
    return values.flatten(1).mean(1) if values.ndim > 1 else values
