"""Counter-based randomness: every draw is a function of a seed and of what it is for, never of what was drawn before.

So block b trained alone, after others or beside others draws the same numbers, and a run that was killed and resumed
draws what it would have drawn.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


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


class SampleDraws:
    """Draws for some samples, each a function of (seed, purpose, index of the sample) and of how often it was asked.

    So any batch size gives a sample the same draws.

    Args:
        seed: of all samples.
        purpose: words and counters; see `derive_seed`.
        indices: [N] numbers of the samples.
    """

    def __init__(self, seed: int, purpose: tuple[str | int, ...], indices: Tensor) -> None:
        self._generators = [generator_for(seed, *purpose, index) for index in indices.tolist()]

    def uniform(self) -> Tensor:
        """[N] float64 on the CPU, uniform in [0, 1)."""
        return torch.cat([torch.rand(1, generator=one, dtype=torch.float64) for one in self._generators])

    def normal(self, like: Tensor) -> Tensor:
        """Unit noise with shape [N, ...] and device of `like`, drawn in float32 and then given its type."""
        rows = [torch.randn(like.shape[1:], generator=one) for one in self._generators]
        return torch.stack(rows).to(like.device, like.dtype)
