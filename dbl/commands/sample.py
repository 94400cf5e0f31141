"""`dbl sample`: draw images or write text with an assembled network."""

from typing import Any

from jsonargparse import ArgumentParser, auto_parser

from dbl.commands.parsing import parse
from dbl.commands.sample_images import sample_images
from dbl.commands.sample_text import sample_text
from dbl.commands.trust import add_trust_option, import_trusted, trusted_in
from dbl.data.spec import TextSpec
from dbl.run.folder import RunFolder, known_runs, run_inference
from dbl.utils.errors import UserError

# The run is a positional argument; errors are raised, for `parse`.
_PARSER = {"as_positional": True, "exit_on_error": False, "prog": "dbl sample"}


def build_parser(run: RunFolder | None = None) -> ArgumentParser:
    """The parser of `dbl sample`: arguments of `sample_text` or `sample_images`, with the sampler of the run's model.

    Without a run: those for images, with the defaults of the code.
    """
    if run is not None and _writes_text(run):
        parser = auto_parser(sample_text, set_defaults=_defaults(run, "ensemble"), **_PARSER)
    else:
        parser = auto_parser(
            sample_images, set_defaults={} if run is None else _defaults(run, "keep_in_memory"), **_PARSER
        )
    add_trust_option(parser)
    return parser


def main(arguments: list[str]) -> None:
    """Sample from the run that the command line names."""
    words = arguments[1:]
    run = None if "--help" in words and not _words(words) else _run_of(words)
    if run is not None:
        import_trusted(run, trusted_in(words))  # first: the parser depends on what the run holds
    parser = build_parser(run)
    options = parser.instantiate(parse(parser, words))
    del options["config"], options["trust"]
    (sample_text if run is not None and _writes_text(run) else sample_images)(**options)


def _run_of(words: list[str]) -> RunFolder:
    """The run that a command line names; UserError if it names none, or none that exists."""
    named = _words(words)
    if not named:
        raise UserError(f"give a run folder, as in dbl sample runs/digits_dit{known_runs()}")
    return RunFolder.at(named[0])


def _words(words: list[str]) -> list[str]:
    """The words that are neither options nor their values; every option has one value."""
    found, follows = [], False
    for word in words:
        is_option = word.startswith("--")
        if not is_option and not follows:
            found.append(word)
        follows = is_option and "=" not in word and word != "--help"
    return found


def _writes_text(run: RunFolder) -> bool:
    return isinstance(run.load_contract().data, TextSpec)


def _defaults(run: RunFolder, *options: str) -> dict[str, Any]:
    """The sampler with which a run was assembled, and some other options of its group `inference`.

    Raises UserError if the model, or the config of an earlier version's run, is damaged or has other values.
    """
    if not run.model.is_dir():  # sampling refuses it; its help needs no model
        return {}
    inference = run_inference(run)
    sampler = {f"sampler.{name}": value for name, value in vars(inference.sampler).items()}
    return sampler | {name: getattr(inference, name) for name in options}
