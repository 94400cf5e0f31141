"""The DataModule of labelled vectors: splits and facts, from one method that a data set must give."""

from abc import abstractmethod
from functools import cached_property

from typing_extensions import override

from dbl.data.labelled import LabelledData
from dbl.data.module import Split
from dbl.data.spec import VectorSpec
from dbl.data.vectors.vector_set import VectorBatches, VectorSet, measure_vectors
from dbl.utils.errors import UserError


class VectorData(LabelledData[VectorSet]):
    """Labelled vectors in three disjoint splits. A new data set is a subclass with the method `load`.

    Arguments as in `LabelledData`. Networks see each feature with the mean and standard deviation of its training
    values taken away.

    Example:
        >>> import dbl, torch
        >>> class Halves(dbl.VectorData):
        ...     def load(self, split):
        ...         if split == "validation":
        ...             return None  # a tenth of the training vectors takes its place
        ...         vectors = torch.randn(100, 5)
        ...         return dbl.VectorSet(vectors, (vectors[:, 0] > 0).long())
        >>> data = Halves(batch_size=10, eval_batch_size=50)
        >>> data.spec.num_features, data.spec.num_classes
        (5, 2)
    """

    noun = "vectors"

    @abstractmethod
    @override
    def load(self, split: Split) -> VectorSet | None:
        """Read one split; return None for "validation" if it is to be cut from the training vectors."""

    @cached_property
    @override
    def spec(self) -> VectorSpec:
        return measure_vectors(self.name, self.split("train"))

    @override
    def batches(self, name: Split, training: bool) -> VectorBatches:
        return VectorBatches(self.split(name))

    @override
    def check_kind(self, split: Split, samples: VectorSet, train: VectorSet) -> None:
        found, wanted = samples.vectors.shape[1], train.vectors.shape[1]
        if found != wanted:
            raise UserError(
                f"data: the {split} vectors of {self.name} have {found} features, but its training vectors {wanted}"
            )
