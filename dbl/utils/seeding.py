"""Counter-based randomness: a draw depends on a seed and a purpose, never on what was drawn before.

So a block draws the same numbers whether it is trained alone, after others or beside them, and a killed and resumed
run draws the same numbers as an uninterrupted one.

The key of a draw, that is its seed, its purpose and its counters, is hashed by SHAKE-128. On a CPU the hash fills the
whole state of torch's generator, a Mersenne twister: its `manual_seed` would use 32 bits of the key, and among 150,000
samples two or three pairs would draw the same noise. Generators of other devices take a seed of 63 bits.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from threading import Lock

import numpy as np
import torch
from torch import Tensor

# The state of a CPU generator. One for all and not a copy at each use, which would be a fake tensor where memory is
# planned.
_STATE = torch.Generator().manual_seed(0).get_state()
_STATE_LOCK = Lock()
# The 624 words of 32 bits that the twister turns into its first numbers, each in a number of 64 bits.
_WORDS = _STATE.numpy()[24 : 24 + 8 * 624].view(np.uint64)
_HASH_BYTES = 4 * len(_WORDS)


def derive_seed(seed: int, *purpose: str | int) -> int:
    """Derive a 63-bit seed for one purpose, e.g. `derive_seed(0, "noise", block, batches_seen, rank)`.

    Args:
        seed: seed of the whole run.
        purpose: words and counters that name the draw; any change gives an unrelated seed.
    """
    return int.from_bytes(hashlib.shake_128(_key(seed, purpose)).digest(8), "little") >> 1


def seed_generator(generator: torch.Generator, seed: int, *purpose: str | int) -> None:
    """Let a generator draw the numbers of one purpose from now on; see `derive_seed`."""
    if generator.device.type == "cpu":
        _fill(generator, hashlib.shake_128(_key(seed, purpose)).digest(_HASH_BYTES))
    else:
        generator.manual_seed(derive_seed(seed, *purpose))


def generator_for(seed: int, *purpose: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a new generator on `device` for one purpose; see `derive_seed`."""
    generator = torch.Generator(device)
    seed_generator(generator, seed, *purpose)
    return generator


@contextmanager
def seeded(seed: int, *purpose: str | int) -> Iterator[None]:
    """Seed torch's global CPU generator for the code inside (initialisers, augmentations), then restore its state."""
    with torch.random.fork_rng(devices=[]):
        seed_generator(torch.default_generator, seed, *purpose)
        yield


def _key(seed: int, purpose: tuple[str | int, ...]) -> bytes:
    # JSON keeps ("a", 1) and ("a1",) apart.
    return json.dumps([seed, *purpose]).encode()


def _fill(generator: torch.Generator, words: bytes) -> None:
    """Fill the state of a CPU generator."""
    with _STATE_LOCK:
        _WORDS[:] = np.frombuffer(words, "<u4")
        generator.set_state(_STATE)


class SampleDraws:
    """Random draws per sample, a function of (seed, purpose, sample index), hence independent of the batch size.

    Each call draws further numbers.

    Args:
        seed: seed of the whole run.
        purpose: words and counters; see `derive_seed`.
        indices: [N] indices of the samples in the data set.
    """

    def __init__(self, seed: int, purpose: tuple[str | int, ...], indices: Tensor) -> None:
        self._hash = hashlib.shake_128(_key(seed, purpose))
        self._indices: list[int] = indices.tolist()
        self._calls = count()

    def uniform(self) -> Tensor:
        """[N] float64 on the CPU, uniform in [0, 1)."""
        numbers = [int.from_bytes(words, "little") >> 11 for words in self._words(8)]  # of 53 bits
        return torch.tensor(numbers, dtype=torch.float64) * 2.0**-53

    def normal(self, like: Tensor) -> Tensor:
        """Unit noise with the shape [N, ...], device and type of `like`, drawn in float32 on the CPU."""
        rows, generator = torch.empty(like.shape, dtype=torch.float32), torch.Generator()
        for row, words in zip(rows.unbind(), self._words(_HASH_BYTES), strict=True):
            _fill(generator, words)
            row.normal_(generator=generator)
        return rows.to(like.device, like.dtype)

    def _words(self, num_bytes: int) -> Iterator[bytes]:
        """Random bytes of each sample, for one call."""
        call = next(self._calls)
        for index in self._indices:
            sample = self._hash.copy()
            sample.update(b"[%d,%d]" % (index, call))
            yield sample.digest(num_bytes)
