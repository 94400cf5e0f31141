"""Targets to which Gaussian noise is added: what pixels and table rows have in common."""

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from typing_extensions import override

from dbl.data.spec import DataSpec
from dbl.denoising.channels import GaussianChannel
from dbl.denoising.denoiser import GaussianDenoiser
from dbl.denoising.readout import Readout
from dbl.denoising.targets.base import Target, TargetSpace
from dbl.diffusion.gaussian import corrupt, edm_weight
from dbl.diffusion.masking import MaskingNoise
from dbl.diffusion.noise import NOISE, NoiseDistribution
from dbl.diffusion.preconditioning import EDM, Preconditioning
from dbl.utils.checks import Number, check_choice, check_numbers
from dbl.utils.errors import UserError
from dbl.utils.serialization import ADDED

# Key of a target in a config.
TARGET = "contract.target.init_args"

Weight = Literal["edm", "uniform"]


class GaussianSpace(TargetSpace):
    """A target space with `z = y + sigma * noise`."""

    @override
    def corrupt(self, clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        return corrupt(clean, noise, sigma)


@dataclass(frozen=True)
class GaussianTarget(Target):
    """A target to which Gaussian noise is added.

    Args:
        sigma_data: standard deviation of a coordinate of the clean target that preconditioning assumes.
        weight: weight of the loss by level; `edm`: (sigma^2 + sigma_data^2) / (sigma sigma_data)^2; `uniform`: 1.
        preconditioning: kind of the network's prediction, and of the number that tells it the level: `dbl.EDM`, or
            `dbl.VP` or `dbl.Flow` for networks that read training steps, such as `dbl.DiffusersDiT`.
    """

    loss_unit: ClassVar[str] = "squared error per coordinate"
    sigma_data: float = 0.5
    weight: Weight = "edm"
    preconditioning: Preconditioning = field(default_factory=EDM, metadata=ADDED)

    def __post_init__(self) -> None:
        check_numbers(TARGET, self, sigma_data=Number(at_least=1e-6, at_most=1e6))
        check_choice(f"{TARGET}.weight", self.weight, get_args(Weight))

    @abstractmethod
    def readout(self, table: Tensor | None) -> Readout:
        """A new readout, with trainable parameters of its own."""

    @override
    def check(self, noise: NoiseDistribution) -> None:
        if isinstance(noise, MaskingNoise):
            raise UserError(
                f"contract.noise MaskingNoise is for the target dbl.MaskTarget, not for {type(self).__name__}: its "
                "levels are probabilities"
            )
        known = self.preconditioning.range
        if known and not known.low <= noise.sigma_min < noise.sigma_max <= known.high:
            raise UserError(
                f"{NOISE}.sigma_min ({noise.sigma_min:g}) and sigma_max ({noise.sigma_max:g}) must lie within "
                f"{known.low!r} and {known.high!r}, the levels of {type(self.preconditioning).__name__}"
            )

    def loss_weight(self, sigma: Tensor) -> Tensor:
        """[N] weights of levels [N]."""
        return edm_weight(sigma, self.sigma_data) if self.weight == "edm" else torch.ones_like(sigma)

    @override
    def make_denoiser(
        self, network: nn.Module, table: Tensor | None, noise: NoiseDistribution, num_classes: int
    ) -> GaussianDenoiser:
        readout = self.readout(table)
        return GaussianDenoiser(network, readout, self.sigma_data, self.loss_weight, self.preconditioning)

    @override
    def channel(self, data: DataSpec, table: Tensor | None) -> GaussianChannel | None:
        if table is None:
            return None
        return GaussianChannel(table, torch.tensor(data.class_frequencies, dtype=torch.float64))
