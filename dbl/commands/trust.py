"""The option `--trust` of the commands that read a run folder alone, without a config that the user names."""

from argparse import ArgumentParser

from dbl.utils.errors import UserError

TRUST_HELP = "packages of your own whose classes the run may import, such as my_package; several with commas"


def trusted_packages(text: str) -> tuple[str, ...]:
    """The packages that `--trust` names. Raises UserError if one is not the name of a module."""
    names = tuple(name.strip() for name in text.split(",")) if text else ()
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")):
            raise UserError(f"--trust {name[:60]!r} must be the name of a package, such as my_package")
    return names


def trusted_in(arguments: list[str]) -> tuple[str, ...]:
    """The packages that `--trust` names in a command line whose parser depends on what the run holds."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--trust", default="", nargs="?")
    return trusted_packages(parser.parse_known_args(arguments)[0].trust or "")
