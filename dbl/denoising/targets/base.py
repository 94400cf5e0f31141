"""What every target offers: a space between raw batches and clean targets, a denoiser, and how it is used."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from dbl.data.spec import DataSpec
from dbl.denoising.channels import Channel
from dbl.denoising.denoiser import Denoiser
from dbl.denoising.readout import Clean
from dbl.denoising.sampling import Sampler
from dbl.diffusion.noise import NoiseDistribution
from dbl.utils.errors import UserError

Batch = dict[str, Tensor]


class TargetSpace(nn.Module, ABC):
    """From raw batches to clean targets, and from denoised targets to answers. It has no trainable parameter."""

    @abstractmethod
    def encode(self, batch: Batch) -> Clean:
        """Clean targets, conditions and labels of a raw batch."""

    @abstractmethod
    def corrupt(self, clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """Noisy targets from clean ones [N, *target_shape], unit normal noise of their shape, and levels [N]."""

    @abstractmethod
    def decode(self, denoised: Tensor) -> Tensor:
        """The answer that a denoised target stands for: raw images, labels [N], or tokens [N, T]."""


@dataclass(frozen=True)
class Target(ABC):
    """What a block denoises, for any data set.

    Attributes:
        generates: kind of sample; `values`: the decoded targets, which the commands know nothing more about.
        has_condition: whether the network sees anything beside the noisy target.
        in_any_order: whether text is written around given tokens, in any order, rather than from left to right.
        loss_unit: unit of the loss without its weight.
        level_name: name of a level on the axis of a figure.
        default_sampler: sampler for users who have not chosen one.
    """

    generates: ClassVar[Literal["images", "classes", "text", "values"]] = "values"
    has_condition: ClassVar[bool] = True
    in_any_order: ClassVar[bool] = False
    loss_unit: ClassVar[str] = "cross-entropy in nats"
    level_name: ClassVar[str] = "sigma"
    default_sampler: ClassVar[Sampler] = Sampler()

    @abstractmethod
    def shape(self, data: DataSpec) -> tuple[int, ...]:
        """Shape of one clean target."""

    @abstractmethod
    def check(self, noise: NoiseDistribution) -> None:
        """Raise UserError unless levels of this distribution mean something for this target."""

    def make_table(self, data: DataSpec, seed: int) -> Tensor | None:
        """The frozen table of discrete targets, or None."""
        return None

    @abstractmethod
    def space(self, data: DataSpec, table: Tensor | None) -> TargetSpace:
        """The target space for a data set."""

    @abstractmethod
    def make_denoiser(
        self, network: nn.Module, table: Tensor | None, noise: NoiseDistribution, num_classes: int
    ) -> Denoiser:
        """A denoiser around a network; its readout, if it has one, draws initial weights from torch's generator.

        Args:
            network: network of one block.
            table: table of the run, if it has one.
            noise: distribution of the levels.
            num_classes: C of the data.
        """

    @property
    def adds_evidence(self) -> bool:
        """Whether logits are those of the network plus the evidence of the noisy target, by Bayes' rule."""
        return False

    def check_sampler(self, sampler: Sampler) -> None:
        """Raise UserError if this target cannot be sampled so."""
        if sampler.method == "ancestral":
            raise wrong_method(sampler)

    def channel(self, data: DataSpec, table: Tensor | None) -> Channel | None:
        """The kind of noise as the likelihood bound needs it; None where there is no bound."""
        return None


def wrong_method(sampler: Sampler) -> UserError:
    """The error for a sampler of Gaussian noise on masked text, or the other way round."""
    return UserError(
        f"inference.sampler.method ({sampler.method}) does not fit: `ancestral` is for masked text, and masked text "
        "has no other"
    )
