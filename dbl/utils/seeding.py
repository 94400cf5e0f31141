"""Counter-based randomness: a draw depends on a seed and a purpose, never on what was drawn before.

So a block draws the same numbers whether it is trained alone, after others or beside them, and a killed and resumed
run draws the same numbers as an uninterrupted one.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def derive_seed(seed: int, *purpose: str | int) -> int:
    """Derive a 63-bit seed for one purpose, e.g. `derive_seed(0, "noise", block, batches_seen, rank)`.

    Args:
        seed: seed of the whole run.
        purpose: words and counters that name the draw; any change gives an unrelated seed.
    """
    # A cryptographic hash, since small differences between seeds give correlated streams in some generators. JSON keeps
    # ("a", 1) and ("a1",) apart.
    text = json.dumps([seed, *purpose])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator_for(seed: int, *purpose: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a new generator on `device` for one purpose; see `derive_seed`."""
    return torch.Generator(device).manual_seed(derive_seed(seed, *purpose))


@contextmanager
def seeded(seed: int, *purpose: str | int) -> Iterator[None]:
    """Seed torch's global CPU generator for the code inside (initialisers, augmentations), then restore its state."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, *purpose))
        yield


class SampleDraws:
    """Random draws per sample, a function of (seed, purpose, sample index), hence independent of the batch size.

    Args:
        seed: seed of the whole run.
        purpose: words and counters; see `derive_seed`.
        indices: [N] indices of the samples in the data set.
    """

    def __init__(self, seed: int, purpose: tuple[str | int, ...], indices: Tensor) -> None:
        self._generators = [generator_for(seed, *purpose, index) for index in indices.tolist()]

    def uniform(self) -> Tensor:
        """[N] float64 on the CPU, uniform in [0, 1)."""
        return torch.cat([torch.rand(1, generator=one, dtype=torch.float64) for one in self._generators])

    def normal(self, like: Tensor) -> Tensor:
        """Unit noise with the shape [N, ...], device and type of `like`, drawn in float32 on the CPU."""
        rows = [torch.randn(like.shape[1:], generator=one) for one in self._generators]
        return torch.stack(rows).to(like.device, like.dtype)
