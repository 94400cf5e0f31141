"""The option `--trust` of the commands that read a run folder alone, without a config that the user names."""

import argparse
from collections.abc import Collection

from dbl.data.text.tokenizer import load_tokenizer
from dbl.run.folder import RunFolder
from dbl.utils.errors import UserError


def add_trust_option(parser: argparse.ArgumentParser) -> None:
    """Add `--trust`."""
    parser.add_argument(
        "--trust",
        metavar="PACKAGE",
        type=str,
        default="",
        help="packages of your own with classes that the run names, such as my_package; several with commas",
    )


def trusted_packages(text: str) -> tuple[str, ...]:
    """The packages that `--trust` names. Raises UserError if one is not the name of a module."""
    names = tuple(name.strip() for name in text.split(",")) if text else ()
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")):
            raise UserError(f"--trust {name[:60]!r} must be the name of a package, such as my_package")
    return names


def trusted_in(arguments: list[str]) -> tuple[str, ...]:
    """The packages that `--trust` names in a command line whose parser depends on what the run holds."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--trust", default="", nargs="?")
    return trusted_packages(parser.parse_known_args(arguments)[0].trust or "")


def import_trusted(run: RunFolder, trusted: Collection[str]) -> None:
    """Import the classes that a run names, for all that follows in this process; without trust, nothing."""
    if trusted:
        run.load_contract(trusted)
        if run.tokenizer.is_file():
            load_tokenizer(run.tokenizer, trusted)
