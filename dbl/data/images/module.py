"""The DataModule of labelled images: splits and facts, from one method that a data set must give."""

from abc import abstractmethod
from functools import cached_property

from typing_extensions import override

from dbl.data.images.augment import Augmentation
from dbl.data.images.image_set import ImageBatches, ImageSet
from dbl.data.images.measure import measure
from dbl.data.labelled import LabelledData
from dbl.data.module import Split
from dbl.data.spec import ImageSpec
from dbl.utils.errors import UserError


class ImageData(LabelledData[ImageSet]):
    """Labelled images in three disjoint splits. A new data set is a subclass with the method `load`.

    Args:
        batch_size: number of training images in a batch of one device.
        eval_batch_size: number of images in a batch of one device in validation and test.
        augmentations: random changes of the training images, applied in this order.
        validation_share: share of each class that is cut from the training images where the data set has no validation
            split, in [0, 1); 0 means no validation.
        split_seed: random seed of that cut, apart from `seed`, so that runs of several seeds have the same splits.
        num_workers: number of processes that prepare batches; 0 prepares them in the main process.
        seed: random seed of the order of the training images and of their augmentations.

    Example:
        >>> import dbl, torch
        >>> class Noise(dbl.ImageData):
        ...     def load(self, split):
        ...         if split == "validation":
        ...             return None  # a tenth of the training images takes its place
        ...         return dbl.ImageSet(torch.randint(256, (100, 1, 8, 8), dtype=torch.uint8), torch.arange(100) % 2)
        >>> data = Noise(batch_size=10, eval_batch_size=50)
        >>> data.spec.shape, data.spec.num_classes, len(data.split("train"))
        ((1, 8, 8), 2, 90)
    """

    noun = "images"

    def __init__(
        self,
        batch_size: int,
        eval_batch_size: int,
        augmentations: list[Augmentation] | None = None,
        validation_share: float = 0.1,
        split_seed: int = 0,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, validation_share, split_seed, num_workers, seed)
        self.augmentations = augmentations or []

    @abstractmethod
    @override
    def load(self, split: Split) -> ImageSet | None:
        """Read one split; return None for "validation" if it is to be cut from the training images."""

    @cached_property
    @override
    def spec(self) -> ImageSpec:
        return measure(self.name, self.split("train"))

    @override
    def batches(self, name: Split, training: bool) -> ImageBatches:
        images = self.split(name)
        if not training:
            return ImageBatches(images)
        return ImageBatches(images, self.augmentations, self.seed, self._block, self._ranks[0])

    @override
    def check_kind(self, split: Split, samples: ImageSet, train: ImageSet) -> None:
        if samples.images.shape[1:] != train.images.shape[1:] or samples.images.dtype != train.images.dtype:
            raise UserError(
                f"data: the {split} images of {self.name} are {samples.images.dtype} {list(samples.images.shape[1:])}, "
                f"but its training images {train.images.dtype} {list(train.images.shape[1:])}"
            )
