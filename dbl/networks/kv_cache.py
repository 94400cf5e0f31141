"""Keys and values of tokens that were read: a plain pair that grows by copying, and a buffer with room for more.

Axes: N batch, H heads, S tokens, D token width.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

_LEAST_ROOM = 64  # tokens


class KeysValues(NamedTuple):
    """Keys (already rotated) and values of earlier tokens, each [N, H, S, D / H]."""

    keys: Tensor
    values: Tensor

    def append(self, keys: Tensor, values: Tensor) -> "KeysValues":
        """These and further ones, as a copy."""
        return KeysValues(torch.cat([self.keys, keys], dim=2), torch.cat([self.values, values], dim=2))


class Memory(Protocol):
    """What attention needs of earlier tokens."""

    def append(self, keys: Tensor, values: Tensor) -> KeysValues:
        """All earlier keys and values with further ones [N, H, T, D / H] behind them."""


class KeyValueBuffer:
    """Keys and values with room for more, so that a further token copies only its own.

    What is appended counts as read only after `keep`; until then the next `append` writes over it. So a token that is
    still being denoised leaves nothing behind.

    Attributes:
        length: number S of tokens that are kept.
    """

    def __init__(self) -> None:
        self.length = 0
        self._both: KeysValues | None = None  # [N, H, room, D / H] each

    def append(self, keys: Tensor, values: Tensor) -> KeysValues:
        """The kept keys and values with further ones [N, H, T, D / H] behind them, as views of the buffer."""
        end = self.length + keys.shape[2]
        if self._both is None or self._both.keys.shape[2] <= end:  # one token more always fits, into `rows` too
            self._grow(end, keys)
        assert self._both is not None
        # `narrow` takes half the time of an index: a network does this in each layer for each token.
        for buffer, further in zip(self._both, (keys, values), strict=True):
            buffer.narrow(2, self.length, keys.shape[2]).copy_(further)
        return KeysValues(self._both.keys.narrow(2, 0, end), self._both.values.narrow(2, 0, end))

    def keep(self, number: int) -> None:
        """Count the first `number` of the tokens that were appended last as read."""
        self.length += number

    def rows(self, start: int, end: int) -> "KeyValueBuffer":
        """A buffer for some rows of the batch, in the same storage: it holds one token more, which is not kept."""
        part = KeyValueBuffer()
        part.length = self.length
        if self._both is not None:
            part._both = KeysValues(self._both.keys[start:end], self._both.values[start:end])
        return part

    def _grow(self, length: int, like: Tensor) -> None:
        """Make room for so many tokens and as many again."""
        num, heads, _, width = like.shape
        room = max(2 * length, _LEAST_ROOM)
        old, self._both = self._both, KeysValues(*(like.new_empty(num, heads, room, width) for _ in range(2)))
        if old is not None:
            for before, after in zip(old, self._both, strict=True):
                after[:, :, : self.length] = before[:, :, : self.length]
