"""NoProp: label vectors are denoised as in a diffusion, without a gradient between steps (arXiv 2503.24322).

Time t runs from noise, 0, to the clean label, 1, against the noise levels elsewhere in `dbl`. Each variant trains
networks `u(z_t, t, image)` that tell the label, and a readout of the last z; see `NoProp` for what they share.

Axes: N images, C classes, E coordinates of a label vector.
"""

import math
from abc import abstractmethod
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from dbl.data.module import ResumableDataModule
from dbl.data.spec import ImageSpec
from dbl.denoising.targets import Batch
from dbl.run.contract import Contract
from dbl.training.baselines.classifier import Classifier
from dbl.training.baselines.prototypes import typical_images
from dbl.training.config import TrainingConfig
from dbl.training.module import Losses
from dbl.utils.checks import Number, check_choice, check_numbers
from dbl.utils.errors import UserError
from dbl.utils.seeding import SampleDraws, generator_for

Embedding = Literal["one_hot", "learned", "prototype"]

_LEARNED_WIDTH = 20  # coordinates of a learned label vector, as in the paper


class LabelDenoiser(nn.Module):
    """A network of the run's architecture that tells the label of an image from a noisy label vector beside it."""

    def __init__(self, contract: Contract, embedding_width: int, num_layers: int) -> None:
        super().__init__()
        self.body = contract.config.network.build(contract.data, (embedding_width,), num_layers)
        self.head = nn.Linear(embedding_width, contract.data.num_classes)

    def forward(self, noisy: Tensor, time: Tensor, images: Tensor) -> Tensor:
        """Noisy vectors [N, E], times [N] in [0, 1] and images -> logits [N, C]."""
        logits: Tensor = self.head(self.body(noisy, time - 0.5, images))
        return logits


class NoPropNetwork(nn.Module):
    """Label vectors, the networks that denoise them, and the readout of the last one.

    Args:
        contract: contract of the run that it is compared with.
        embedding: label vectors. one_hot: rows of the identity, fixed. learned: 20 coordinates, orthogonal at first.
            prototype: learned images, a typical one of each class at first.
        layers: number of layers of each network.
    """

    def __init__(self, contract: Contract, embedding: Embedding, layers: list[int]) -> None:
        super().__init__()
        classes = contract.data.num_classes
        start = _first_vectors(contract, embedding)
        self.embedding = nn.Parameter(start, requires_grad=embedding != "one_hot")
        self.denoisers = nn.ModuleList(LabelDenoiser(contract, start.shape[1], number) for number in layers)
        self.readout = nn.Linear(start.shape[1], classes)

    def mean_vector(self, logits: Tensor) -> Tensor:
        """The label vector [N, E] that is expected under logits [N, C]."""
        return logits.softmax(dim=1) @ self.embedding


def _first_vectors(contract: Contract, embedding: Embedding) -> Tensor:
    """Label vectors [C, E] before training; prototypes are 0 until the data are there."""
    classes, data = contract.data.num_classes, contract.data
    if embedding == "one_hot":
        return torch.eye(classes)
    if embedding == "learned":
        return nn.init.orthogonal_(torch.empty(classes, _LEARNED_WIDTH))
    assert isinstance(data, ImageSpec)  # the network was built for them
    return torch.zeros(classes, math.prod(data.shape))


class NoProp(Classifier):
    """What the variants of NoProp share: label vectors, a random time for each step of training, the readout.

    Args:
        part: name of its folder in the run folder.
        contract: contract of the run that it is compared with; gives network sizes, data and seed.
        recipe: training configuration.
        embedding: label vectors; see `NoPropNetwork`.
        layers: number of layers of each network.
        eta: factor on the denoising loss.
    """

    network: NoPropNetwork

    def __init__(
        self,
        part: str,
        contract: Contract,
        recipe: TrainingConfig | None,
        embedding: Embedding,
        layers: list[int],
        eta: float,
    ) -> None:
        check_choice("model.embedding", embedding, get_args(Embedding))
        super().__init__(part, contract, recipe, lambda _: NoPropNetwork(contract, embedding, layers))
        self.embedding, self.eta = embedding, eta
        check_numbers("model", self, eta=Number(above=0, at_most=1e6))
        self.layer_passes = contract.config.network.layer_passes(max(layers))

    @override
    def on_fit_start(self) -> None:
        """Start prototypes from typical images, as the network sees them."""
        super().on_fit_start()
        if self.embedding != "prototype" or self.batches_seen:
            return
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, ResumableDataModule):
            raise UserError("model.embedding=prototype reads the training images: give the Trainer a DataModule of dbl")
        for label, image in typical_images(data, self.contract.data.num_classes).items():
            seen = self.space.encode({"image": image[None].to(self.device), "label": torch.tensor([label])})
            self.network.embedding.data[label] = seen.cond.flatten()

    @override
    def class_logits(self, images: Tensor, indices: Tensor) -> Tensor:
        """Logits of the readout at the end of the chain; noise is a function of the indices."""
        return self.chain_logits(images, SampleDraws(self.seed, ("chain", self.part), indices))

    @abstractmethod
    def chain_logits(self, images: Tensor, draws: SampleDraws) -> Tensor:
        """Logits [N, C] at the end of the chain that starts at noise."""

    def _generator(self, purpose: str) -> torch.Generator:
        """The generator of a training step, or of validation, which draws the same each time."""
        counters = ("training", self.batches_seen, self.global_rank) if self.training else ("validation",)
        return generator_for(self.seed, purpose, self.part, *counters)

    def _normal(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self._generator("noise")).to(like.device)


