"""What every scoring model has in common: a causal language model that judges the texts of others.

Axes: N windows in a batch, T tokens of a window, C vocabulary, D width, n texts.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from dbl.data.spec import IGNORED
from dbl.utils.errors import UserError

_TOKENS_PER_PASS = 2048  # their logits take 0.4 GB with the vocabulary of GPT-2


@dataclass(frozen=True)
class TextScore:
    """Sums over texts, from which ratios are computed at the end.

    Args:
        nats: negative log-likelihood of all scored tokens.
        tokens: number of scored tokens, by the scoring model's own tokenizer.
        bytes: number of UTF-8 bytes of these tokens.
    """

    nats: float
    tokens: int
    bytes: int

    @property
    def perplexity(self) -> float:
        """Perplexity per token of the scoring model. Raises UserError if nothing was scored."""
        return math.exp(self.nats / self._scored(self.tokens))

    @property
    def bits_per_byte(self) -> float:
        """Bits per byte of UTF-8, comparable across scoring models. Raises UserError if nothing was scored."""
        return self.nats / math.log(2) / self._scored(self.bytes)

    def _scored(self, count: int) -> int:
        if count == 0:
            raise UserError("scoring model: no token was scored; the texts are empty or have one token each")
        return count


@dataclass(frozen=True, eq=False)
class EncodedText:
    """A text as a scoring model reads it.

    Args:
        tokens: tokens [n] int64 of the text alone.
        num_given: number of tokens at its beginning that are given and not scored; 0 if a start token precedes them.
        num_bytes: number of UTF-8 bytes of the text that is scored.
    """

    tokens: Tensor
    num_given: int
    num_bytes: int


class ScoringModel(ABC):
    """A causal language model with a tokenizer of its own, frozen and in float32.

    Attributes:
        name: name for people and in messages.
        identity: text that changes with anything that changes the numbers.
        context: largest number of tokens that its network takes.
        start_token: token that is put before each text; without one (None), the first token of a text is not scored.
        device: device of its network.
    """

    name: str
    identity: str
    context: int
    start_token: int | None
    device: torch.device

    @abstractmethod
    def encode(self, text: str) -> EncodedText:
        """Encode a text. Raises UserError if it has characters that the scoring model does not know."""

    @abstractmethod
    def logits(self, tokens: Tensor) -> Tensor:
        """Logits [N,T,C] of the token after each of `tokens` [N,T], T at most `context`; causal."""

    @abstractmethod
    def hidden(self, tokens: Tensor) -> Tensor:
        """Last hidden states [N,T,D] of `tokens` [N,T], T at most `context`; causal."""

    @torch.no_grad()
    def nats(self, texts: Sequence[str]) -> TextScore:
        """Negative log-likelihood of the texts, each by itself; every token is scored once.

        Texts longer than the context are read in windows that overlap by half, so all scored tokens but those at the
        beginning of a text have at least half of the context before them.

        Raises UserError if a text has characters that the scoring model does not know, or the sum is not finite.
        """
        encoded = [self.encode(text) for text in texts]
        found = [window for text in encoded for window in self._windows_of(text)]
        total = sum(self._nats_of([found[place] for place in batch]) for batch in _batches([len(x) for x, _ in found]))
        if not math.isfinite(total):
            raise UserError(f"scoring model {self.name}: its likelihood of the texts is not finite; check its weights")
        num_tokens = sum(int((labels != IGNORED).sum()) for _, labels in found)
        return TextScore(float(total), num_tokens, sum(text.num_bytes for text in encoded))

    @torch.no_grad()
    def features(self, texts: Sequence[str]) -> np.ndarray:
        """Hidden state [n, D] float32 at the last token of each text, without start token, as mauve-text takes it.

        Only the beginning of a text longer than the context is read. Raises UserError if there is no text, or one is
        empty or has characters that the scoring model does not know.
        """
        rows = [self.encode(text).tokens[: self.context] for text in texts]
        if not rows or not all(map(len, rows)):
            raise UserError(f"scoring model {self.name}: no text, or an empty text, has no features; leave it out")
        found: dict[int, Tensor] = {}
        for batch in _batches([len(row) for row in rows]):
            hidden = self.hidden(_padded([rows[place] for place in batch], 0).to(self.device))  # N, T, D
            found |= {place: hidden[i, len(rows[place]) - 1].float().cpu() for i, place in enumerate(batch)}
        return torch.stack([found[place] for place in range(len(rows))]).numpy()

    def _windows_of(self, text: EncodedText) -> Iterator[tuple[Tensor, Tensor]]:
        if self.start_token is None:
            return windows(text.tokens, text.num_given, self.context)
        return windows(F.pad(text.tokens, (1, 0), value=self.start_token), text.num_given + 1, self.context)

    def _nats_of(self, batch: Sequence[tuple[Tensor, Tensor]]) -> float:
        # Padding on the right changes nothing for a causal network.
        logits = self.logits(_padded([inputs for inputs, _ in batch], 0).to(self.device)).float()  # N, T, C
        labels = _padded([labels for _, labels in batch], IGNORED).to(self.device)
        nats = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none")
        return float(nats.double().sum())


def windows(tokens: Tensor, num_given: int, context: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Cut a text into windows in which each token is scored once.

    Args:
        tokens: tokens [n] int64.
        num_given: number of tokens at the beginning that are not scored, at least 1.
        context: largest number of tokens in a window.

    Yields:
        Inputs [T] and labels [T] of a window, T at most `context`: label i is the token after input i, or -100 if it
        is not scored here.
    """
    inputs, labels = tokens[:-1], tokens[1:].clone()
    labels[: num_given - 1] = IGNORED
    stop = 0
    while stop < len(inputs):
        scored, stop = stop, min(stop + (max(context // 2, 1) if stop else context), len(inputs))
        start = max(stop - context, 0)
        new = labels[start:stop].clone()
        new[: scored - start] = IGNORED
        yield inputs[start:stop], new


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield indices of rows of similar lengths: at most `_TOKENS_PER_PASS` tokens with padding, or a single row."""
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[place] > _TOKENS_PER_PASS:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def _padded(rows: Sequence[Tensor], fill: int) -> Tensor:
    return pad_sequence(list(rows), batch_first=True, padding_value=fill)
