"""Counter-based randomness."""

import random

import pytest
import torch

from dbl.utils.seeding import derive_seed, generator_for, seeded


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
    assert derive_seed(0, "noise", 1, 2) == 1884204833083157872


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
