"""Tokenizers: from text to numbers and back. Two need no training; for others see `TokenizerFile`.

A tokenizer is kept with a run as one JSON file that holds all that encoding depends on. C: size of the vocabulary.
"""

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from dbl.utils.errors import UserError
from dbl.utils.files import read_json, write_json
from dbl.utils.serialization import from_plain, to_plain

TEXT8 = "text8"


class Tokenizer(ABC):
    """From text to tokens and back. A new one is a frozen dataclass with the methods that are abstract here."""

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """C."""

    @property
    @abstractmethod
    def end_id(self) -> int | None:
        """The token that ends each document and is never made from text; None if there is none."""

    @property
    def unknown_id(self) -> int | None:
        """The token for text that the vocabulary cannot express; None if such text is refused."""
        return None

    @property
    @abstractmethod
    def byte_lengths(self) -> Tensor:
        """Number [C] int64 of UTF-8 bytes that each token stands for; 0 for the end token."""

    @property
    @abstractmethod
    def definition(self) -> str:
        """Text with all that encoding depends on besides the class."""

    @abstractmethod
    def encode(self, text: str) -> Tensor:
        """Tokens [n] int64 of a text, without an end token.

        Raises UserError naming the characters that the vocabulary cannot express.
        """

    @abstractmethod
    def decode(self, ids: Tensor | Sequence[int]) -> str:
        """The text of tokens [n]. The end token and negative numbers, which fill short sequences, stand for nothing."""

    def prepare(self, text: str) -> str:
        """Text of a data set as it is encoded; most tokenizers leave it as it is."""
        return text

    def standalone(self) -> "Tokenizer":
        """The same tokenizer with its file, if it has one, read into it."""
        return self

    @property
    def needs_file(self) -> bool:
        """Whether encoding depends on a file beside this object."""
        return False

    @property
    def identity(self) -> str:
        """A hash of all that encoding depends on."""
        return hashlib.sha256(f"{type(self).__qualname__} {self.definition}".encode(errors="surrogatepass")).hexdigest()

    def save(self, path: Path | str) -> None:
        """Write one JSON file that `load_tokenizer` reads and that needs no other file."""
        write_json(Path(path), {**to_plain(self.standalone()), "identity": self.identity})


def load_tokenizer(path: Path | str, trusted: Collection[str] = ()) -> Tokenizer:
    """The tokenizer in a file that `Tokenizer.save` wrote, such as `tokenizer.json` in a run or in its model folder.

    The file is data: no code of its choice is run and no other file is read. Raises UserError if it is absent, was not
    written by `dbl`, was changed since, or names a class of a module that is neither imported nor trusted.

    Args:
        path: the file.
        trusted: packages with tokenizers of your own that the file may import, e.g. ["my_package"].

    Example:
        >>> import dbl
        >>> dbl.Characters(alphabet="abc").save("tokenizer.json")
        >>> dbl.load_tokenizer("tokenizer.json").vocab_size
        3
    """
    plain = read_json(Path(path))
    if not isinstance(plain, dict) or plain.keys() != {"class_path", "init_args", "identity"}:
        raise UserError(f"{path} is not a tokenizer written by dbl; a file of `tokenizers` is a TokenizerFile")
    identity = plain.pop("identity")
    try:
        tokenizer = from_plain(plain, Tokenizer, trusted, "tokenizer")  # type: ignore[type-abstract]
        if tokenizer.needs_file:
            raise UserError("tokenizer.content is null: a stored tokenizer must hold the content of its file")
        is_unchanged = tokenizer.identity == identity
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if not is_unchanged:
        raise UserError(f"{path} was changed after it was written: restore it from a copy")
    return tokenizer


@dataclass(frozen=True)
class Bytes(Tokenizer):
    """The 256 byte values of UTF-8. Byte 0 ends documents; the character 0 is removed from the text of data sets.

    Example:
        >>> import dbl
        >>> tokenizer = dbl.Bytes()
        >>> tokenizer.encode("né")
        tensor([110, 195, 169])
        >>> tokenizer.vocab_size
        256
    """

    vocab_size = 256
    end_id = 0
    definition = ""  # there is nothing to choose

    @property
    @override
    def byte_lengths(self) -> Tensor:
        return (torch.arange(256) != self.end_id).long()

    @override
    def prepare(self, text: str) -> str:
        return text.replace("\0", "")  # web pages sometimes hold it

    @override
    def encode(self, text: str) -> Tensor:
        """Encode any text but the character 0 and halves of surrogate pairs."""
        if refused := re.findall("[\0\ud800-\udfff]", text):
            raise unknown_characters(refused, "remove them from the text")
        return torch.from_numpy(np.frombuffer(text.encode(), np.uint8).astype(np.int64))

    @override
    def decode(self, ids: Tensor | Sequence[int]) -> str:
        """Decode bytes; those that are not UTF-8 become U+FFFD."""
        return bytes(number for number in numbers(ids) if number != self.end_id).decode(errors="replace")


