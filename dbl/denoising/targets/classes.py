"""Classes of images, vectors or anything else as targets."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from dbl.data.spec import DataSpec, ImageSpec, TextSpec, VectorSpec
from dbl.denoising.readout import Clean
from dbl.denoising.sampling import Sampler
from dbl.denoising.targets.base import Batch
from dbl.denoising.targets.pixels import ImageScale
from dbl.denoising.targets.tables import TableReadout, TableSpace, TableTarget
from dbl.utils.errors import UserError


class VectorScale(nn.Module):
    """Scales raw vectors to mean 0 and standard deviation 1 over the training split; a constant feature becomes 0.

    Args:
        data: facts with the mean and standard deviation of each feature.
    """

    def __init__(self, data: VectorSpec) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor([*map(float, data.mean)]), persistent=False)
        self.register_buffer("std", torch.tensor([float(value) or 1.0 for value in data.std]), persistent=False)

    def forward(self, vectors: Tensor) -> Tensor:
        """Standardised vectors [N, features]."""
        return (vectors.float() - self.mean) / self.std


class ClassSpace(TableSpace):
    """One row of a frozen table for each class; the condition is the image, the vector, or what a batch calls `cond`.

    Args:
        data: facts about images or vectors, with their scale; or about data of one's own.
        table: [C, D] rows of unit length.
    """

    def __init__(self, data: DataSpec, table: Tensor) -> None:
        super().__init__(table)
        self.key, self.standardise = condition_of(data)

    @override
    def encode(self, batch: Batch) -> Clean:
        """Rows, conditions and labels from a batch with `label` and `image`, `vector` or `cond`."""
        return Clean(self.table[batch["label"]], self.standardise(batch[self.key]), batch["label"])


def condition_of(data: DataSpec) -> tuple[str, nn.Module]:
    """The key of a condition in a batch, and the module that scales it. Raises UserError for text, which has none."""
    if isinstance(data, ImageSpec):
        return "image", ImageScale(data)
    if isinstance(data, VectorSpec):
        return "vector", VectorScale(data)
    if isinstance(data, TextSpec):
        raise UserError(f"contract.target ClassTarget needs labels, but data {data.name} is text: use dbl.TokenTarget")
    return "cond", nn.Identity()


@dataclass(frozen=True)
class ClassTarget(TableTarget):
    """Denoise the row of a sample's class, which labels the sample; arguments as in `TableTarget`.

    The condition is an image or a vector, standardised. For other data, whose `DataSpec` is a class of one's own or
    `DataSpec` itself, it is what the batch has under `cond`, as it is.

    Example:
        >>> import dbl
        >>> data = dbl.Digits(batch_size=64, eval_batch_size=64)
        >>> table = dbl.ClassTarget(dim=16).make_table(data.spec, seed=0)
        >>> table.shape  # 10 orthonormal rows of 16 coordinates
        torch.Size([10, 16])
    """

    generates: ClassVar = "classes"
    default_sampler: ClassVar = Sampler(schedule="quantile", temperature=0.0)  # the most probable class, no draw

    @override
    def shape(self, data: DataSpec) -> tuple[int, ...]:
        return (self.dim,)

    @override
    def space(self, data: DataSpec, table: Tensor | None) -> ClassSpace:
        assert table is not None
        return ClassSpace(data, table)

    @override
    def readout(self, table: Tensor | None) -> TableReadout:
        assert table is not None
        return TableReadout(table, self.kind)
