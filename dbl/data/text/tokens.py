"""Sequences of T + 1 tokens, cut from one long sequence, and the batches that the loader makes of them.

Axes: N sequences, T predicted tokens of a sequence. The first token of a sequence is given, not predicted.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from typing_extensions import override

from dbl.data.order import BatchIndex, check_batch_index
from dbl.data.spec import IGNORED


class Tokens(Protocol):
    """Tokens that need not sit in memory. A 1-D array is one."""

    def __len__(self) -> int: ...

    def __getitem__(self, places: np.ndarray, /) -> np.ndarray:
        """The tokens at `places`, which may have any shape."""


def smallest_type(vocab_size: int) -> np.dtype:
    """The smallest unsigned type that holds the tokens 0 to `vocab_size` - 1."""
    return np.min_scalar_type(vocab_size - 1)


@dataclass(frozen=True)
class MappedTokens(Tokens):
    """Tokens that stay in a file until they are asked for.

    The file is opened anew for each batch, which costs little, so that only its name is sent to worker processes.

    Args:
        path: file that holds nothing but the tokens.
        dtype: name of their type, e.g. "uint16".
    """

    path: Path
    dtype: str

    @override
    def __len__(self) -> int:
        return self.path.stat().st_size // np.dtype(self.dtype).itemsize

    @override
    def __getitem__(self, places: np.ndarray, /) -> np.ndarray:
        return np.asarray(np.memmap(self.path, self.dtype, "r")[places])


@dataclass(frozen=True, eq=False)
class TokenSet:
    """Sequences of T + 1 tokens, cut from those of one or more splits."""

    tokens: Tokens
    starts: Tensor  # [N] int64 place of the first token of each sequence
    lengths: Tensor  # [N] int64 number of tokens of each sequence, from 2 to T + 1
    seq_len: int  # T

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, indices: Tensor, /) -> Tensor:
        """The sequences at `indices` [K], as [K, T+1] int64; -100 fills the end of short ones."""
        offsets = torch.arange(self.seq_len + 1)
        filled = offsets < self.lengths[indices, None]  # [K,T+1]
        places = torch.where(filled, self.starts[indices, None] + offsets, 0)
        tokens = torch.from_numpy(self.tokens[places.numpy()].astype(np.int64))
        return tokens.where(filled, IGNORED)


def stream_sequences(tokens: Tokens, first: int, end: int, seq_len: int) -> TokenSet:
    """Sequences at stride T over the tokens from place `first` to before place `end`, without regard to documents.

    The last token of a sequence is the first of the next, so that every token but the very first is predicted once.
    The rest that does not fill a sequence is left out: T - 1 tokens at most.
    """
    starts = torch.arange(first, max(end - seq_len, first), seq_len)
    return TokenSet(tokens, starts, torch.full_like(starts, seq_len + 1), seq_len)


def document_sequences(tokens: Tokens, ends: Tensor, first: int, end: int, seq_len: int) -> TokenSet:
    """Sequences at stride T within each document; the last one of a document may be shorter.

    Every token but the first of each document is predicted once.

    Args:
        tokens: tokens to cut.
        ends: place [M] int64 after the last token of each document, increasing.
        first: place of the first token that may be used.
        end: place after the last one; of a document across `first` or `end`, the part between them is used.
        seq_len: T.
    """
    inside = ends[(ends > first) & (ends < end)]
    begins = torch.cat([torch.tensor([first]), inside])
    sizes = torch.cat([inside, torch.tensor([end])]) - begins  # [M]
    counts = (sizes - 1).clamp(min=0).add(seq_len - 1) // seq_len  # sequences of each document
    document = torch.repeat_interleave(counts)  # [N]
    offsets = (torch.arange(len(document)) - (counts.cumsum(0) - counts)[document]) * seq_len
    lengths = (sizes[document] - offsets).clamp(max=seq_len + 1)
    return TokenSet(tokens, begins[document] + offsets, lengths, seq_len)


class TextBatch(TypedDict):
    """What a loader yields.

    Args:
        tokens: [N, T+1] int64; -100 fills the end of short sequences.
        index: indices [N] int64 of the sequences in their split.
        position: number of the batch; see `BatchIndex`.
    """

    tokens: Tensor
    index: Tensor
    position: int


@dataclass(eq=False)
class TextBatches(Dataset[TextBatch]):
    """Whole batches of one split's sequences, for a `DataLoader` with an order as its sampler and `batch_size=None`."""

    sequences: TokenSet

    def __len__(self) -> int:
        """Number of sequences, not of batches: that is the order's."""
        return len(self.sequences)

    def __getitem__(self, batch: BatchIndex) -> TextBatch:
        check_batch_index(batch)
        return {"tokens": self.sequences[batch.indices], "index": batch.indices, "position": batch.position}
