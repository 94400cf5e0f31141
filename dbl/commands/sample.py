"""`dbl sample`: draw images or write text with an assembled network."""

import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import yaml
from jsonargparse import ArgumentError, ArgumentParser, auto_parser

from dbl.commands.null_values import check_nulls
from dbl.commands.parsing import explain, parse, problem_of_file
from dbl.commands.sample_images import sample_images
from dbl.commands.sample_text import sample_text
from dbl.commands.spelling import suggestion
from dbl.commands.trust import add_trust_option, import_trusted, trusted_in
from dbl.data.spec import TextSpec
from dbl.denoising.sampling import Sampler
from dbl.inference.settings import InferenceConfig
from dbl.run.folder import RunFolder, known_runs
from dbl.utils.errors import DblWarning, UserError

# The run is a positional argument; errors are raised, for `parse`.
_PARSER = {"as_positional": True, "exit_on_error": False, "prog": "dbl sample"}


def build_parser(run: RunFolder | None = None) -> ArgumentParser:
    """The parser of `dbl sample`: arguments of `sample_text` or `sample_images`, with the sampler of the run's config.

    Without a run: those for images, with the defaults of the code.
    """
    if run is not None and _writes_text(run):
        parser = auto_parser(sample_text, set_defaults=_defaults(run, "ensemble"), **_PARSER)
    else:
        parser = auto_parser(sample_images, set_defaults={} if run is None else _defaults(run), **_PARSER)
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
    """The sampler of the run's config, and some other options of its group `inference`.

    Raises UserError if the config is damaged or has other values than `InferenceConfig` allows.
    """
    if not run.config.is_file():
        message = f"{run.config} does not exist: the sampler has the defaults of dbl where no option is given"
        warnings.warn(message, DblWarning, stacklevel=2)
        return {}
    problem = problem_of_file(str(run.config))
    if problem:
        raise UserError(problem)
    inference = _inference(run.config)
    sampler = {f"sampler.{name}": value for name, value in vars(inference.sampler).items()}
    return sampler | {name: getattr(inference, name) for name in options}


def _inference(config: Path) -> InferenceConfig:
    """The group `inference` of a config; its other groups may be of another version of `dbl`."""
    group = yaml.safe_load(config.read_text(encoding="utf-8")).get("inference")
    if not isinstance(group, dict) or not isinstance(group.get("sampler", {}), dict):
        raise UserError(f"{config} has no group `inference`: restore the file, or remove it to use the defaults of dbl")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(InferenceConfig, "inference")
    try:
        # First: the parser would import a class that is named among them.
        _check_keys("inference", group, InferenceConfig)
        _check_keys("inference.sampler", group.get("sampler", {}), Sampler)
        values = parser.parse_object({"inference": group})
        check_nulls(parser, values)
        return cast(InferenceConfig, parser.instantiate(values).inference)
    except (ArgumentError, OverflowError) as error:  # the latter of a number with hundreds of digits
        raise UserError(f"{config}: {explain(str(error), parser)}") from None
    except UserError as error:
        raise UserError(f"{config}: {error}") from None


def _check_keys(key: str, group: dict[Any, Any], cls: type) -> None:
    """Raise UserError unless a group has keys of a dataclass alone, and under each a single value or its own group."""
    known = [field.name for field in fields(cls)]
    for name, value in group.items():
        if name not in known:
            raise UserError(f"{key}: there is no {str(name)[:40]!r}{suggestion(str(name), known)}")
        if isinstance(value, list | dict) and name != "sampler":
            raise UserError(f"{key}.{name} must be a single value")
