"""Which samples make up a batch: a function of counters, so that a resumed run reads on where it stopped.

Both orders split a batch over the ranks themselves. They are `DistributedSampler`s because Lightning wraps every other
sampler of a distributed run once more and would split each rank's share a second time.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DistributedSampler
from typing_extensions import override

from dbl.utils.errors import UserError
from dbl.utils.seeding import generator_for


class BatchIndex(NamedTuple):
    """What the loader asks of the data set: one batch.

    Args:
        position: number of batches before this one: since the start of training, or in evaluation, of the split.
        indices: indices [N] int64 of the batch's samples in the split.
    """

    position: int
    indices: Tensor


def check_batch_index(batch: object) -> None:
    """Raise UserError unless a batch is asked for by one of the orders in this file."""
    if not isinstance(batch, BatchIndex):
        raise UserError("trainer.overfit_batches replaces the order of the data; leave it at 0")


class TrainingOrder(DistributedSampler[BatchIndex]):
    """A new permutation of the samples in every epoch.

    The permutation is a function of (seed, block, epoch) and the batch one of its position, never of what was read
    before. Samples that do not fill a last batch are left out of the epoch; the next epoch leaves out others. Raises
    UserError if the split does not fill one batch.

    Args:
        num_samples: number of samples in the training split.
        batch_size: number of samples in a batch of one rank.
        seed: random seed of the run.
        block: index of the block that is trained.
        start: function that returns the position of the next batch; called at each start of an iteration.
        rank: rank of this process.
        world_size: number of processes; together they read `batch_size * world_size` samples at one position.
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

    @override
    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return self.num_samples // (self.batch_size * self.num_replicas)

    @override
    def __iter__(self) -> Iterator[BatchIndex]:
        """Yield as many batches as an epoch has, from the start position on, across the end of an epoch if need be."""
        start = self.start()
        for position in range(start, start + len(self)):
            epoch, batch = divmod(position, len(self))
            if position == start or batch == 0:
                permutation = self._permutation(epoch)
            first = (batch * self.num_replicas + self.rank) * self.batch_size
            # A copy, since a worker would be sent the whole permutation with a slice of it.
            yield BatchIndex(position, permutation[first : first + self.batch_size].clone())

    def _permutation(self, epoch: int) -> Tensor:
        return torch.randperm(self.num_samples, generator=generator_for(self.seed, "order", self.block, epoch))


class EvaluationOrder(DistributedSampler[BatchIndex]):
    """All samples of a split, each exactly once, from first to last; arguments as in `TrainingOrder`.

    The last batch may be smaller. All ranks have equally many batches and none is empty, because a rank that had none
    would keep the others waiting: a remainder of fewer samples than ranks joins the batch before it. Raises UserError
    if `batch_size` is not positive or there are fewer samples than ranks.
    """

    def __init__(self, num_samples: int, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        super().__init__(range(num_samples), world_size, rank, shuffle=False)  # type: ignore[arg-type]
        self.num_samples = num_samples
        self.batch_size = batch_size
        if batch_size < 1:
            raise UserError(f"data.init_args.eval_batch_size ({batch_size}) must be 1 or more")
        if num_samples < world_size:
            raise UserError(f"data: {num_samples} samples cannot be evaluated on {world_size} ranks; use fewer devices")

    @override
    def __len__(self) -> int:
        """Number of batches of each rank."""
        full, rest = divmod(self.num_samples, self.batch_size * self.num_replicas)
        return max(1, full + (rest >= self.num_replicas))

    @override
    def __iter__(self) -> Iterator[BatchIndex]:
        step = self.batch_size * self.num_replicas
        for position in range(len(self)):
            end = self.num_samples if position == len(self) - 1 else (position + 1) * step
            yield BatchIndex(position, torch.arange(position * step, end).tensor_split(self.num_replicas)[self.rank])
