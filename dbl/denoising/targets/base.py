"""What every target space offers: from raw batches to clean targets, noise on them, and back to answers."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from dbl.data.spec import DataSpec
from dbl.diffusion.noise import NoiseDistribution

Batch = dict[str, Tensor]


class Clean(NamedTuple):
    """A batch without noise.

    Attributes:
        clean: [N, *target_shape] targets.
        cond: what the network may see beside the noisy target: labels [N], images [N, channels, height, width] or
            earlier tokens [N, T].
        labels: [N] class labels, or [N, T] tokens, IGNORED where nothing is scored.
    """

    clean: Tensor
    cond: Tensor
    labels: Tensor


class Prediction(NamedTuple):
    """What a block says about a noisy target.

    Attributes:
        denoised: [N, *target_shape].
        logits: [N, C] or [N, T, C] if the target is discrete.
    """

    denoised: Tensor
    logits: Tensor | None = None


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
    """What a block denoises, for any data set."""

    @abstractmethod
    def shape(self, data: DataSpec) -> tuple[int, ...]:
        """Shape of one clean target."""

    @abstractmethod
    def check(self, noise: NoiseDistribution) -> None:
        """Raise UserError unless levels of this distribution mean something for this target."""

    @abstractmethod
    def make_table(self, data: DataSpec, seed: int) -> Tensor | None:
        """The frozen table of discrete targets, or None."""

    @abstractmethod
    def space(self, data: DataSpec, table: Tensor | None) -> TargetSpace:
        """The target space for a data set."""
