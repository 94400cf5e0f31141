"""Counter-based randomness."""

import random

import numpy as np
import pytest
import torch
from torch import Tensor

from dbl.utils.seeding import SampleDraws, derive_seed, generator_for, seeded

NUM_STREAMS = 150_000


def test_purposes_have_seeds_of_their_own() -> None:
    """Catches a purpose that is ignored or added up: 2 * 3 * 11 * 11 purposes give as many seeds, all in 63 bits."""
    seeds = {
        derive_seed(seed, purpose, block, step)
        for seed in (0, 1)
        for purpose in ("noise", "weights", "order")
        for block in range(11)
        for step in range(11)
    }
    assert len(seeds) == 2 * 3 * 11 * 11
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**61


def test_seed_is_the_same_on_every_machine() -> None:
    """Catches Python's salted `hash` and any other change: results of earlier runs could not be reproduced."""
    assert derive_seed(0, "noise", 1, 2) == 1496123086965621339
    draws = torch.randint(1000, (5,), generator=generator_for(0, "noise", 1, 2))
    assert draws.tolist() == [952, 726, 187, 759, 66]
    assert SampleDraws(0, ("noise",), torch.tensor([7])).uniform().item() == 0.6003223185328606


def test_state_of_the_twister_is_the_hash() -> None:
    """Catches a release of torch with another layout of the state, whose draws would depend on a part of the key."""
    generator = generator_for(3, "table")
    state = generator.get_state()[24 : 24 + 8 * 624].numpy().view(np.uint64)
    assert not (state >> 32).any()
    twister = np.random.MT19937()
    twister.state = {"bit_generator": "MT19937", "state": {"key": state.astype(np.uint32), "pos": 624}}
    ours = torch.rand(1500, generator=generator)  # more than one round of the state
    assert ours.tolist() == ((twister.random_raw(1500) & (2**24 - 1)) / 2**24).tolist()


def first_numbers(seed: int, num: int) -> Tensor:
    """[num, 4] first noise of as many samples."""
    return SampleDraws(seed, ("start", 0), torch.arange(num)).normal(torch.empty(num, 4))


def test_no_two_of_many_streams_are_the_same() -> None:
    """Catches a generator that uses 32 bits of its key: 2 pairs of 150,000 samples would start from the same noise."""
    assert len(first_numbers(0, NUM_STREAMS).unique(dim=0)) == NUM_STREAMS


def test_high_bits_of_a_key_count() -> None:
    """Catches a generator that uses the low 32 bits of a seed."""
    seen: dict[int, int] = {}
    pairs = []
    for counter in range(2 * NUM_STREAMS):
        low = derive_seed(0, "high bits", counter) % 2**32
        if low in seen:
            pairs.append((seen[low], counter))
        seen[low] = counter
    assert pairs  # 10 are expected
    for pair in pairs:
        one, other = (torch.rand(4, generator=generator_for(0, "high bits", counter)) for counter in pair)
        assert not torch.equal(one, other)


@pytest.mark.parametrize("shift", [0, 1, 4])
def test_streams_are_independent(shift: int) -> None:
    """Catches streams of neighbouring samples, or of two calls, that are alike, mirrored or shifted."""
    num, length = 400, 500
    draws = SampleDraws(0, ("noise",), torch.arange(num))
    streams = torch.cat([draws.normal(torch.empty(num, length)) for _ in range(2)])  # 800, 500
    products = streams[:, : length - shift] @ streams[:, shift:].T / length
    # The largest of 640,000 correlations is about 5 standard deviations.
    assert products.fill_diagonal_(0).abs().max() < 6.5 / length**0.5
    assert abs(float(streams.mean())) < 4 / streams.numel() ** 0.5
    assert abs(float(streams.var()) - 1) < 4 * (2 / streams.numel()) ** 0.5


def test_uniform_numbers_are_uniform() -> None:
    """Catches numbers that leave [0, 1), repeat, or crowd; each sample and each call has numbers of its own."""
    draws = SampleDraws(0, ("levels",), torch.arange(20_000))
    numbers = torch.cat([draws.uniform(), draws.uniform()])
    assert numbers.dtype == torch.float64
    assert 0 <= numbers.min() < numbers.max() < 1
    assert len(numbers.unique()) == 40_000
    distance = (numbers.sort().values - torch.arange(40_000) / 40_000).abs().max()
    assert distance < 1.95 / 200  # Kolmogorov-Smirnov, 0.1 %


def test_draws_of_a_sample_depend_on_no_other() -> None:
    """Catches draws that follow the place of a sample in its batch."""
    together = SampleDraws(5, ("noise", 1), torch.tensor([4, 9, 2]))
    alone = SampleDraws(5, ("noise", 1), torch.tensor([9]))
    for _ in range(2):
        assert torch.equal(together.normal(torch.empty(3, 2, 3))[1], alone.normal(torch.empty(1, 2, 3))[0])
        assert together.uniform()[1] == alone.uniform()[0]


def test_parts_of_a_purpose_are_kept_apart() -> None:
    """Catches a purpose that is glued together without marking where its parts end."""
    assert derive_seed(0, "a", "b") != derive_seed(0, "ab")
    assert derive_seed(0, "block", 1, 11) != derive_seed(0, "block", 11, 1)
    assert derive_seed(1, 2) != derive_seed(12)


def test_generator_for_draws_by_purpose() -> None:
    """Catches a generator that shares its state with the next one or with the global generator."""
    first = torch.rand(5, generator=generator_for(3, "table"))
    torch.rand(9)
    assert torch.equal(first, torch.rand(5, generator=generator_for(3, "table")))
    assert not torch.equal(first, torch.rand(5, generator=generator_for(3, "noise")))
    assert not torch.equal(first, torch.rand(5, generator=generator_for(4, "table")))


def test_seeded_draws_are_a_function_of_the_purpose() -> None:
    """Catches initial weights that depend on what was drawn before."""
    draws = []
    for global_seed in (0, 1):
        torch.manual_seed(global_seed)
        with seeded(7, "weights", 2):
            draws.append(torch.rand(4))
        with seeded(7, "weights", 3):
            assert not torch.equal(torch.rand(4), draws[-1])
    assert torch.equal(draws[0], draws[1])


def test_seeded_puts_the_global_generators_back() -> None:
    """Catches a block whose construction shifts the draws of everything after it, also when it fails half-way."""

    def draw(then: int) -> None:
        with seeded(7, "weights"):
            torch.rand(100)
            1 // then

    torch.manual_seed(0)
    states = torch.get_rng_state(), random.getstate()
    draw(then=1)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    with pytest.raises(ZeroDivisionError):
        draw(then=0)
    assert torch.equal(torch.get_rng_state(), states[0])
