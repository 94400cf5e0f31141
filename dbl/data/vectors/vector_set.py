"""The vectors of one split, the batches that the loader makes of them, and what is measured of them.

Axes: N vectors, F features.
"""

import hashlib
from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor
from torch.utils.data import Dataset

from dbl.data.labelled import check_labels, class_frequencies
from dbl.data.order import BatchIndex, check_batch_index
from dbl.data.spec import VectorSpec
from dbl.utils.errors import UserError


@dataclass(frozen=True, eq=False)
class VectorSet:
    """Vectors and their classes.

    Args:
        vectors: [N,F] float32, finite.
        labels: classes [N] int64, counted from 0. Raises UserError if a shape, a type or a value is another.

    Example:
        >>> import dbl, torch
        >>> vectors = dbl.VectorSet(torch.randn(4, 13), torch.tensor([0, 1, 1, 0]))
        >>> len(vectors), len(vectors.select(torch.tensor([0, 3])))
        (4, 2)
    """

    vectors: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or self.vectors.dtype != torch.float32:
            raise UserError(f"data: vectors must be float32 [N,F], got {self.vectors.dtype} {list(self.vectors.shape)}")
        if not self.vectors.isfinite().all():
            row, feature = (~self.vectors.isfinite()).nonzero()[0].tolist()
            raise UserError(f"data: feature {feature} of vector {row} is not finite (both counted from 0)")
        check_labels(self.labels, len(self.vectors), "vectors")

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: Tensor) -> "VectorSet":
        """The vectors at `indices` [K], in that order."""
        return VectorSet(self.vectors[indices], self.labels[indices])


class VectorBatch(TypedDict):
    """What a loader yields.

    Args:
        vector: raw values [N,F], as in the data set.
        label: classes [N] int64.
        index: indices [N] int64 of the vectors in their split.
        position: number of the batch; see `BatchIndex`.
    """

    vector: Tensor
    label: Tensor
    index: Tensor
    position: int


@dataclass(eq=False)
class VectorBatches(Dataset[VectorBatch]):
    """Whole batches by `BatchIndex`, for a `DataLoader` with an order as its sampler and `batch_size=None`."""

    vectors: VectorSet

    def __len__(self) -> int:
        """Number of vectors, not of batches: that is the order's."""
        return len(self.vectors)

    def __getitem__(self, batch: BatchIndex) -> VectorBatch:
        check_batch_index(batch)
        rows = batch.indices
        return {
            "vector": self.vectors.vectors[rows],
            "label": self.vectors.labels[rows],
            "index": rows,
            "position": batch.position,
        }


def measure_vectors(name: str, training: VectorSet) -> VectorSpec:
    """The facts about a data set, from its training split alone. Raises UserError if a class never occurs in it."""
    values = training.vectors.double()
    digest = hashlib.sha256(f"{tuple(values.shape)}".encode())
    digest.update(training.labels.numpy().tobytes())
    digest.update(training.vectors.contiguous().numpy().tobytes())
    frequencies = class_frequencies(name, training.labels, "vectors")
    return VectorSpec(
        name=name,
        identity=digest.hexdigest(),
        num_classes=len(frequencies),
        class_frequencies=frequencies,
        num_features=values.shape[1],
        mean=tuple(values.mean(dim=0).tolist()),
        std=tuple(values.std(dim=0, correction=0).tolist()),
    )
