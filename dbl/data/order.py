"""Which samples make up a batch: a function of counters, so that a resumed run reads on where it stopped.

Both orders split a batch over the ranks themselves. They are `DistributedSampler`s because Lightning wraps every other
sampler of a distributed run once more and would split each rank's share a second time.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DistributedSampler

from dbl.utils.errors import UserError
from dbl.utils.seeding import generator_for


class BatchIndex(NamedTuple):
    """What the loader asks of the data set: one batch.

    Args:
        position: of the batch; in training the number of batches since the start of training, otherwise since the start
            of the split.
        indices: [N] int64, of the batch's samples in the split.
    """

    position: int
    indices: Tensor


def check_batch_index(batch: object) -> None:
    """Raise UserError if a batch is asked for in another way than by the orders of this file."""
    if not isinstance(batch, BatchIndex):
        raise UserError("trainer.overfit_batches replaces the order of the data; leave it at 0")


class TrainingOrder(DistributedSampler[BatchIndex]):
    """A new permutation of the samples in every epoch.

    The permutation is a function of (seed, block, epoch) and the batch one of its position, never of what was read
    before. Images that do not fill a last batch are left out of the epoch; the next epoch leaves out others.

    Args:
        num_samples: samples in the training split.
        batch_size: samples in a batch of one rank.
        seed: of the whole run.
        block: that is trained.
        start: returns the position of the next batch; asked at each start of an iteration.
        rank: of this process.
        world_size: number of processes; together they read `batch_size * world_size` samples at one position.

    Raises:
        UserError: if the split does not fill one batch.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        seed: int,
        block: int,
        start: Callable[[], int],
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(range(num_samples), world_size, rank, seed=seed)  # type: ignore[arg-type]
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.block = block
        self.start = start
        if not 1 <= batch_size * world_size <= num_samples:
            raise UserError(
                f"data.init_args.batch_size: {batch_size} samples on each of {world_size} ranks do not fit the "
                f"{num_samples} samples of the training split; choose from 1 to {num_samples // world_size}"
            )

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self.num_samples // (self.batch_size * self.num_replicas)

    def __iter__(self) -> Iterator[BatchIndex]:
        """As many batches as an epoch has, from the start position on and across the end of its epoch if need be."""
        start = self.start()
        for position in range(start, start + len(self)):
            epoch, batch = divmod(position, len(self))
            if position == start or batch == 0:
                permutation = self._permutation(epoch)
            first = (batch * self.num_replicas + self.rank) * self.batch_size
            # A slice of the permutation would send the whole of it to a worker.
            yield BatchIndex(position, permutation[first : first + self.batch_size].clone())

    def _permutation(self, epoch: int) -> Tensor:
        return torch.randperm(self.num_samples, generator=generator_for(self.seed, "order", self.block, epoch))


class EvaluationOrder(DistributedSampler[BatchIndex]):
    """All samples of a split, each exactly once, from first to last.

    The last batch may be smaller. All ranks have equally many batches and none is empty, so that no rank waits for
    another: a remainder of fewer samples than ranks joins the batch before it.

    Args:
        num_samples: samples in the split.
        batch_size: samples in a batch of one rank.
        rank: of this process.
        world_size: number of processes.

    Raises:
        UserError: if `batch_size` is not positive or there are fewer samples than ranks.
    """

    def __init__(self, num_samples: int, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        super().__init__(range(num_samples), world_size, rank, shuffle=False)  # type: ignore[arg-type]
        self.num_samples = num_samples
        self.batch_size = batch_size
        if batch_size < 1:
            raise UserError(f"data.init_args.eval_batch_size ({batch_size}) must be 1 or more")
        if num_samples < world_size:
            raise UserError(f"data: {num_samples} samples cannot be evaluated on {world_size} ranks; use fewer devices")

    def __len__(self) -> int:
        """Batches of each rank."""
        full, rest = divmod(self.num_samples, self.batch_size * self.num_replicas)
        return max(1, full + (rest >= self.num_replicas))

    def __iter__(self) -> Iterator[BatchIndex]:
        """The batches of this rank, in order."""
        step = self.batch_size * self.num_replicas
        for position in range(len(self)):
            end = self.num_samples if position == len(self) - 1 else (position + 1) * step
            yield BatchIndex(position, torch.arange(position * step, end).tensor_split(self.num_replicas)[self.rank])
