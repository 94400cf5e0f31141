"""Data: labelled images in three disjoint splits, read in an order that is a function of counters.

A data set of one's own is a subclass of `ImageData` with one method, `load(split) -> ImageSet | None`.
"""

from dbl.data.augment import Augmentation, HorizontalFlip, PaddedCrop, RandAugment
from dbl.data.base import ImageData, Split
from dbl.data.digits import Digits
from dbl.data.hub import HubImages
from dbl.data.images import ImageBatch, ImageBatches, Images, ImageSet
from dbl.data.latents import Latents
from dbl.data.order import BatchIndex, EvaluationOrder, TrainingOrder

__all__ = [
    "Augmentation",
    "BatchIndex",
    "Digits",
    "EvaluationOrder",
    "HorizontalFlip",
    "HubImages",
    "ImageBatch",
    "ImageBatches",
    "ImageData",
    "ImageSet",
    "Images",
    "Latents",
    "PaddedCrop",
    "RandAugment",
    "Split",
    "TrainingOrder",
]
