"""The images of one split and the batches that the loader makes of them.

Axes: N images, C channels, H rows, W columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypedDict

import torch
from torch import Tensor
from torch.utils.data import Dataset
from typing_extensions import override

from dbl.data.images.augment import Augmentation
from dbl.data.labelled import check_labels
from dbl.data.order import BatchIndex, check_batch_index
from dbl.utils.errors import UserError
from dbl.utils.seeding import seeded


class Images(Protocol):
    """[N,C,H,W] values that need not sit in memory. A tensor is one."""

    @property
    def shape(self) -> torch.Size:
        """[N,C,H,W]."""

    @property
    def dtype(self) -> torch.dtype:
        """Type of the values."""

    def __getitem__(self, indices: Tensor, /) -> Tensor:
        """A copy of the images at `indices` [K], as [K,C,H,W]."""


@dataclass(frozen=True, eq=False)
class ImageView(Images):
    """A selection of images, without a copy of them."""

    images: Images
    selected: Tensor  # [N] int64 indices in `images`, in the order of the view

    @property
    @override
    def shape(self) -> torch.Size:
        return torch.Size((len(self.selected), *self.images.shape[1:]))

    @property
    @override
    def dtype(self) -> torch.dtype:
        return self.images.dtype

    @override
    def __getitem__(self, indices: Tensor, /) -> Tensor:
        return self.images[self.selected[indices]]


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images and their classes.

    Args:
        images: [N,C,H,W], uint8 for pixels or float32 for latents.
        labels: classes [N] int64, counted from 0. Raises UserError if a shape, a type or a label is another.

    Example:
        >>> import dbl, torch
        >>> images = dbl.ImageSet(torch.zeros(4, 3, 32, 32, dtype=torch.uint8), torch.tensor([0, 1, 1, 0]))
        >>> len(images), len(images.select(torch.tensor([0, 3])))
        (4, 2)
    """

    images: Images
    labels: Tensor

    def __post_init__(self) -> None:
        if len(self.images.shape) != 4 or self.images.dtype not in (torch.uint8, torch.float32):
            raise UserError(
                f"data: images must be uint8 or float32 [N,C,H,W], got {self.images.dtype} {list(self.images.shape)}"
            )
        check_labels(self.labels, self.images.shape[0], "images")

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: Tensor) -> "ImageSet":
        """The images at `indices` [K], in that order; the images themselves are not copied."""
        return ImageSet(ImageView(self.images, indices), self.labels[indices])


def check_classes(training: ImageSet, num_classes: int, source: str) -> None:
    """Raise UserError unless the largest label of the training images is that of the last class."""
    largest = int(training.labels.max()) if len(training) else -1
    if largest != num_classes - 1:
        raise UserError(
            f"data.init_args.num_classes is {num_classes}, but the labels of {source} go up to {largest} "
            f"(counted from 0)"
        )


class ImageBatch(TypedDict):
    """What a loader yields.

    Args:
        image: raw values [N,C,H,W], as in the data set.
        label: classes [N] int64.
        index: indices [N] int64 of the images in their split.
        position: number of the batch; see `BatchIndex`.
    """

    image: Tensor
    label: Tensor
    index: Tensor
    position: int


@dataclass(eq=False)
class ImageBatches(Dataset[ImageBatch]):
    """Whole batches by `BatchIndex`, for a `DataLoader` with an order as its sampler and `batch_size=None`.

    The augmentations' randomness is a function of (seed, block, position, rank).

    Args:
        images: images of one split.
        augmentations: random changes, applied one after another; none for evaluation.
        seed: random seed of the run.
        block: index of the block that is trained.
        rank: rank of this process.
    """

    images: ImageSet
    augmentations: Sequence[Augmentation] = ()
    seed: int = 0
    block: int = 0
    rank: int = 0

    def __len__(self) -> int:
        """Number of images, not of batches: that is the order's."""
        return len(self.images)

    def __getitem__(self, batch: BatchIndex) -> ImageBatch:
        check_batch_index(batch)
        image = self.images.images[batch.indices]
        if self.augmentations:
            with seeded(self.seed, "augment", self.block, batch.position, self.rank):
                for augmentation in self.augmentations:
                    image = augmentation(image)
        label = self.images.labels[batch.indices]
        return {"image": image, "label": label, "index": batch.indices, "position": batch.position}
