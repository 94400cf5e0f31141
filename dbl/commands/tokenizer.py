"""`dbl tokenizer`: train a small tokenizer on text files."""

from collections.abc import Iterator
from pathlib import Path

from jsonargparse import ArgumentParser

from dbl.commands.help import HELP
from dbl.commands.outputs import check_output
from dbl.commands.parsing import parse
from dbl.data.sources.local_files import find_files
from dbl.data.text.documents import FileDocuments
from dbl.data.text.tokenizer_file import TokenizerFile, tokenizers_library
from dbl.utils.errors import UserError
from dbl.utils.files import write_text

_END_TOKEN = "<|endoftext|>"
_NUM_BYTES = 256


def build_parser() -> ArgumentParser:
    """The parser of `dbl tokenizer`."""
    parser = ArgumentParser(prog="dbl tokenizer", description=HELP["tokenizer"].summary, exit_on_error=False)
    parser.add_argument("--files", type=str, nargs="+", required=True, help="text or parquet files, or globs")
    parser.add_argument("--vocab_size", type=int, default=4096, help="tokens: 256 bytes, the end token and pairs")
    parser.add_argument("--output", type=str, required=True, help="JSON file to write")
    parser.add_argument("--text_column", type=str, default="text", help="column of parquet files that holds the text")
    return parser


def main(arguments: list[str]) -> None:
    """Train byte pairs (Sennrich et al. 2016; on bytes as in GPT-2) and write a file that `TokenizerFile` reads.

    A row of a parquet file, or a whole file of another kind, is one document. Little text may give fewer tokens than
    asked for.

    Raises UserError if a file is absent or the vocabulary is too small for all bytes.
    """
    options = parse(build_parser(), arguments[1:])
    vocab_size, output = options.vocab_size, check_output(Path(options.output))
    if vocab_size <= _NUM_BYTES:
        raise UserError(f"--vocab_size ({vocab_size}) must be at least {_NUM_BYTES + 1}: all bytes and the end token")
    library = tokenizers_library()
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[_END_TOKEN],
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_documents(options.files, options.text_column), trainer)
    write_text(output, tokenizer.to_str(pretty=True))
    made = TokenizerFile(str(output))
    print(f"tokenizer: {output}, {made.vocab_size} tokens")


def _documents(files: list[str], text_column: str) -> Iterator[str]:
    for pattern in files:
        found = find_files(Path(), pattern)
        if not found:
            raise UserError(f"--files: there is no file {pattern}")
        yield from FileDocuments(tuple(found), text_column)
