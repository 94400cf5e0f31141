"""Images as targets."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dbl.data.spec import DataSpec, ImageSpec
from dbl.denoising.targets.base import Batch, Clean, Prediction
from dbl.denoising.targets.gaussian import Adjust, GaussianSpace, GaussianTarget, Readout
from dbl.utils.errors import UserError


def image_spec(data: DataSpec, target: str) -> ImageSpec:
    """The facts about images; UserError if the data are something else."""
    if not isinstance(data, ImageSpec):
        raise UserError(f"contract.target {target} is for images, but data {data.name} is text: use dbl.TokenTarget")
    return data


class ImageScale(torch.nn.Module):
    """Raw images to mean 0 and standard deviation 1 over the training split, and back.

    Args:
        data: for mean and standard deviation of each channel.
    """

    def __init__(self, data: ImageSpec) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(data.mean).reshape(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(data.std).reshape(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Standardised images [N, channels, height, width]."""
        return (images.float() - self.mean) / self.std

    def invert(self, images: Tensor) -> Tensor:
        """Raw images, float."""
        return images * self.std + self.mean


class PixelSpace(GaussianSpace):
    """Images, scaled so that their measured standard deviation is `sigma_data`; the condition is the label.

    Args:
        data: for mean and standard deviation of each channel.
        sigma_data: standard deviation of the targets.
    """

    def __init__(self, data: ImageSpec, sigma_data: float) -> None:
        super().__init__()
        self.standardise = ImageScale(data)
        self.sigma_data = sigma_data

    def encode(self, batch: Batch) -> Clean:
        """See `TargetSpace.encode`; the batch has `image` and `label`."""
        return Clean(self.standardise(batch["image"]) * self.sigma_data, batch["label"], batch["label"])

    def decode(self, denoised: Tensor) -> Tensor:
        """Raw images (float, unclipped) [N, channels, height, width]."""
        return self.standardise.invert(denoised.float() / self.sigma_data)


class PixelReadout(Readout):
    """The preconditioned output is the denoised image; squared error (paper, Eq. 5, continuous targets)."""

    def forward(
        self, estimate: Tensor, output: Tensor, noisy: Tensor, sigma: Tensor, adjust: Adjust | None = None
    ) -> Prediction:
        """See `Readout.forward`."""
        return Prediction(estimate)

    def training_loss(self, estimate: Tensor, output: Tensor, noisy: Tensor, sigma: Tensor, clean: Clean) -> Tensor:
        """See `Readout.training_loss`: the same as `loss`."""
        return self.loss(Prediction(estimate), clean)

    def loss(self, prediction: Prediction, clean: Clean) -> Tensor:
        """Squared error, mean over the coordinates."""
        return (prediction.denoised - clean.clean).square().flatten(1).mean(dim=1)


@dataclass(frozen=True)
class PixelTarget(GaussianTarget):
    """Denoise images, scaled so that the standard deviation that was measured in training data becomes `sigma_data`.

    Example:
        >>> import dbl
        >>> data = dbl.Digits(batch_size=64, eval_batch_size=64)
        >>> dbl.PixelTarget().shape(data.spec)
        (1, 8, 8)
    """

    def shape(self, data: DataSpec) -> tuple[int, ...]:
        """See `Target.shape`."""
        return image_spec(data, "PixelTarget").shape

    def make_table(self, data: DataSpec, seed: int) -> None:
        """Images need no table."""

    def space(self, data: DataSpec, table: Tensor | None) -> PixelSpace:
        """See `Target.space`."""
        return PixelSpace(image_spec(data, "PixelTarget"), self.sigma_data)

    def readout(self, table: Tensor | None) -> PixelReadout:
        """See `GaussianTarget.readout`."""
        return PixelReadout()
