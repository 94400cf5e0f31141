"""Trained tokenizers in the format of the `tokenizers` library."""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from typing_extensions import override

from dbl.data.text.tokenizer import Tokenizer, numbers, unknown_characters
from dbl.utils.errors import UserError, optional_package

if TYPE_CHECKING:
    import tokenizers

END_TOKENS = ("</s>", "<|endoftext|>", "[SEP]", "<eos>")


def tokenizers_library() -> Any:
    """The module `tokenizers`, imported only where it is needed. Raises UserError if it is not installed."""
    return optional_package("tokenizers", "text", "this tokenizer")


@dataclass(frozen=True)
class TokenizerFile(Tokenizer):
    """A tokenizer that the `tokenizers` library reads, e.g. one made by `dbl tokenizer`.

    Special tokens are never made from text, so that no text can end its document. Truncation and padding that the file
    may ask for are turned off.

    Args:
        path: JSON file, or a Hugging Face folder with `tokenizer.json`.
        content: content of that file; null reads it. `load_tokenizer` gives it, so that the file need not exist.

    Example:
        >>> import dbl
        >>> from pathlib import Path
        >>> _ = Path("book.txt").write_text("It was a dark and stormy night. " * 100)
        >>> dbl.main(["tokenizer", "--files", "book.txt", "--vocab_size", "300", "--output", "tokenizer.json"])
        tokenizer: tokenizer.json, 280 tokens
        0
        >>> tokenizer = dbl.TokenizerFile("tokenizer.json")
        >>> tokenizer.decode(tokenizer.encode("a dark night"))
        'a dark night'
    """

    path: str
    content: str | None = None

    @property
    @override
    def vocab_size(self) -> int:
        """Largest token plus 1; a vocabulary may have gaps."""
        found = self._library.get_vocab(with_added_tokens=True).values()
        if not found:
            raise UserError(f"tokenizer.path: {self.path} has no tokens: restore the file")
        return max(found) + 1

    @cached_property
    @override
    def end_id(self) -> int | None:
        """The first special token that is called </s>, <|endoftext|>, [SEP] or <eos>."""
        special = {token.content: number for number, token in self._added.items() if token.special}
        return next((special[name] for name in END_TOKENS if name in special), None)

    @cached_property
    @override
    def byte_lengths(self) -> Tensor:
        # Special tokens stand for no text; the first token of a word stands for the space before it as well.
        lengths = torch.zeros(self.vocab_size, dtype=torch.int64)
        for token, number in self._library.get_vocab(with_added_tokens=False).items():
            lengths[number] = self._bytes_of(token, number)
        for number, added in self._added.items():
            lengths[number] = 0 if added.special else len(added.content.encode())
        return lengths

    @cached_property
    @override
    def definition(self) -> str:
        """The content of the file. Raises UserError if it cannot be read."""
        if self.content is not None:
            return self.content
        path = Path(self.path)
        file = path / "tokenizer.json" if path.is_dir() else path
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"tokenizer.path: cannot read {file} ({error}); dbl tokenizer makes such a file") from None

    @property
    @override
    def unknown_id(self) -> int | None:
        model = self._settings["model"]  # Unigram models have `unk_id`, all others `unk_token`
        if model.get("unk_id") is not None:
            return int(model["unk_id"])
        token = model.get("unk_token")
        return None if token is None else self._library.token_to_id(token)

    @property
    @override
    def needs_file(self) -> bool:
        return self.content is None

    @override
    def standalone(self) -> "TokenizerFile":
        return replace(self, content=self.definition)

    @override
    def encode(self, text: str) -> Tensor:
        """Encode a text; what the vocabulary cannot express becomes its token for unknown text, if it has one."""
        library = self._library  # first: it refuses a file whose settings could not be read below
        if halves := re.findall("[\ud800-\udfff]", text):
            raise unknown_characters(halves, "remove them from the text")
        if not self._expresses_all and (lost := [one for one in set(text) if self._drops(one)]):
            raise unknown_characters(lost, "leave them out, or train a tokenizer of bytes with dbl tokenizer")
        # Without offsets encoding takes half the time; only the call for many texts can leave them out.
        with self._refusing():
            (encoding,) = library.encode_batch_fast([text], add_special_tokens=False)
        return torch.tensor(encoding.ids, dtype=torch.int64)

    @override
    def decode(self, ids: Tensor | Sequence[int]) -> str:
        library = self._library
        with self._refusing():
            return library.decode(numbers(ids), skip_special_tokens=True)

    @cached_property
    def _library(self) -> "tokenizers.Tokenizer":
        library = tokenizers_library()
        definition = self.definition
        with self._refusing():
            tokenizer = library.Tokenizer.from_str(definition)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = True
        return tokenizer

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """Turn what the library raises, when it reads or uses a file that contradicts itself, into a UserError."""
        try:
            yield
        except (KeyboardInterrupt, SystemExit, GeneratorExit, UserError, MemoryError):
            raise
        except BaseException as error:  # it raises bare exceptions, and panics of Rust, which are none
            raise UserError(f"tokenizer.path: {self.path} is not a file of `tokenizers` ({error})") from None

    @cached_property
    def _settings(self) -> dict[str, Any]:
        return json.loads(self.definition)

    @cached_property
    def _added(self) -> dict[int, Any]:
        return self._library.get_added_tokens_decoder()

    @cached_property
    def _writes_bytes(self) -> bool:
        """Whether each letter of a token stands for one byte, as in GPT-2's vocabulary."""
        return '"ByteLevel"' in json.dumps(self._settings.get("decoder"))

    @cached_property
    def _expresses_all(self) -> bool:
        model = self._settings["model"]
        if any(model.get(key) is not None for key in ("unk_token", "unk_id")) or model.get("byte_fallback"):
            return True
        alphabet = tokenizers_library().pre_tokenizers.ByteLevel.alphabet()
        return self._writes_bytes and all(self._library.token_to_id(letter) is not None for letter in alphabet)

    def _drops(self, character: str) -> bool:
        """Whether the library silently loses a character, as a model without a token for unknown text does."""
        library = self._library
        with self._refusing():
            return not character.isspace() and not library.encode(character, add_special_tokens=False).ids

    def _bytes_of(self, token: str, number: int) -> int:
        if self._writes_bytes:
            return len(token)
        if re.fullmatch("<0x[0-9A-F]{2}>", token):
            return 1
        # Decoders drop the space before the first word, so the token is read after another one.
        both = self._library.decode([self._anchor, number])
        return len(both.encode()) - len(self._library.decode([self._anchor]).encode())

    @cached_property
    def _anchor(self) -> int:
        """A token that reads as one letter, or else any that reads as text."""
        vocabulary = sorted(self._library.get_vocab(with_added_tokens=False).values())
        texts = {number: self._library.decode([number]) for number in vocabulary}
        letters = [number for number in vocabulary if len(texts[number]) == 1 and texts[number].isalpha()]
        return next(iter(letters), vocabulary[0])
