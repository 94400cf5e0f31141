"""Classes of images as targets."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from dbl.data.spec import DataSpec, ImageSpec
from dbl.denoising.readout import Clean
from dbl.denoising.sampling import Sampler
from dbl.denoising.targets.base import Batch
from dbl.denoising.targets.pixels import ImageScale, image_spec
from dbl.denoising.targets.tables import TableReadout, TableSpace, TableTarget


class ClassSpace(TableSpace):
    """One row of a frozen table for each class; the condition is the image.

    Args:
        data: facts with the scale of the images.
        table: [C, D] rows of unit length.
    """

    def __init__(self, data: ImageSpec, table: Tensor) -> None:
        super().__init__(table)
        self.standardise = ImageScale(data)

    @override
    def encode(self, batch: Batch) -> Clean:
        """Rows, images and labels from a batch with `image` and `label`."""
        return Clean(self.table[batch["label"]], self.standardise(batch["image"]), batch["label"])


@dataclass(frozen=True)
class ClassTarget(TableTarget):
    """Denoise the row of an image's class, which labels the image; arguments as in `TableTarget`.

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
        return ClassSpace(image_spec(data, "ClassTarget"), table)

    @override
    def readout(self, table: Tensor | None) -> TableReadout:
        assert table is not None
        return TableReadout(table, self.kind)
