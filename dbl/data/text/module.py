"""The DataModule of text: splits, sequences and facts, from one method that a data set must give."""

import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

from typing_extensions import override

from dbl.data.module import ResumableDataModule, Split
from dbl.data.spec import SEQ_LEN, TextSpec
from dbl.data.text.encode import EncodedText, Encoder
from dbl.data.text.measure import declared_text, measure_text
from dbl.data.text.tokenizer import Characters, Tokenizer
from dbl.data.text.tokens import TextBatches, TokenSet, document_sequences, stream_sequences
from dbl.utils.checks import Number, check_choice, check_numbers, whole
from dbl.utils.errors import UserError

Packing = Literal["stream", "document"]


class TextData(ResumableDataModule):
    """Text in three disjoint splits. A new data set is a subclass with the method `load`.

    The documents of a split are joined to one long sequence of tokens, each followed by the end token if the tokenizer
    has one. A split that the data set lacks is cut from the end of the training tokens: train, validation, test.

    Args:
        seq_len: T, tokens that are predicted in one sequence; a sequence has one token more before them.
        tokenizer: tokenizer of the text.
        batch_size: number of training sequences in a batch of one device.
        eval_batch_size: number of sequences in a batch of one device in validation and test.
        packing: `stream` cuts every T tokens without regard to documents; the rest of a split that does not fill a
            sequence, at most T - 1 tokens, is left out in training and in test. `document` cuts each document for
            itself and fills its last sequence with -100; nothing is left out.
        validation_share: share of the training tokens that is cut for validation, in [0, 1); 0 means no validation.
        test_share: share of the training tokens that is cut for the test, in [0, 1).
        max_tokens: largest number of tokens, from the beginning of each split that the data set has; null takes all.
        num_workers: number of processes that prepare batches; 0 prepares them in the main process.
        seed: random seed of the order of the training sequences.
        cache_dir: folder for the tokens of files and of the hub, which are read from there batch by batch.

    Example:
        >>> import dbl
        >>> class Counting(dbl.TextData):
        ...     def load(self, split):
        ...         return [" ".join(map(str, range(1000)))] if split == "train" else None  # the others are cut from it
        >>> data = Counting(seq_len=16, tokenizer=dbl.Characters(), batch_size=8, eval_batch_size=8)
        >>> data.spec.num_classes  # ten digits and the space
        11
    """

    def __init__(
        self,
        seq_len: int,
        tokenizer: Tokenizer,
        batch_size: int,
        eval_batch_size: int,
        packing: Packing = "stream",
        validation_share: float = 0.1,
        test_share: float = 0.1,
        max_tokens: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
        cache_dir: str = ".cache/dbl",
    ) -> None:
        super().__init__(batch_size, eval_batch_size, num_workers, seed)
        check_choice("data.init_args.packing", packing, get_args(Packing))
        self.seq_len = seq_len
        self.packing = packing
        self.validation_share = validation_share
        self.test_share = test_share
        self.max_tokens = max_tokens
        share = Number(at_least=0, below=1)
        check_numbers("data.init_args", self, validation_share=share, test_share=share)
        check_numbers("data.init_args", self, seq_len=SEQ_LEN, max_tokens=whole(1, 10**15, optional=True))
        if validation_share + test_share >= 1:
            raise UserError(
                f"data.init_args.validation_share ({validation_share}) and test_share ({test_share}) must leave "
                f"something to train on"
            )
        self.cache_dir = cache_dir
        self._given_tokenizer = tokenizer
        self._documents_of: dict[Split, Iterable[str] | None] = {}
        self._encoded_as: dict[Split, EncodedText] = {}
        self._sequences_of: dict[Split, TokenSet] = {}

    @abstractmethod
    def load(self, split: Split) -> Iterable[str] | None:
        """Return the documents of a split, e.g. a list; they are iterated more than once. Called once for a split.

        The tokens of `Documents` are kept in `cache_dir`, all others in memory. Return None for "validation" or "test"
        if the data set has none; it is then cut from the training tokens.
        """

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that encodes this data set.

        `Characters` without an alphabet takes the characters of all splits, so that each split can be encoded; nothing
        else is learned of validation and test.
        """
        if not (isinstance(self._given_tokenizer, Characters) and self._given_tokenizer.alphabet is None):
            return self._given_tokenizer
        found: set[str] = set()
        for split in ("train", "validation", "test"):
            for document in _first_characters(self._documents(split) or (), self.max_tokens):
                found.update(document)
        if not found:
            raise UserError(f"data: {self.name} has no documents in its train split")
        return self._given_tokenizer.fit("".join(found))

    @cached_property
    @override
    def spec(self) -> TextSpec:
        num_training = self._bounds("train")[1]
        sequences = self.split("train")  # first, for its error if the text is too short
        text = self._encoded("train")
        return measure_text(self.name, text, num_training, self.tokenizer, self.packing, sequences)

    @property
    @override
    def declared_spec(self) -> TextSpec:  # reads text only where the tokenizer takes its alphabet from it
        return declared_text(self.name, self.tokenizer, self.seq_len)

    @override
    def split(self, name: Split) -> TokenSet:
        """The sequences of a split; encoded once. Raises UserError if it has too little text for a sequence."""
        if name in self._sequences_of:
            return self._sequences_of[name]
        text = self._encoded(self._source(name))
        first, end = self._bounds(name)
        if self.packing == "stream":
            sequences = stream_sequences(text.tokens, first, end, self.seq_len)
        else:
            sequences = document_sequences(text.tokens, text.ends, first, end, self.seq_len)
        without_validation = name == "validation" and self._is_cut(name) and self.validation_share == 0
        if len(sequences) == 0 and not without_validation:
            raise self._too_short(name, end - first)
        self._sequences_of[name] = sequences
        return sequences

    @override
    def batches(self, name: Split, training: bool) -> TextBatches:
        return TextBatches(self.split(name))

    def _too_short(self, name: Split, num_tokens: int) -> UserError:
        if num_tokens == 0:
            remedy = f"; data.init_args.{name}_share is too small" if self._is_cut(name) else ""
            return UserError(f"data: {self.name} has no documents in its {name} split{remedy}")
        needed = f"seq_len + 1 = {self.seq_len + 1}" if self.packing == "stream" else "2 in one document"
        return UserError(
            f"data.init_args.seq_len: the {name} split of {self.name} has {num_tokens} tokens, but a sequence needs "
            f"{needed}; choose a smaller seq_len or more text"
        )

    def _bounds(self, name: Split) -> tuple[int, int]:
        """Place of the first token of a split, and after its last, among the tokens of its source."""
        num = len(self._encoded(self._source(name)).tokens)
        if self._source(name) != "train":
            return 0, num
        num_test = int(num * self.test_share) if self._is_cut("test") else 0
        num_validation = int(num * self.validation_share) if self._is_cut("validation") else 0
        validation, test = num - num_test - num_validation, num - num_test
        return {"train": (0, validation), "validation": (validation, test), "test": (test, num)}[name]

    def _is_cut(self, name: Split) -> bool:
        """Whether a split is cut from the training text."""
        return name != "train" and self._documents(name) is None

    def _source(self, name: Split) -> Split:
        return "train" if self._is_cut(name) else name

    def _encoded(self, name: Split) -> EncodedText:
        if name not in self._encoded_as:
            documents, folder = self._documents(name) or (), Path(self.cache_dir) / self.name
            self._encoded_as[name] = Encoder(self.tokenizer, self.max_tokens).encoded(documents, folder)
        return self._encoded_as[name]

    def _documents(self, name: Split) -> Iterable[str] | None:
        if name not in self._documents_of:
            self._documents_of[name] = self.load(name)
        return self._documents_of[name]


def _first_characters(documents: Iterable[str], num: int | None) -> Iterator[str]:
    """Yield the documents until there are `num` characters, of which each makes one token; None yields all."""
    left = math.inf if num is None else num
    for document in documents:
        yield document  # whole: it is encoded before it is cut
        left -= len(document)
        if left <= 0:
            return
