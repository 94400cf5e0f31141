"""Choosing some samples of a set: a held-out part, or an evenly spaced selection."""

import torch
from torch import Tensor

from dbl.utils.errors import UserError
from dbl.utils.seeding import generator_for

# Apart from `split_seed`: every run is tested on the same samples.
_TEST_SEED = 0


def cut_test(labels: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Hold out a share of every class for the test, the same in every run; see `stratified_split`.

    Raises UserError if nothing would be left to test on.
    """
    kept, held_out = stratified_split(labels, share, _TEST_SEED)
    if len(held_out) == 0:
        largest = int(labels.bincount().max())
        raise UserError(f"data.init_args.test_share ({share}) leaves nothing to test: the largest class has {largest}")
    return kept, held_out


def stratified_split(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Hold out the same share of every class, chosen by a seed.

    The number held out of a class is rounded down, so each class that occurs keeps at least one sample.

    Args:
        labels: classes [N] int64.
        share: share to hold out, in [0, 1).
        seed: random seed of the choice.

    Returns:
        Increasing indices: [K] of what is kept, and [N-K] of what is held out.
    """
    shuffled = torch.randperm(len(labels), generator=generator_for(seed, "split"))
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    counts = labels.bincount()
    first = counts.cumsum(0) - counts
    place_in_class = torch.arange(len(labels)) - first[labels[by_class]]
    num_held_out = (counts * share).floor().long()
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    held_out[by_class] = place_in_class < num_held_out[labels[by_class]]
    return (~held_out).nonzero().flatten(), held_out.nonzero().flatten()


def evenly_spaced(num_available: int, num_wanted: int) -> Tensor:
    """Increasing int64 indices [min(num_available, num_wanted)], spread over all that are available."""
    num = min(num_available, num_wanted)
    return torch.arange(num) * num_available // max(num, 1)