class NoPropDT(NoProp):
    """NoProp in discrete time: a network for each step, trained alone.

    A step trains the network of one random time, so it costs as much as a step of a block.

    Args:
        contract: contract of the run that it is compared with; its blocks give the number of steps and their layers.
        recipe: training configuration.
        embedding: label vectors. one_hot: rows of the identity, fixed. learned: 20 coordinates, orthogonal at first.
            prototype: learned images, at first the one of each class with the smallest median distance to the others.
        eta: factor on the denoising loss.
        largest_share: share of the signal in the last z, alpha-bar at t = 1; at 1 its signal-to-noise ratio would be
            infinite.
    """

    def __init__(
        self,
        contract: Contract,
        recipe: TrainingConfig | None = None,
        embedding: Embedding = "one_hot",
        eta: float = 0.1,
        largest_share: float = 0.99,
    ) -> None:
        layers = list(contract.partition.layers)
        super().__init__("noprop_dt", contract, recipe, embedding, layers, eta)
        self.largest_share = largest_share
        check_numbers("model", self, largest_share=Number(above=0.5, below=1))
        self.shares = cosine_shares(len(layers), largest_share)

    @override
    def losses(self, batch: Batch) -> Losses:
        """The bound of each image, with the denoising of one random step for that of all."""
        clean = self.space.encode(batch)
        vectors = self.network.embedding[clean.labels]
        num_steps = len(self.network.denoisers)
        step = int(torch.randint(num_steps, (1,), generator=self._generator("step")))
        noise = self._normal(vectors)
        before, after = self.shares[step], self.shares[step + 1]
        noisy = math.sqrt(before) * vectors + math.sqrt(1 - before) * noise
        time = vectors.new_full((len(vectors),), step / num_steps)
        mean = self.network.mean_vector(self.network.denoisers[step](noisy, time, clean.cond))
        gain = signal_to_noise(after) - signal_to_noise(before)
        denoising = 0.5 * num_steps * self.eta * gain * (mean - vectors).square().sum(dim=1)
        last = math.sqrt(self.largest_share) * vectors + math.sqrt(1 - self.largest_share) * noise
        readout = F.cross_entropy(self.network.readout(last), clean.labels, reduction="none")
        return Losses(denoising + readout + prior_divergence(vectors, self.shares[0]))

    @override
    def chain_logits(self, images: Tensor, draws: SampleDraws) -> Tensor:
        """The readout after all steps, each a draw from the posterior with the label that its network expects."""
        z = draws.normal(images.new_empty(len(images), self.network.embedding.shape[1]))
        num_steps = len(self.network.denoisers)
        for step, denoiser in enumerate(self.network.denoisers):
            time = z.new_full((len(z),), step / num_steps)
            mean = self.network.mean_vector(denoiser(z, time, images))
            of_mean, of_z, deviation = posterior(self.shares[step], self.shares[step + 1])
            z = of_mean * mean + of_z * z + deviation * draws.normal(z)
        logits: Tensor = self.network.readout(z)
        return logits


def cosine_shares(num_steps: int, largest: float) -> list[float]:
    """Shares of the signal, alpha-bar, at times 0, 1 / T ... 1: a squared cosine that ends at `largest`.

    It begins close to 0, where z is noise, but not at it: the first step would then have no posterior.
    """
    end = math.acos(math.sqrt(largest))
    angles = [math.pi / 2 * (1 - 0.01) + (end - math.pi / 2 * (1 - 0.01)) * t / num_steps for t in range(num_steps + 1)]
    return [math.cos(angle) ** 2 for angle in angles]


def signal_to_noise(share: float) -> float:
    """Signal-to-noise ratio of z with this share of the signal."""
    return share / (1 - share)


def prior_divergence(vectors: Tensor, share: float) -> Tensor:
    """KL divergence [N] of the first z, given its label, from unit noise, in nats."""
    width = vectors.shape[1]
    variance = 1 - share
    return 0.5 * (share * vectors.square().sum(dim=1) + width * (variance - 1 - math.log(variance)))


def posterior(before: float, after: float) -> tuple[float, float, float]:
    """Factors of the clean vector and of z, and the deviation, in q(z after | z before, clean).

    Args:
        before: share of the signal in the z that is known.
        after: share of the signal in the next one, larger.
    """
    ratio = before / after  # the paper's alpha of the earlier step: noise is added from `after` to `before`
    of_clean = math.sqrt(after) * (1 - ratio) / (1 - before)
    of_z = math.sqrt(ratio) * (1 - after) / (1 - before)
    return of_clean, of_z, math.sqrt((1 - after) * (1 - ratio) / (1 - before))
