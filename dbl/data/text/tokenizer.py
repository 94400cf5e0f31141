"""Tokenizers: from text to numbers and back. Two of them need no training; for others see `TokenizerFile`.

A tokenizer is kept with a run as one JSON file that holds all that encoding depends on.
C stands for the tokens of the vocabulary.
"""

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dbl.utils.errors import UserError
from dbl.utils.files import read_json, write_json
from dbl.utils.serialization import from_plain, to_plain

TEXT8 = "text8"


class Tokenizer(ABC):
    """From text to tokens and back. One's own is a frozen dataclass with the methods that are abstract here."""

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """C."""

    @property
    @abstractmethod
    def end_id(self) -> int | None:
        """The token that separates documents and is never made from text; None if there is none."""

    @property
    def unknown_id(self) -> int | None:
        """The token that stands for what the vocabulary does not have; None if everything else is refused."""
        return None

    @property
    @abstractmethod
    def byte_lengths(self) -> Tensor:
        """[C] int64, UTF-8 bytes of text that each token stands for; 0 for the end token."""

    @property
    @abstractmethod
    def definition(self) -> str:
        """All that encoding depends on beside the class."""

    @abstractmethod
    def encode(self, text: str) -> Tensor:
        """[n] int64 tokens, without an end token.

        Raises:
            UserError: naming the characters that the vocabulary cannot express.
        """

    @abstractmethod
    def decode(self, ids: Tensor | Sequence[int]) -> str:
        """The text of tokens [n]. The end token and negative numbers, which fill short sequences, stand for nothing."""

    def prepare(self, text: str) -> str:
        """Text of a data set as it is encoded; most tokenizers leave it as it is."""
        return text

    def standalone(self) -> "Tokenizer":
        """The same without need of a file."""
        return self

    @property
    def identity(self) -> str:
        """A hash of all that encoding depends on."""
        return hashlib.sha256(f"{type(self).__qualname__} {self.definition}".encode(errors="surrogatepass")).hexdigest()

    def save(self, path: Path | str) -> None:
        """Write one JSON file that `load_tokenizer` reads and that needs no other file."""
        write_json(Path(path), {**to_plain(self.standalone()), "identity": self.identity})


def load_tokenizer(path: Path | str) -> Tokenizer:
    """The tokenizer in a file that `Tokenizer.save` wrote, such as `tokenizer.json` in a run or in its model folder.

    Raises:
        UserError: if the file is absent, was not written so or was changed since.

    Example:
        >>> import dbl
        >>> dbl.Characters(alphabet="abc").save("tokenizer.json")
        >>> dbl.load_tokenizer("tokenizer.json").vocab_size
        3
    """
    plain = read_json(Path(path))
    try:
        identity = plain["identity"]
        tokenizer = from_plain(plain, Tokenizer)  # type: ignore[type-abstract]
    except (KeyError, TypeError, AttributeError):
        raise UserError(
            f"{path} is not a tokenizer written by dbl; a file of `tokenizers` is a TokenizerFile"
        ) from None
    if tokenizer.identity != identity:
        raise UserError(f"{path} was changed after it was written: restore it from a copy")
    return tokenizer


@dataclass(frozen=True)
class Bytes(Tokenizer):
    """The 256 byte values of UTF-8. Byte 0 separates documents; data sets lose the character 0, if they have any.

    Example:
        >>> import dbl
        >>> tokenizer = dbl.Bytes()
        >>> tokenizer.encode("né")
        tensor([110, 195, 169])
        >>> tokenizer.vocab_size
        256
    """

    @property
    def vocab_size(self) -> int:
        """256."""
        return 256

    @property
    def end_id(self) -> int:
        """0."""
        return 0

    @property
    def byte_lengths(self) -> Tensor:
        """See `Tokenizer.byte_lengths`."""
        return (torch.arange(256) != self.end_id).long()

    @property
    def definition(self) -> str:
        """See `Tokenizer.definition`; there is nothing to choose."""
        return ""

    def prepare(self, text: str) -> str:
        """See `Tokenizer.prepare`; without the character 0, which web pages sometimes hold."""
        return text.replace("\0", "")

    def encode(self, text: str) -> Tensor:
        """See `Tokenizer.encode`; only the character 0 and halves of surrogate pairs are refused."""
        if refused := re.findall("[\0\ud800-\udfff]", text):
            raise unknown_characters(refused, "remove them from the text")
        return torch.from_numpy(np.frombuffer(text.encode(), np.uint8).astype(np.int64))

    def decode(self, ids: Tensor | Sequence[int]) -> str:
        """See `Tokenizer.decode`; bytes that are not UTF-8 become U+FFFD."""
        return bytes(number for number in numbers(ids) if number != self.end_id).decode(errors="replace")


