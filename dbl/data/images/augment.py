"""Random changes of training images, drawn anew for each image of a batch.

They draw from torch's global generator; `ImageBatches` seeds it for each batch. Flip and crop work on whole batches:
torchvision's transforms draw once for a batch and, applied image by image, take seven times as long.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad
from typing_extensions import override

from dbl.utils.checks import Number, check_numbers, whole
from dbl.utils.errors import UserError

# Members of a list have no name of their own in a config.
_KEY = "data.init_args.augmentations"


class Augmentation(ABC):
    """A random map from images to images of the same shape and type."""

    @abstractmethod
    def __call__(self, images: Tensor) -> Tensor:
        """Change raw images [N,C,H,W], each by a draw of its own, and return them as new tensors."""


@dataclass(frozen=True)
class HorizontalFlip(Augmentation):
    """Mirror left and right.

    Args:
        probability: share of the images that are mirrored, in [0, 1].

    Example:
        >>> import dbl, torch
        >>> dbl.HorizontalFlip(probability=1.0)(torch.tensor([[[[1, 2, 3]]]])).tolist()
        [[[[3, 2, 1]]]]
    """

    probability: float = 0.5

    def __post_init__(self) -> None:
        check_numbers(f"{_KEY}.HorizontalFlip", self, probability=Number(at_least=0, at_most=1))

    @override
    def __call__(self, images: Tensor) -> Tensor:
        flipped = torch.rand(len(images)) < self.probability  # [N]
        return torch.where(flipped[:, None, None, None], images.flip(-1), images)


@dataclass(frozen=True)
class PaddedCrop(Augmentation):
    """Shift by up to `padding` pixels in each direction; what comes in from outside has the raw value 0 (black).

    Args:
        padding: largest shift, in pixels.

    Example:
        >>> import dbl, torch
        >>> dbl.PaddedCrop(padding=2)(torch.zeros(5, 3, 8, 8)).shape
        torch.Size([5, 3, 8, 8])
    """

    padding: int = 4

    def __post_init__(self) -> None:
        check_numbers(f"{_KEY}.PaddedCrop", self, padding=whole(0, 10_000))

    @override
    def __call__(self, images: Tensor) -> Tensor:
        num, _, height, width = images.shape
        corners = torch.randint(2 * self.padding + 1, (num, 2)).tolist()
        padded = pad(images, [self.padding] * 4)
        # Faster than gathering with one index tensor.
        crops = [
            image[:, top : top + height, left : left + width]
            for image, (top, left) in zip(padded, corners, strict=True)
        ]
        return torch.stack(crops)


@dataclass(frozen=True)
class RandAugment(Augmentation):
    """RandAugment (arXiv 1909.13719) as in torchvision, for uint8 images.

    Args:
        num_ops: number of operations on each image.
        magnitude: strength of each operation, from 0 to 30.

    Example:
        >>> import dbl, torch
        >>> dbl.RandAugment(num_ops=1)(torch.zeros(5, 3, 8, 8, dtype=torch.uint8)).shape
        torch.Size([5, 3, 8, 8])
    """

    num_ops: int = 2
    magnitude: int = 9

    def __post_init__(self) -> None:
        check_numbers(f"{_KEY}.RandAugment", self, num_ops=whole(0, 1000), magnitude=whole(0, 30))

    @override
    def __call__(self, images: Tensor) -> Tensor:
        from torchvision.transforms import v2

        if images.dtype != torch.uint8:
            raise UserError(
                f"RandAugment needs uint8 images, not {images.dtype}; leave it out of data.init_args.augmentations"
            )
        augment = v2.RandAugment(self.num_ops, self.magnitude)
        # torchvision would draw once for a whole batch.
        return torch.stack([augment(image) for image in images])
