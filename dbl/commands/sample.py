"""`dbl sample`: draw images or write text with an assembled network."""

from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, auto_parser

from dbl.commands.sample_images import sample_images
from dbl.commands.sample_text import sample_text
from dbl.commands.trust import add_trust_option, import_trusted, trusted_in
from dbl.data.spec import TextSpec
from dbl.run.folder import RunFolder


def build_parser(run: RunFolder | None = None) -> ArgumentParser:
    """The parser of `dbl sample`: arguments of `sample_text` or `sample_images`, with the sampler of the run's config.

    Without a run: those for images, with the defaults of the code.
    """
    if run is not None and _writes_text(run):
        parser = auto_parser(sample_text, as_positional=True, set_defaults=_defaults(run, "ensemble"))
    else:
        parser = auto_parser(sample_images, as_positional=True, set_defaults={} if run is None else _defaults(run))
    add_trust_option(parser)
    return parser


def main(arguments: list[str]) -> None:
    """Sample from the run that the command line names."""
    folders = (Path(argument) for argument in arguments[1:] if not argument.startswith("-"))
    run = next((RunFolder.at(folder) for folder in folders if (folder / "contract.json").is_file()), None)
    if run is not None:
        import_trusted(run, trusted_in(arguments[1:]))  # first: the parser depends on what the run holds
    parser = build_parser(run)
    options = parser.instantiate(parser.parse_args(arguments[1:]))
    del options["config"], options["trust"]
    (sample_text if run is not None and _writes_text(run) else sample_images)(**options)


def _writes_text(run: RunFolder) -> bool:
    return isinstance(run.load_contract().data, TextSpec)


def _defaults(run: RunFolder, *options: str) -> dict[str, Any]:
    """The sampler of the run's config, and some other options of its group `inference`."""
    if not run.config.is_file():
        return {}
    inference = yaml.safe_load(run.config.read_text(encoding="utf-8"))["inference"]
    sampler = {f"sampler.{name}": value for name, value in inference["sampler"].items()}
    return sampler | {name: inference[name] for name in options}
