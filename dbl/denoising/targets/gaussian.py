"""Targets to which Gaussian noise is added: what pixels and table rows have in common."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from dbl.denoising.targets.base import Clean, Prediction, Target, TargetSpace
from dbl.diffusion.gaussian import corrupt, edm_weight
from dbl.diffusion.masking import MaskingNoise
from dbl.diffusion.noise import NoiseDistribution
from dbl.utils.errors import UserError, check_choice

Weight = Literal["edm", "uniform"]
Adjust = Callable[[Tensor], Tensor]


class GaussianSpace(TargetSpace):
    """A target space with `z = y + sigma * noise`."""

    def corrupt(self, clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """See `TargetSpace.corrupt` and `dbl.diffusion.gaussian.corrupt`."""
        return corrupt(clean, noise, sigma)


class Readout(nn.Module, ABC):
    """From the network's answer to a denoised target, with the loss that trains it; belongs to one block."""

    @abstractmethod
    def forward(
        self, estimate: Tensor, output: Tensor, noisy: Tensor, sigma: Tensor, adjust: Adjust | None = None
    ) -> Prediction:
        """Read the network's answer.

        Args:
            estimate: [N, *target_shape] preconditioned, `c_skip noisy + c_out output`.
            output: [N, *target_shape] raw output of the network.
            noisy: [N, *target_shape].
            sigma: [N].
            adjust: a change of what the network says about discrete targets, before the evidence of the noisy target
                is added, such as a temperature; from logits to logits.
        """

    @abstractmethod
    def training_loss(self, estimate: Tensor, output: Tensor, noisy: Tensor, sigma: Tensor, clean: Clean) -> Tensor:
        """[N] what is trained on, before the weight; arguments as in `forward`."""

    @abstractmethod
    def loss(self, prediction: Prediction, clean: Clean) -> Tensor:
        """[N] loss of a prediction."""


@dataclass(frozen=True)
class GaussianTarget(Target):
    """A target to which Gaussian noise is added.

    Args:
        sigma_data: standard deviation of a coordinate of the clean target that preconditioning assumes.
        weight: of the loss by level; `edm`: (sigma^2 + sigma_data^2) / (sigma sigma_data)^2; `uniform`: 1.
    """

    sigma_data: float = 0.5
    weight: Weight = "edm"

    def __post_init__(self) -> None:
        if not self.sigma_data > 0:
            raise UserError(f"target.sigma_data ({self.sigma_data}) must be positive")
        check_choice("target.weight", self.weight, get_args(Weight))

    def check(self, noise: NoiseDistribution) -> None:
        """See `Target.check`."""
        if isinstance(noise, MaskingNoise):
            raise UserError(
                f"contract.noise MaskingNoise is for the target dbl.MaskTarget, not for {type(self).__name__}: its "
                "levels are probabilities"
            )

    def loss_weight(self, sigma: Tensor) -> Tensor:
        """[N] weights of levels [N]."""
        return edm_weight(sigma, self.sigma_data) if self.weight == "edm" else torch.ones_like(sigma)

    @abstractmethod
    def readout(self, table: Tensor | None) -> Readout:
        """A new readout, with trainable parameters of its own."""
