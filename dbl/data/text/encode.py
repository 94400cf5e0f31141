"""From documents to one long sequence of tokens, in memory or on disk.

An entry on disk is a folder with `tokens.bin` and `ends.npy`, written last (`write_once`). So texts are encoded once,
and a set larger than memory is never read whole. `datasets.map` would keep a copy of the texts beside their tokens.
"""

import hashlib
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dbl.data.text.documents import Documents
from dbl.data.text.tokenizer import Tokenizer
from dbl.data.text.tokens import MappedTokens, Tokens, smallest_type
from dbl.utils.errors import DblWarning, UserError
from dbl.utils.files import replacing, write_once

# Longer documents are encoded in chunks: an encoder takes about 100 bytes of memory for each byte of text.
CHUNK_CHARACTERS = 100_000


@dataclass(frozen=True, eq=False)
class EncodedText:
    """Documents as one sequence of tokens, each document with the end token, if the tokenizer has one, as its last."""

    tokens: Tokens  # [n]
    ends: Tensor  # [M] int64 place after the last token of each document


@dataclass(frozen=True)
class Encoder:
    """Encodes documents up to `max_tokens` tokens, if need be part of the last document; None encodes all."""

    tokenizer: Tokenizer
    max_tokens: int | None = None

    def encoded(self, documents: Iterable[str], folder: Path) -> EncodedText:
        """The tokens of documents; those of `Documents`, which have a fingerprint, are kept in a folder.

        Several processes may use the folder at once. Raises UserError if the tokenizer cannot express a text, or an
        entry is damaged.
        """
        if not isinstance(documents, Documents):
            return self._in_memory(documents)
        key = f"{documents.fingerprint} {self.tokenizer.identity} {self.max_tokens}"
        entry = folder / f"tokens-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
        try:
            write_once(entry, "ends.npy", lambda: self._write(documents, entry))
        except OSError as error:
            warnings.warn(
                f"tokens stay in memory and are not kept: data.init_args.cache_dir {entry.parent} cannot be written "
                f"({error})",
                DblWarning,
                stacklevel=2,
            )
            return self._in_memory(documents)
        return self._read(entry)

    def _in_memory(self, documents: Iterable[str]) -> EncodedText:
        ends: list[int] = []
        chunks = list(self._chunks(documents, ends))
        return EncodedText(np.concatenate([np.empty(0, self._dtype), *chunks]), torch.tensor(ends, dtype=torch.int64))

    def _write(self, documents: Iterable[str], entry: Path) -> None:
        ends: list[int] = []
        with replacing(entry / "tokens.bin") as path, path.open("wb") as file:
            for chunk in self._chunks(documents, ends):
                file.write(chunk.tobytes())
        with replacing(entry / "ends.npy") as path, path.open("wb") as file:
            np.save(file, np.array(ends, np.int64))

    def _read(self, entry: Path) -> EncodedText:
        tokens = MappedTokens(entry / "tokens.bin", self._dtype.name)
        try:
            ends = torch.from_numpy(np.load(entry / "ends.npy"))
            if len(tokens) != (int(ends[-1]) if len(ends) else 0):
                raise ValueError("its files do not belong together")
        except (OSError, EOFError, ValueError) as error:
            raise UserError(f"{entry} is damaged ({error}); delete it") from None
        return EncodedText(tokens, ends)

    def _chunks(self, documents: Iterable[str], ends: list[int]) -> Iterator[np.ndarray]:
        """Yield tokens of the smallest type in chunks; append the end of each document to `ends` after its last."""
        num = 0
        for document in documents:
            for chunk in self._chunks_of(document):
                kept = chunk if self.max_tokens is None else chunk[: self.max_tokens - num]
                num += len(kept)
                yield kept
                if num == self.max_tokens:
                    break
            ends.append(num)
            if num == self.max_tokens:
                return

    def _chunks_of(self, document: str) -> Iterator[np.ndarray]:
        for text in _cut(self.tokenizer.prepare(document)):
            yield self.tokenizer.encode(text).numpy().astype(self._dtype)
        if self.tokenizer.end_id is not None:
            yield np.array([self.tokenizer.end_id], self._dtype)

    @property
    def _dtype(self) -> np.dtype:
        return smallest_type(self.tokenizer.vocab_size)


def _cut(text: str) -> Iterator[str]:
    """Yield chunks of at most `CHUNK_CHARACTERS`, cut after the end of a line where there is one."""
    first = 0
    while len(text) - first > CHUNK_CHARACTERS:
        line_end = text.rfind("\n", first, first + CHUNK_CHARACTERS)
        end = line_end + 1 if line_end >= 0 else first + CHUNK_CHARACTERS
        yield text[first:end]
        first = end
    yield text[first:]
