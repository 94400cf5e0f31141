"""NoProp in continuous time: one network for all times, by a diffusion (CT) or by flow matching (FM); arXiv 2503.24322.

Both are denoisers for all levels, as `one block for all levels` is; they differ from it in schedule, loss and sampler.

Axes: N images, C classes, E coordinates of a label vector.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from dbl.denoising.targets import Batch
from dbl.run.contract import Contract
from dbl.training.baselines.noprop import Embedding, NoProp
from dbl.training.config import TrainingConfig
from dbl.training.module import Losses
from dbl.utils.checks import Number, check_numbers, whole
from dbl.utils.seeding import SampleDraws

_NUM_STEPS = whole(1, 100_000)


class LearnedSchedule(nn.Module):
    """The log of noise over signal as a function of time: from `noisiest` down to `cleanest`, learned in between.

    Args:
        noisiest: its value at time 0.
        cleanest: its value at time 1.
        width: number of hidden units.
    """

    def __init__(self, noisiest: float, cleanest: float, width: int = 32) -> None:
        super().__init__()
        self.noisiest, self.cleanest = noisiest, cleanest
        # Exponentials of these are positive weights, so that the function of time increases.
        self.straight = nn.Parameter(torch.zeros(1))
        self.slopes = nn.Parameter(torch.randn(width))
        self.offsets = nn.Parameter(torch.randn(width))
        self.heights = nn.Parameter(torch.randn(width) - 4)  # almost straight at first

    def forward(self, time: Tensor) -> tuple[Tensor, Tensor]:
        """Times [N] -> share of the signal, alpha-bar, and derivative of the signal-to-noise ratio [N]."""
        first, last = self._rising(time.new_tensor([0.0, 1.0]))[0]
        height, slope = self._rising(time)
        progress, slope = (height - first) / (last - first), slope / (last - first)
        span = self.noisiest - self.cleanest
        gamma = self.noisiest - span * progress
        return torch.sigmoid(-gamma), torch.exp(-gamma) * span * slope

    def _rising(self, time: Tensor) -> tuple[Tensor, Tensor]:
        """An increasing function of time, and its derivative."""
        slopes, heights = self.slopes.exp(), self.heights.exp()
        steps = torch.sigmoid(slopes * time[:, None] + self.offsets)  # N, width
        straight = self.straight.exp()
        return straight * time + steps @ heights, straight + (steps * (1 - steps)) @ (slopes * heights)


class NoPropCT(NoProp):
    """NoProp in continuous time: one network of the size of a block for all times, and a learned schedule.

    Args:
        contract: contract of the run that it is compared with; gives network sizes, data and seed.
        recipe: training configuration.
        embedding: label vectors. one_hot: rows of the identity, fixed. learned: 20 coordinates, orthogonal at first.
            prototype: learned images, at first the one of each class with the smallest median distance to the others.
        eta: factor on the denoising loss.
        noisiest: log of noise over signal at the start of the chain.
        cleanest: the same at its end.
        num_steps: number of steps of the chain; 1,000 in the paper.
    """

    def __init__(
        self,
        contract: Contract,
        recipe: TrainingConfig | None = None,
        embedding: Embedding = "one_hot",
        eta: float = 1.0,
        noisiest: float = 6.0,
        cleanest: float = -4.0,
        num_steps: int = 100,
    ) -> None:
        super().__init__("noprop_ct", contract, recipe, embedding, [contract.partition.layers[0]], eta)
        self.num_steps = num_steps
        bound = Number(at_least=-20, at_most=20)
        check_numbers("model", self, num_steps=_NUM_STEPS)
        check_numbers("model", {"noisiest": noisiest, "cleanest": cleanest}, noisiest=bound, cleanest=bound)
        self.network.register_module("schedule", LearnedSchedule(noisiest, cleanest))  # its weights are stored there

    @property
    def schedule(self) -> LearnedSchedule:
        """The learned schedule."""
        return cast(LearnedSchedule, self.network.get_submodule("schedule"))

    @override
    def losses(self, batch: Batch) -> Losses:
        """The bound of each image at a time of its own: readout, and denoising."""
        clean = self.space.encode(batch)
        vectors = self.network.embedding[clean.labels]
        noise = self._normal(vectors)
        time = torch.rand(len(vectors), generator=self._generator("time")).to(vectors.device)
        share, gain = self.schedule(time)
        mean = self.network.mean_vector(self.network.denoisers[0](_mixed(vectors, noise, share), time, clean.cond))
        denoising = 0.5 * self.eta * gain * (mean - vectors).square().sum(dim=1)
        last, _ = self.schedule(torch.ones_like(time))
        logits = self.network.readout(_mixed(vectors, noise, last))
        return Losses(denoising + F.cross_entropy(logits, clean.labels, reduction="none"))

    @override
    def chain_logits(self, images: Tensor, draws: SampleDraws) -> Tensor:
        """The readout after the deterministic path with the same marginals: each step keeps the estimated noise."""
        z = draws.normal(images.new_empty(len(images), self.network.embedding.shape[1]))
        times = torch.linspace(0, 1, self.num_steps + 1, device=z.device)
        shares = self.schedule(times)[0].detach()
        for time, before, after in zip(times[:-1], shares[:-1], shares[1:], strict=True):
            mean = self.network.mean_vector(self.network.denoisers[0](z, time.expand(len(z)), images))
            noise = (z - before.sqrt() * mean) / (1 - before).sqrt()
            z = after.sqrt() * mean + (1 - after).sqrt() * noise
        logits: Tensor = self.network.readout(z)
        return logits


def _mixed(vectors: Tensor, noise: Tensor, share: Tensor) -> Tensor:
    """Vectors [N, E] with this share [N] of the signal."""
    return share.sqrt()[:, None] * vectors + (1 - share).sqrt()[:, None] * noise


class NoPropFM(NoProp):
    """NoProp by flow matching: one network of the size of a block tells the direction from noise to the label vector.

    Args:
        contract: contract of the run that it is compared with; gives network sizes, data and seed.
        recipe: training configuration.
        embedding: label vectors. one_hot: rows of the identity, fixed. learned: 20 coordinates, orthogonal at first.
            prototype: learned images, at first the one of each class with the smallest median distance to the others.
        spread: standard deviation around the straight path.
        num_steps: number of steps of the chain; 1,000 in the paper.
    """

    def __init__(
        self,
        contract: Contract,
        recipe: TrainingConfig | None = None,
        embedding: Embedding = "one_hot",
        spread: float = 0.0,
        num_steps: int = 100,
    ) -> None:
        super().__init__("noprop_fm", contract, recipe, embedding, [contract.partition.layers[0]], eta=1.0)
        self.spread, self.num_steps = spread, num_steps
        check_numbers("model", self, num_steps=_NUM_STEPS, spread=Number(at_least=0, at_most=1e3))

    @override
    def losses(self, batch: Batch) -> Losses:
        """Squared error of the direction; where label vectors are learned, the nats of the label at its end too."""
        clean = self.space.encode(batch)
        vectors = self.network.embedding[clean.labels]
        noise, jitter = self._normal(vectors.repeat(2, 1)).chunk(2)
        time = torch.rand(len(vectors), generator=self._generator("time")).to(vectors.device)
        z = time[:, None] * vectors + (1 - time[:, None]) * noise + self.spread * jitter
        direction = self._direction(z, time, clean.cond)
        loss = (direction - (vectors - noise)).square().sum(dim=1)
        if self.network.embedding.requires_grad:
            logits = self.network.readout(z + (1 - time[:, None]) * direction)
            loss = loss + F.cross_entropy(logits, clean.labels, reduction="none")
        return Losses(loss)

    def _direction(self, z: Tensor, time: Tensor, images: Tensor) -> Tensor:
        """[N, E]: logits are coordinates here, not turned into probabilities."""
        direction: Tensor = self.network.denoisers[0](z, time, images) @ self.network.embedding
        return direction

    @override
    def chain_logits(self, images: Tensor, draws: SampleDraws) -> Tensor:
        """Minus the squared distance from each label vector at the end of the path: the nearest one is the label."""
        z = draws.normal(images.new_empty(len(images), self.network.embedding.shape[1]))
        for step in range(self.num_steps):
            time = z.new_full((len(z),), step / self.num_steps)
            z = z + self._direction(z, time, images) / self.num_steps
        return -torch.cdist(z, self.network.embedding).square()
