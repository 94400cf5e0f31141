"""`dbl completion`: a script for a shell that completes commands and options."""

from importlib import import_module
from inspect import signature
from typing import Any, Literal, get_args

from jsonargparse import ArgumentParser

from dbl.commands.help import HELP
from dbl.commands.parsing import parse
from dbl.utils.errors import optional_package

Shell = Literal["bash", "zsh", "tcsh"]


def build_parser() -> ArgumentParser:
    """The parser of `dbl completion`."""
    parser = ArgumentParser(prog="dbl completion", description=HELP["completion"].summary, exit_on_error=False)
    parser.add_argument("shell", choices=get_args(Shell), help="shell that will read the script")
    return parser


def main(arguments: list[str]) -> None:
    """Print the script, which shtab makes of the parsers of all commands.

    jsonargparse's own way to shtab would add the names of all classes of all packages: 190 MB for bash.

    Raises UserError if shtab is not installed.
    """
    shell = parse(build_parser(), arguments[1:]).shell
    shtab = optional_package("shtab", "completion", "dbl completion")
    print(shtab.complete(_parser_of_all(shtab.FILE, shtab.DIRECTORY), shell))


def _parser_of_all(file: Any, folder: Any) -> ArgumentParser:
    """A parser with a subcommand for each command; `file` and `folder` are how shtab completes their paths."""
    from dbl.commands.main import COMMANDS

    parser = ArgumentParser(prog="dbl")
    parser.add_argument("--version", action="store_true", help="print the version")
    subcommands = parser.add_subcommands()
    for name, module in COMMANDS.items():
        build = import_module(module).build_parser
        command = build(name) if "command" in signature(build).parameters else build()
        actions: list[Any] = command._actions
        for action in actions:
            if action.dest == "config":
                action.complete = file
            elif not action.option_strings and action.dest == "run":
                action.complete = folder
        subcommands.add_subcommand(name, command)
    return parser
