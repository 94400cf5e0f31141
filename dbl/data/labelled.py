"""The DataModule of labelled samples of any kind: three disjoint splits, from one method that a data set must give."""

from abc import abstractmethod
from functools import cached_property
from typing import ClassVar, Generic, Protocol, Self, TypeVar

import torch
from torch import Tensor
from typing_extensions import override

from dbl.data.module import ResumableDataModule, Split
from dbl.data.splits import stratified_split
from dbl.utils.checks import SEED, Number, check_numbers
from dbl.utils.errors import UserError


class LabelledSet(Protocol):
    """Samples and their classes."""

    @property
    def labels(self) -> Tensor:
        """Classes [N] int64, counted from 0."""

    def __len__(self) -> int:
        """N."""

    def select(self, indices: Tensor) -> Self:
        """The samples at `indices` [K], in that order."""


Samples = TypeVar("Samples", bound=LabelledSet)


class LabelledData(ResumableDataModule, Generic[Samples]):
    """Labelled samples in three disjoint splits; `ImageData` and `VectorData` say of what kind.

    Args:
        batch_size: number of training samples in a batch of one device.
        eval_batch_size: number of samples in a batch of one device in validation and test.
        validation_share: share of each class that is cut from the training samples where the data set has no validation
            split, in [0, 1); 0 means no validation.
        split_seed: random seed of that cut, apart from `seed`, so that runs of several seeds have the same splits.
        num_workers: number of processes that prepare batches; 0 prepares them in the main process.
        seed: random seed of the order of the training samples.

    Attributes:
        noun: word for the samples in messages.
    """

    noun: ClassVar[str] = "samples"

    def __init__(
        self,
        batch_size: int,
        eval_batch_size: int,
        validation_share: float = 0.1,
        split_seed: int = 0,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, num_workers, seed)
        self.validation_share = validation_share
        self.split_seed = split_seed
        check_numbers("data.init_args", self, validation_share=Number(at_least=0, below=1), split_seed=SEED)

    @abstractmethod
    def load(self, split: Split) -> Samples | None:
        """Read one split; return None for "validation" if it is to be cut from the training samples."""

    @abstractmethod
    def check_kind(self, split: Split, samples: Samples, train: Samples) -> None:
        """Raise UserError unless the samples of a split have the shape and type of the training samples."""

    @override
    def split(self, name: Split) -> Samples:
        """The samples of a split; read once.

        Raises UserError if the data set has no such split, or its samples differ in kind from the training samples.
        """
        if name == "test":
            return self._test
        train, validation = self._train_and_validation
        return train if name == "train" else validation

    @cached_property
    def _train_and_validation(self) -> tuple[Samples, Samples]:
        train = self._present("train", self.load("train"))
        if (validation := self.load("validation")) is not None:
            return train, self._like("validation", validation, train)
        kept, held_out = stratified_split(train.labels, self.validation_share, self.split_seed)
        return train.select(kept), train.select(held_out)

    @cached_property
    def _test(self) -> Samples:
        return self._like("test", self.load("test"), self.split("train"))

    def _present(self, split: Split, samples: Samples | None) -> Samples:
        if samples is None or len(samples) == 0:
            raise UserError(f"data: {self.name} has no {self.noun} in its {split} split")
        return samples

    def _like(self, split: Split, loaded: Samples | None, train: Samples) -> Samples:
        """Return the samples; raise UserError unless they have the kind and the classes of the training samples."""
        samples = self._present(split, loaded)
        self.check_kind(split, samples, train)
        if samples.labels.max() > train.labels.max():
            raise UserError(
                f"data: class {samples.labels.max()} of the {split} split of {self.name} has no training "
                f"{self.noun.removesuffix('s')}"
            )
        return samples


def check_labels(labels: Tensor, num_samples: int, noun: str) -> None:
    """Raise UserError unless labels are classes [N] int64 from 0, one for each sample."""
    if labels.shape != (num_samples,) or labels.dtype != torch.int64:
        raise UserError(
            f"data: labels must be int64 [N] with N = {num_samples} as for the {noun}, "
            f"got {labels.dtype} {list(labels.shape)}"
        )
    if len(labels) and int(labels.min()) < 0:
        raise UserError(f"data: label {int(labels.min())} is not a class; is this split without labels?")


def class_frequencies(name: str, labels: Tensor, noun: str) -> tuple[float, ...]:
    """[C] shares of the classes in a training split. Raises UserError if a class below the largest never occurs."""
    counts = labels.bincount()
    if missing := (counts == 0).nonzero().flatten().tolist():
        # Frequency 0 would leave a class without a target, and any other frequency would be made up.
        raise UserError(
            f"data: the training split of {name} has no {noun.removesuffix('s')} of class {missing[0]}; number classes "
            "without gaps"
        )
    return tuple((counts.double() / len(labels)).tolist())
