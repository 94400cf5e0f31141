"""The DataModule of labelled images: splits and facts, from one method that a data set must give."""

from abc import abstractmethod
from functools import cached_property

from typing_extensions import override

from dbl.data.images.augment import Augmentation
from dbl.data.images.image_set import ImageBatches, ImageSet
from dbl.data.images.measure import measure
from dbl.data.module import ResumableDataModule, Split
from dbl.data.spec import ImageSpec
from dbl.data.splits import stratified_split
from dbl.utils.checks import SEED, Number, check_numbers
from dbl.utils.errors import UserError


class ImageData(ResumableDataModule):
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
        super().__init__(batch_size, eval_batch_size, num_workers, seed)
        self.augmentations = augmentations or []
        self.validation_share = validation_share
        self.split_seed = split_seed
        check_numbers("data.init_args", self, validation_share=Number(at_least=0, below=1), split_seed=SEED)

    @abstractmethod
    def load(self, split: Split) -> ImageSet | None:
        """Read one split; return None for "validation" if it is to be cut from the training images."""

    @cached_property
    @override
    def spec(self) -> ImageSpec:
        return measure(self.name, self.split("train"))

    @override
    def split(self, name: Split) -> ImageSet:
        """The images of a split; read once.

        Raises UserError if the data set has no such split, or its images differ in kind from the training images.
        """
        if name == "test":
            return self._test
        train, validation = self._train_and_validation
        return train if name == "train" else validation

    @override
    def batches(self, name: Split, training: bool) -> ImageBatches:
        images = self.split(name)
        if not training:
            return ImageBatches(images)
        return ImageBatches(images, self.augmentations, self.seed, self._block, self._ranks[0])

    @cached_property
    def _train_and_validation(self) -> tuple[ImageSet, ImageSet]:
        train = self._present("train", self.load("train"))
        if (validation := self.load("validation")) is not None:
            return train, self._like("validation", validation, train)
        kept, held_out = stratified_split(train.labels, self.validation_share, self.split_seed)
        return train.select(kept), train.select(held_out)

    @cached_property
    def _test(self) -> ImageSet:
        return self._like("test", self.load("test"), self.split("train"))

    def _present(self, split: Split, images: ImageSet | None) -> ImageSet:
        if images is None or len(images) == 0:
            raise UserError(f"data: {self.name} has no images in its {split} split")
        return images

    def _like(self, split: Split, loaded: ImageSet | None, train: ImageSet) -> ImageSet:
        """Return the images; raise UserError unless they have the shape, type and classes of the training images."""
        images = self._present(split, loaded)
        if images.images.shape[1:] != train.images.shape[1:] or images.images.dtype != train.images.dtype:
            raise UserError(
                f"data: the {split} images of {self.name} are {images.images.dtype} {list(images.images.shape[1:])}, "
                f"but its training images {train.images.dtype} {list(train.images.shape[1:])}"
            )
        if images.labels.max() > train.labels.max():
            raise UserError(
                f"data: class {images.labels.max()} of the {split} split of {self.name} has no training image"
            )
        return images
