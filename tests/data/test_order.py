"""The order of the batches is a function of counters, and no image is read twice or lost."""

from itertools import islice

import pytest
import torch

from dbl.data import EvaluationOrder, TrainingOrder
from dbl.utils.errors import UserError


def order(start: int = 0, seed: int = 0, block: int = 0, rank: int = 0, world_size: int = 1, num: int = 23):
    return TrainingOrder(num, 4, seed, block, lambda: start, rank, world_size)


def batches(*args, **kwargs) -> list[list[int]]:
    return [batch.indices.tolist() for batch in order(*args, **kwargs)]


def test_epoch_reads_each_image_at_most_once():
    """Catches drawing with replacement, overlapping slices and a wrong number of batches."""
    read = [index for batch in batches() for index in batch]
    assert len(batches()) == 23 // 4
    assert len(read) == len(set(read)) == 20
    assert set(read) <= set(range(23))


def test_order_is_a_function_of_seed_block_and_epoch():
    """Catches an order that forgets one of its counters or depends on what was drawn before."""
    first = batches()
    torch.manual_seed(99)
    assert batches() == first
    assert batches(seed=1) != first
    assert batches(block=1) != first
    assert batches(start=len(first)) != first


def test_each_epoch_leaves_out_other_samples():
    """Catches a remainder that is the same in every epoch: samples that are never trained on."""
    seen = {index for epoch in range(10) for batch in batches(start=5 * epoch) for index in batch}
    assert seen == set(range(23))


@pytest.mark.parametrize("start", [1, 3, 5, 7, 14])
def test_resuming_continues_the_sequence(start):
    """Catches a resumed run that begins its epoch anew or shuffles anew at the end of a part of an epoch."""
    through = [(b.position, b.indices.tolist()) for epoch in range(4) for b in order(start=5 * epoch)]
    resumed = [(b.position, b.indices.tolist()) for b in order(start=start)]
    assert resumed == through[start : start + 5]


def test_start_is_asked_at_each_iteration():
    """Catches a start that is read once, at construction: every later epoch would repeat the first."""
    position = 0
    reader = TrainingOrder(23, 4, 0, 0, lambda: position)
    assert next(iter(reader)).position == 0
    position = 7
    assert next(iter(reader)).position == 7


def test_ranks_share_each_batch_without_overlap():
    """Catches ranks that read the same samples, and ranks whose permutations differ."""
    ranks = [batches(rank=rank, world_size=2, num=24) for rank in range(2)]
    together = TrainingOrder(24, 8, 0, 0, lambda: 0)
    for first, second, both in zip(*ranks, together, strict=True):
        assert first + second == both.indices.tolist()


def test_batch_that_exceeds_the_split_is_refused():
    """Catches an order of zero batches, with which training would end at once without a word."""
    TrainingOrder(8, 4, 0, 0, lambda: 0, world_size=2)
    with pytest.raises(UserError, match=r"data\.init_args\.batch_size: 4 samples on each of 2 ranks"):
        TrainingOrder(7, 4, 0, 0, lambda: 0, world_size=2)
    with pytest.raises(UserError, match=r"data\.init_args\.batch_size"):
        TrainingOrder(7, 0, 0, 0, lambda: 0)


def test_evaluation_reads_in_order_and_keeps_the_last_batch():
    """Catches shuffled evaluation and a dropped remainder."""
    read = [(batch.position, batch.indices.tolist()) for batch in EvaluationOrder(10, 4)]
    assert read == [(0, [0, 1, 2, 3]), (1, [4, 5, 6, 7]), (2, [8, 9])]


@pytest.mark.parametrize("num", [3, 7, 12, 13, 14, 24, 25])
def test_evaluation_ranks_cover_all_samples_once_in_equally_many_batches(num):
    """Catches padding with repeated samples, lost samples, and ranks that would wait for each other for ever."""
    orders = [EvaluationOrder(num, 4, rank, 3) for rank in range(3)]
    read = [list(reader) for reader in orders]
    assert {len(batches) for batches in read} == {len(orders[0])}
    assert all(len(batch.indices) > 0 for batches in read for batch in batches)
    assert sorted(int(i) for batches in read for batch in batches for i in batch.indices) == list(range(num))


def test_impossible_evaluation_is_refused():
    """Catches an endless or empty evaluation."""
    with pytest.raises(UserError, match="eval_batch_size"):
        EvaluationOrder(10, 0)
    with pytest.raises(UserError, match="3 ranks"):
        EvaluationOrder(2, 4, 0, 3)


def test_batches_do_not_carry_the_whole_permutation():
    """Catches slices that keep the permutation of the split alive and send it to every worker."""
    for batch in islice(order(num=1000), 2):
        assert batch.indices.untyped_storage().nbytes() == 4 * 8
