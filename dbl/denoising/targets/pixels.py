"""Images as targets."""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from dbl.data.spec import DataSpec, ImageSpec, kind_of, white_value
from dbl.denoising.readout import Adjust, Clean, Prediction, Readout
from dbl.denoising.targets.base import Batch
from dbl.denoising.targets.gaussian import GaussianSpace, GaussianTarget
from dbl.utils.errors import UserError
from dbl.utils.serialization import ADDED


def image_spec(data: DataSpec, target: str) -> ImageSpec:
    """The facts about images; raises UserError if the data are something else."""
    if not isinstance(data, ImageSpec):
        instead = {"text": ": use dbl.TokenTarget", "vector": ": use dbl.ClassTarget"}.get(kind_of(data), "")
        raise UserError(f"contract.target {target} is for images, but data {data.name} is {kind_of(data)}{instead}")
    return data


class ImageScale(torch.nn.Module):
    """Scales raw images to mean 0 and standard deviation 1 over the training split, and back.

    Args:
        data: facts with the mean and standard deviation of each channel.
    """

    def __init__(self, data: ImageSpec) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor([*map(float, data.mean)]).reshape(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([*map(float, data.std)]).reshape(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Standardised images [N, channels, height, width]."""
        return (images.float() - self.mean) / self.std

    def invert(self, images: Tensor) -> Tensor:
        """Raw images, float."""
        return images * self.std + self.mean


class PixelSpace(GaussianSpace):
    """Images, scaled so that their measured standard deviation is `sigma_data`; the condition is the label.

    Args:
        data: facts with the mean and standard deviation of each channel.
        sigma_data: standard deviation of the targets.
    """

    def __init__(self, data: ImageSpec, sigma_data: float) -> None:
        super().__init__()
        self.standardise = ImageScale(data)
        self.sigma_data = sigma_data

    @override
    def encode(self, batch: Batch) -> Clean:
        """Scaled images and labels from a batch with `image` and `label`."""
        return Clean(self.standardise(batch["image"]) * self.sigma_data, batch["label"], batch["label"])

    @override
    def decode(self, denoised: Tensor) -> Tensor:
        """Raw images (float, unclipped) [N, channels, height, width]."""
        return self.standardise.invert(denoised.float() / self.sigma_data)


class PixelReadout(Readout):
    """The preconditioned output is the denoised image; squared error (paper, Eq. 5, continuous targets)."""

    @override
    def forward(
        self, estimate: Tensor, output: Tensor, noisy: Tensor, sigma: Tensor, adjust: Adjust | None = None
    ) -> Prediction:
        return Prediction(estimate)

    @override
    def loss(self, prediction: Prediction, clean: Clean) -> Tensor:
        """Squared error, mean over the coordinates."""
        return (prediction.denoised - clean.clean).square().flatten(1).mean(dim=1)


@dataclass(frozen=True)
class PixelTarget(GaussianTarget):
    """Denoise images, scaled so that the standard deviation measured in the training data becomes `sigma_data`.

    Args:
        standardise: whether images are scaled so. false: pixels from -1 to 1, and latents as they are, as networks that
            were trained elsewhere expect them.

    Example:
        >>> import dbl
        >>> data = dbl.Digits(batch_size=64, eval_batch_size=64)
        >>> dbl.PixelTarget().shape(data.spec)
        (1, 8, 8)
    """

    generates: ClassVar = "images"
    standardise: bool = field(default=True, metadata=ADDED)

    @override
    def shape(self, data: DataSpec) -> tuple[int, ...]:
        return image_spec(data, "PixelTarget").shape

    @override
    def space(self, data: DataSpec, table: Tensor | None) -> PixelSpace:
        return PixelSpace(self.scale(image_spec(data, "PixelTarget")), self.sigma_data)

    def scale(self, data: ImageSpec) -> ImageSpec:
        """The data with the mean and deviation that targets are scaled by: raw = y / sigma_data * std + mean."""
        if self.standardise:
            return data
        white = white_value(data)
        mean, half = (0.0, 1.0) if white is None else (white / 2, white / 2)
        channels = data.shape[0]
        return replace(data, mean=(mean,) * channels, std=(half * self.sigma_data,) * channels)

    @override
    def readout(self, table: Tensor | None) -> PixelReadout:
        return PixelReadout()
