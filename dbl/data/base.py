"""The DataModule of labelled images: splits, loaders and facts, from one method that a data set must give."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Literal

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader

from dbl.data.augment import Augmentation
from dbl.data.images import ImageBatch, ImageBatches, ImageSet
from dbl.data.measure import measure
from dbl.data.order import EvaluationOrder, TrainingOrder
from dbl.data.splits import stratified_split
from dbl.data_spec import DataSpec
from dbl.errors import UserError

Split = Literal["train", "validation", "test"]


class ImageData(LightningDataModule, ABC):
    """Labelled images in three disjoint splits. A data set of one's own is a subclass with the method `load`.

    Args:
        batch_size: training images in a batch of one device.
        eval_batch_size: images in a batch of one device in validation and test.
        augmentations: random changes of the training images, applied in this order.
        validation_share: share of each class that is cut from the training images where the data set has no validation
            split, in [0, 1); 0 means no validation.
        split_seed: of that cut.
        num_workers: processes that prepare batches; 0 prepares them in the main process.
        seed: of the order of the training images and of their augmentations.

    Attributes:
        name: of the data set, for people.
    """

    name: str

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
        super().__init__()
        if not 0 <= validation_share < 1:
            raise UserError(f"data.init_args.validation_share ({validation_share}) must lie in [0, 1)")
        self.name = type(self).__name__.lower()
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.augmentations = augmentations or []
        self.validation_share = validation_share
        self.split_seed = split_seed
        self.num_workers = num_workers
        self.seed = seed
        self.bind(block=0, start=lambda: 0)

    @abstractmethod
    def load(self, split: Split) -> ImageSet | None:
        """Read one split. None for "validation" if the data set has none; it is then cut from the training images."""

    @cached_property
    def spec(self) -> DataSpec:
        """The facts about the data set, measured over the training split."""
        return measure(self.name, self.split("train"))

    @property
    def declared_spec(self) -> DataSpec:
        """Facts that suffice for planning; a data set whose arguments give shape and classes reads nothing for them."""
        return self.spec

    def split(self, name: Split) -> ImageSet:
        """The images of a split; read once.

        Raises:
            UserError: if the data set has no such split, or its images or classes are not those of the training split.
        """
        if name == "test":
            return self._test
        train, validation = self._train_and_validation
        return train if name == "train" else validation

    def bind(self, block: int, start: Callable[[], int]) -> None:
        """Say what the training batches are for.

        Args:
            block: that is trained; each block reads the images in an order of its own.
            start: returns the number of batches that training has consumed so far.
        """
        self._block = block
        self._start = start

    def train_dataloader(self) -> DataLoader[ImageBatch]:
        """Batches from the bound start on; see `TrainingOrder`."""
        images = self.split("train")
        rank, world_size = self._ranks
        order = TrainingOrder(len(images), self.batch_size, self.seed, self._block, self._start, rank, world_size)
        return self._loader(ImageBatches(images, self.augmentations, self.seed, self._block, rank), order)

    def val_dataloader(self) -> DataLoader[ImageBatch] | list[DataLoader[ImageBatch]]:
        """The validation images in order; no loader if there are none."""
        return self._evaluation_loader("validation") if len(self.split("validation")) else []

    def test_dataloader(self) -> DataLoader[ImageBatch]:
        """The test images in order."""
        return self._evaluation_loader("test")

    def predict_dataloader(self) -> DataLoader[ImageBatch]:
        """The test images in order."""
        return self._evaluation_loader("test")

    @cached_property
    def _train_and_validation(self) -> tuple[ImageSet, ImageSet]:
        train, validation = self._present("train", self.load("train")), self.load("validation")
        if validation is not None:
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
        """The images, if they have shape, type and classes of the training images."""
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

    @property
    def _ranks(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _evaluation_loader(self, split: Split) -> DataLoader[ImageBatch]:
        images = self.split(split)
        return self._loader(ImageBatches(images), EvaluationOrder(len(images), self.eval_batch_size, *self._ranks))

    def _loader(self, batches: ImageBatches, order: TrainingOrder | EvaluationOrder) -> DataLoader[ImageBatch]:
        return DataLoader(
            batches,
            batch_size=None,
            sampler=order,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )
