"""The tokenizer that a run and its model keep, compared with the data that it made."""

from collections.abc import Collection
from pathlib import Path

from dbl.data.spec import DataSpec, TextSpec
from dbl.data.text.tokenizer import Tokenizer, load_tokenizer
from dbl.utils.errors import UserError


def tokenizer_in(path: Path, data: DataSpec, trusted: Collection[str] = ()) -> Tokenizer:
    """The tokenizer in a file. Raises UserError if it is absent, damaged, or not the one that made these data."""
    if not path.is_file():
        raise UserError(f"{path} does not exist: copy it from the machine on which the run was trained")
    tokenizer = load_tokenizer(path, trusted)
    is_ours = isinstance(data, TextSpec) and tokenizer.identity == data.tokenizer
    if not is_ours or tokenizer.vocab_size != data.num_classes:
        raise UserError(f"{path} is not the tokenizer that this run was trained with: restore the file")
    return tokenizer
