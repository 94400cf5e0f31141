"""What a recurrent-depth network has read, so that a further token passes through it alone.

States of a place depend on the iteration and on earlier places only. So each iteration has keys and values of its own
(Huginn, arXiv 2502.05171, Sec. 6.2, without sharing between iterations, which would be inexact), and the result is
that of reading the whole text again, as long as a place keeps its start state, or its noise.

Axes: N batch, T tokens, K iterations or levels, D width of a target vector, W width of the state.
"""

import torch
from torch import Tensor

from dbl.networks.kv_cache import KeyValueBuffer
from dbl.networks.level_modulations import LevelModulations
from dbl.networks.llama import rotary_angles, up_to
from dbl.networks.recurrent_lm import NextPlace, Place, Recurrence, RecurrentBaseline, RecurrentNetwork

_MAX_STATES = 2**14  # that pass through the core at once: a prompt is read at all levels together


class RecurrentContext:
    """What a denoiser has read, at each of K levels.

    The last token is read by the prelude alone: its place is denoised, and read by the core once its next token is
    known.

    Args:
        network: the denoiser's network.
        levels: modulations of the K levels, [K N] rows: all samples of the first level come first.
        num_levels: K.

    Attributes:
        num_known: number of places that the core has read.
    """

    def __init__(self, network: RecurrentNetwork, levels: LevelModulations, num_levels: int) -> None:
        self.network = network
        self.levels = levels
        self.num_levels = num_levels
        self.num_known = 0
        self._memories = buffers(network)
        self._unknown: Tensor | None = None  # [N, T, W] embeddings of places that only the prelude has read

    def read(self, tokens: Tensor) -> None:
        """Read further tokens [N, T] with the prelude."""
        before = 0 if self._unknown is None else self.num_known + self._unknown.shape[1]
        embedded = read_prelude(self.network, tokens, before, self._memories)
        self._unknown = embedded if self._unknown is None else torch.cat([self._unknown, embedded], dim=1)

    def settle(self, noisy: Tensor) -> None:
        """Read further places with the core, whose next tokens are known; the last place stays.

        Args:
            noisy: [K N, T, D] vectors of the next tokens with noise of each level, scaled by c_in.
        """
        assert self._unknown is not None
        length = noisy.shape[1]
        pieces = max(_MAX_STATES // len(noisy), 1)
        for vectors, embedded in zip(noisy.split(pieces, 1), self._unknown[:, :length].split(pieces, 1), strict=True):
            self._settle(vectors, embedded)
        self._unknown = self._unknown[:, length:]

    def next_place(self, level: int) -> NextPlace:
        """The last place, for level number `level`."""
        assert self._unknown is not None
        num = len(self._unknown)
        memories = tuple(memory.rows(level * num, (level + 1) * num) for memory in self._memories)
        angles = rotary_angles(self.num_known, 1, self.network.head_dim, self._unknown.device)
        return NextPlace(self._unknown[:, -1:], Place(angles, memories))

    def _settle(self, vectors: Tensor, embedded: Tensor) -> None:
        length = vectors.shape[1]
        place = place_after(self.network, self.num_known, length, self._memories, vectors.device)
        state, embedded = self.network.noisy_embedding(vectors), embedded.repeat(self.num_levels, 1, 1)
        state = self.network.iterate(state, embedded, place, self.levels)
        self.network.memorise_in_coda(state, place, self.levels)
        keep(self._memories[self.network.core_start :], length)
        self.num_known += length


class IterationContext:
    """What the end-to-end network has read, in each of K iterations.

    Args:
        network: the network.
        iterations: number K of passes through the core.
    """

    def __init__(self, network: RecurrentBaseline, iterations: int) -> None:
        self.network = network
        self._outside = buffers(network)  # of prelude and coda; those of the core are empty
        self._iterations = [buffers(network) for _ in range(iterations)]
        self._length = 0

    def read(self, tokens: Tensor, state: Tensor) -> Tensor:
        """Features [N, T, D] of the tokens after further ones [N, T], from start states [N, T, W]."""
        network, start, length = self.network, self._length, tokens.shape[1]
        embedded = read_prelude(network, tokens, start, self._outside)
        for memories in self._iterations:
            state = network.iterate(state, embedded, place_after(network, start, length, memories, tokens.device))
            keep(memories[network.core_start : network.coda_start], length)
        features = network.read(state, place_after(network, start, length, self._outside, tokens.device))
        keep(self._outside[network.coda_start :], length)
        self._length += length
        return features


def buffers(network: Recurrence) -> tuple[KeyValueBuffer, ...]:
    """An empty buffer for each layer."""
    return tuple(KeyValueBuffer() for _ in network.layers)


def place_after(
    network: Recurrence, start: int, length: int, memories: tuple[KeyValueBuffer, ...], device: torch.device
) -> Place:
    """The place of `length` tokens after `start` others."""
    mask = None if start == 0 or length == 1 else up_to(start, length, device)
    return Place(rotary_angles(start, length, network.head_dim, device), memories, mask)


def read_prelude(network: Recurrence, tokens: Tensor, start: int, memories: tuple[KeyValueBuffer, ...]) -> Tensor:
    """What prelude and adapter make of tokens [N, T] after `start` others: [N, T, W]."""
    length = tokens.shape[1]
    embedded = network.embed(tokens, place_after(network, start, length, memories, tokens.device))
    keep(memories[: network.core_start], length)
    return embedded


def keep(memories: tuple[KeyValueBuffer, ...], length: int) -> None:
    """Count `length` tokens, which were appended, as read."""
    for memory in memories:
        memory.keep(length)