@dataclass(frozen=True)
class Characters(Tokenizer):
    """One token for each character of an alphabet; no end token.

    Args:
        alphabet: the characters, each once. Null takes those of the data set (see `TextData.tokenizer`). "text8" stands
            for space and a to z and turns the text of data sets into such: lower case, and one space for each run of
            other characters. (The file text8 itself also has its numbers spelt out.)

    Raises:
        UserError: if the alphabet is empty or has a character twice.

    Example:
        >>> import dbl
        >>> tokenizer = dbl.Characters(alphabet="abc ")
        >>> tokenizer.encode("a cab")
        tensor([0, 3, 2, 0, 1])
        >>> tokenizer.decode(tokenizer.encode("a cab"))
        'a cab'
    """

    alphabet: str | None = None

    def __post_init__(self) -> None:
        if self.alphabet not in (None, TEXT8) and not 0 < len(set(self.characters)) == len(self.characters):
            raise UserError(f"tokenizer.alphabet {self.alphabet!r} must name each character once, and at least one")

    def fit(self, text: str) -> "Characters":
        """The tokenizer whose alphabet is the sorted characters of a text.

        Raises:
            UserError: if the text is empty.
        """
        return replace(self, alphabet="".join(sorted(set(text))))

    @property
    def characters(self) -> str:
        """[C] the alphabet.

        Raises:
            UserError: if it is to come from a data set that has not been read.
        """
        if self.alphabet is None:
            raise UserError("tokenizer.alphabet is null: use the tokenizer of the data set, or give the characters")
        return " abcdefghijklmnopqrstuvwxyz" if self.alphabet == TEXT8 else self.alphabet

    @property
    def vocab_size(self) -> int:
        """See `Tokenizer.vocab_size`."""
        return len(self.characters)

    @property
    def end_id(self) -> None:
        """There is none."""
        return None

    @property
    def byte_lengths(self) -> Tensor:
        """See `Tokenizer.byte_lengths`."""
        return torch.tensor([len(character.encode(errors="surrogatepass")) for character in self.characters])

    @property
    def definition(self) -> str:
        """See `Tokenizer.definition`."""
        return f"{self.alphabet == TEXT8} {self.characters}"

    def prepare(self, text: str) -> str:
        """See `Tokenizer.prepare`; changes the text for the alphabet "text8" only."""
        return re.sub("[^a-z]+", " ", text.lower()) if self.alphabet == TEXT8 else text

    def encode(self, text: str) -> Tensor:
        """See `Tokenizer.encode`."""
        codes, tokens = self._sorted
        wanted = _codes(text)
        places = np.searchsorted(codes, wanted).clip(max=len(codes) - 1)
        absent = codes[places] != wanted
        if absent.any():
            raise unknown_characters(
                map(chr, np.unique(wanted[absent])), f"the alphabet is {self.characters!r}; leave them out or change it"
            )
        return torch.from_numpy(tokens[places])

    def decode(self, ids: Tensor | Sequence[int]) -> str:
        """See `Tokenizer.decode`."""
        return "".join(self.characters[number] for number in numbers(ids))

    @cached_property
    def _sorted(self) -> tuple[np.ndarray, np.ndarray]:
        """[C] code points that rise, and [C] the tokens of these."""
        codes = _codes(self.characters)
        tokens = codes.argsort()
        return codes[tokens], tokens.astype(np.int64)


def numbers(ids: Tensor | Sequence[int]) -> list[int]:
    """Tokens [n] as plain numbers, without the negative ones that fill short sequences."""
    listed = ids.tolist() if isinstance(ids, Tensor) else ids
    return [number for number in listed if number >= 0]


def unknown_characters(characters: Sequence[str] | map, remedy: str) -> UserError:
    """The error for characters that a vocabulary cannot express; names ten of them at most.

    Args:
        characters: in any order, repeated or not.
        remedy: what to do; ends the message.
    """
    found = sorted(set(characters))
    named = ", ".join(map(repr, found[:10])) + (f" and {len(found) - 10} more" if len(found) > 10 else "")
    return UserError(f"text: the tokenizer has no token for {named}; {remedy}")


def _codes(text: str) -> np.ndarray:
    """[n] code points."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
