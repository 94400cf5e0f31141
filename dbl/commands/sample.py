"""`dbl sample`: draw images or write text with an assembled network."""

from pathlib import Path
from typing import Any

import yaml
from jsonargparse import auto_cli

from dbl.commands.sample_images import sample_images
from dbl.commands.sample_text import sample_text
from dbl.data.spec import TextSpec
from dbl.run.folder import RunFolder


def main(arguments: list[str]) -> None:
    """Parse the command line, with the sampler of the run's config as the default, and sample."""
    folders = (Path(argument) for argument in arguments[1:] if not argument.startswith("-"))
    run = next((folder for folder in folders if (folder / "contract.json").is_file()), None)
    if run is not None and _writes_text(run):
        auto_cli(sample_text, args=arguments[1:], as_positional=True, set_defaults=_defaults(run, "ensemble"))
    else:
        auto_cli(sample_images, args=arguments[1:], as_positional=True, set_defaults=_defaults(run))


def _writes_text(run: Path) -> bool:
    return isinstance(RunFolder.at(run).load_contract().data, TextSpec)


def _defaults(run: Path | None, *options: str) -> dict[str, Any]:
    """The sampler of the run's config, and some other options of its group `inference`."""
    if run is None or not (run / "config.yaml").is_file():
        return {}
    inference = yaml.safe_load((run / "config.yaml").read_text())["inference"]
    sampler = {f"sampler.{name}": value for name, value in inference["sampler"].items()}
    return sampler | {name: inference[name] for name in options}
