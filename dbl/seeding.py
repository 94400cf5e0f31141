"""Counter-based randomness: every draw is a function of a seed and of what it is for, never of what was drawn before.

So block b trained alone, after others or beside others draws the same numbers, and a run that was killed and resumed
draws what it would have drawn.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose, e.g. `derive_seed(0, "noise", block, position, rank)`.

    Args:
        seed: the seed of the whole run.
        purpose: words and counters that name the draw; any change gives an unrelated seed.
    """
    text = json.dumps([seed, *purpose])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator_for(seed: int, *purpose: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator on `device` for one purpose; see `derive_seed`."""
    return torch.Generator(device).manual_seed(derive_seed(seed, *purpose))


@contextmanager
def seeded(seed: int, *purpose: str | int) -> Iterator[None]:
    """Run code that draws from torch's global CPU generator (initialisers, augmentations) with a seed of its own.

    The global generator's state is put back afterwards, so nothing outside notices.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, *purpose))
        yield
