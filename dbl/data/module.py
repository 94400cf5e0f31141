"""The DataModule of any data set: loaders whose order is a function of counters, so that a run can be resumed."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sized
from typing import Any, Literal

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from typing_extensions import override

from dbl.data.order import BatchIndex, EvaluationOrder, TrainingOrder
from dbl.data.spec import DataSpec
from dbl.utils.checks import SEED, check_numbers, whole

Split = Literal["train", "validation", "test"]


class ResumableDataModule(LightningDataModule, ABC):
    """Samples in three disjoint splits. A kind of data, such as `ImageData`, gives `spec`, `split` and `batches`.

    Args:
        batch_size: number of training samples in a batch of one device.
        eval_batch_size: number of samples in a batch of one device in validation and test.
        num_workers: number of processes that prepare batches; 0 prepares them in the main process.
        seed: random seed of the order of the training samples.

    Attributes:
        name: name of the data set, for people.
    """

    name: str

    def __init__(self, batch_size: int, eval_batch_size: int, num_workers: int = 0, seed: int = 0) -> None:
        super().__init__()
        self.name = type(self).__name__.lower()
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.seed = seed
        check_numbers(
            "data.init_args",
            self,
            batch_size=whole(1, 10**6),
            eval_batch_size=whole(1, 10**6),
            num_workers=whole(0, 4096),
        )
        check_numbers("contract", self, seed=SEED)  # which a config links to this one
        self.bind(block=0, start=lambda: 0)

    @property
    @abstractmethod
    def spec(self) -> DataSpec:
        """The facts about the data set, measured over the training split."""

    @property
    def declared_spec(self) -> DataSpec:
        """Facts that suffice for planning; nothing is read where the arguments of the data set give its sizes."""
        return self.spec

    @abstractmethod
    def split(self, name: Split) -> Sized:
        """The samples of a split, read once. An empty validation split means no validation.

        Raises UserError if the data set has no such split.
        """

    @abstractmethod
    def batches(self, name: Split, training: bool) -> Dataset[Any]:
        """The split as whole batches by `BatchIndex`.

        `training` applies the random changes of training, for the block and rank of this DataModule.
        """

    def batch(self, split: Split, indices: Tensor) -> dict[str, Tensor]:
        """The samples at `indices` [K] int64 of a split as one batch, without random changes.

        It has the keys of a loader's batch, among them `index` [K] and `position`, which is 0.
        """
        return self.batches(split, training=False)[BatchIndex(0, indices)]

    def bind(self, block: int, start: Callable[[], int]) -> None:
        """Set what the training batches depend on.

        Args:
            block: index of the block that is trained; each block reads the samples in an order of its own.
            start: function that returns the number of batches that training has consumed so far.
        """
        self._block = block
        self._start = start

    @override
    def train_dataloader(self) -> DataLoader[Any]:
        """Batches from the bound start on; see `TrainingOrder`."""
        rank, world_size = self._ranks
        num_samples = len(self.split("train"))
        order = TrainingOrder(num_samples, self.batch_size, self.seed, self._block, self._start, rank, world_size)
        return self._loader(self.batches("train", training=True), order)

    @override
    def val_dataloader(self) -> DataLoader[Any] | list[DataLoader[Any]]:
        """The validation samples in order; no loader if there are none."""
        return self._evaluation_loader("validation") if len(self.split("validation")) else []

    @override
    def test_dataloader(self) -> DataLoader[Any]:
        return self._evaluation_loader("test")

    predict_dataloader = test_dataloader

    @property
    def _ranks(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _evaluation_loader(self, name: Split) -> DataLoader[Any]:
        order = EvaluationOrder(len(self.split(name)), self.eval_batch_size, *self._ranks)
        return self._loader(self.batches(name, training=False), order)

    def _loader(self, batches: Dataset[Any], order: TrainingOrder | EvaluationOrder) -> DataLoader[Any]:
        return DataLoader(
            batches,
            batch_size=None,  # the sampler yields whole batches
            sampler=order,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )
