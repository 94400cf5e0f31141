"""What every feature extractor has in common.

Axes: N images, C channels, H rows, W columns.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor

from dbl.data.spec import ImageSpec
from dbl.evaluation.image_metrics import ImageFeatures
from dbl.utils.errors import UserError


class FeatureExtractor(ABC):
    """A frozen network that turns raw images into features and class scores.

    Attributes:
        title: name for people, e.g. "in_domain (digits)".
        suffix: ending of the names of metrics; "" stands for the Inception network alone.
        identity: text that changes with anything that changes the features.
        feature_size: D.
        accuracy: accuracy on the test split, in [0, 1]; None if the network's classes are not those of the data.
    """

    title: str
    suffix: str
    identity: str
    feature_size: int
    accuracy: float | None = None

    @abstractmethod
    def __call__(self, images: Tensor) -> ImageFeatures:
        """Features on the CPU of raw images [N,C,H,W] on any device, each a function of its image alone."""

    @torch.no_grad()
    def over(self, batches: Iterable[Tensor]) -> ImageFeatures:
        """Features of all images of the batches, in order."""
        return ImageFeatures.join([self(images) for images in batches])


def check_comparable(shape: Iterable[int], data: ImageSpec) -> None:
    """Raise UserError unless images of a `shape` [C,H,W] may be compared with those of a data set.

    The extractors would silently resize or misread images of another kind.
    """
    if tuple(shape) != data.shape:
        raise UserError(
            f"image_quality: generated images are {list(shape)} [channels, height, width], but those of {data.name} "
            f"are {list(data.shape)}; evaluate the network on the data set that it was trained on"
        )