@dataclass(frozen=True)
class Characters(Tokenizer):
    """One token for each character of an alphabet; no end token.

    Raises UserError if the alphabet is empty or has a character twice.

    Args:
        alphabet: the characters, each once. Null takes those of the data set (see `TextData.tokenizer`). "text8" stands
            for space and a to z and turns the text of data sets into such: lower case, and one space for each run of
            other characters. (The file text8 itself also has its numbers spelt out.)

    Example:
        >>> import dbl
        >>> tokenizer = dbl.Characters(alphabet="abc ")
        >>> tokenizer.encode("a cab")
        tensor([0, 3, 2, 0, 1])
        >>> tokenizer.decode(tokenizer.encode("a cab"))
        'a cab'
    """

    alphabet: str | None = None
    end_id = None

    def __post_init__(self) -> None:
        if self.alphabet not in (None, TEXT8) and not 0 < len(set(self.characters)) == len(self.characters):
            raise UserError(f"tokenizer.alphabet {self.alphabet!r} must name each character once, and at least one")

    def fit(self, text: str) -> "Characters":
        """The tokenizer whose alphabet is the sorted characters of a text. Raises UserError if the text is empty."""
        return replace(self, alphabet="".join(sorted(set(text))))

    @property
    def characters(self) -> str:
        """The alphabet [C]. Raises UserError if it comes from a data set that has not been read."""
        if self.alphabet is None:
            raise UserError("tokenizer.alphabet is null: use the tokenizer of the data set, or give the characters")
        return " abcdefghijklmnopqrstuvwxyz" if self.alphabet == TEXT8 else self.alphabet

    @property
    @override
    def vocab_size(self) -> int:
        return len(self.characters)

    @property
    @override
    def byte_lengths(self) -> Tensor:
        return torch.tensor([len(character.encode(errors="surrogatepass")) for character in self.characters])

    @property
    @override
    def definition(self) -> str:
        return f"{self.alphabet == TEXT8} {self.characters}"

    @override
    def prepare(self, text: str) -> str:
        return re.sub("[^a-z]+", " ", text.lower()) if self.alphabet == TEXT8 else text

    @override
    def encode(self, text: str) -> Tensor:
        codes, tokens = self._sorted
        wanted = _codes(text)
        places = np.searchsorted(codes, wanted).clip(max=len(codes) - 1)
        absent = codes[places] != wanted
        if absent.any():
            known = self.characters if len(self.characters) <= 40 else f"{self.characters[:37]}..."
            raise unknown_characters(
                map(chr, np.unique(wanted[absent])),
                f"the alphabet is {known!r}; leave them out, or for a data set change alphabet (null: its characters)",
            )
        return torch.from_numpy(tokens[places])

    @override
    def decode(self, ids: Tensor | Sequence[int]) -> str:
        return "".join(self.characters[number] for number in numbers(ids))

    @cached_property
    def _sorted(self) -> tuple[np.ndarray, np.ndarray]:
        """Increasing code points [C], and their tokens [C] int64."""
        codes = _codes(self.characters)
        tokens = codes.argsort()
        return codes[tokens], tokens.astype(np.int64)


def numbers(ids: Tensor | Sequence[int]) -> list[int]:
    """Tokens as a list, without the negative numbers that fill short sequences."""
    listed = ids.tolist() if isinstance(ids, Tensor) else ids
    return [number for number in listed if number >= 0]


def unknown_characters(characters: Sequence[str] | map, remedy: str) -> UserError:
    """The error for characters, repeated or not, that a vocabulary cannot express; names ten of them at most."""
    found = sorted(set(characters))
    named = ", ".join(map(repr, found[:10])) + (f" and {len(found) - 10} more" if len(found) > 10 else "")
    return UserError(f"text: the tokenizer has no token for {named}; {remedy}")


def _codes(text: str) -> np.ndarray:
    """Code points [n] of the characters."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
