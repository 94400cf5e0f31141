"""Type, default and meaning of the keys of a config, from a parser or from the class that takes them."""

import inspect
import re
import sys
from argparse import SUPPRESS
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import docstring_parser
import yaml
from jsonargparse import ArgumentParser

from dbl.commands.main import COMMANDS
from dbl.data import ResumableDataModule
from dbl.utils.serialization import class_path

# A meaning that only refers to another class: its text is there, under the same name.
_ELSEWHERE = re.compile(r"^(?:as in|see) `([\w.]+)`[.;]\s*")
# Packages whose classes a config may name.
_PUBLIC = ("dbl",)
# Arguments of data that a link sets, here to `contract.seed`.
_LINKED = (".seed",)


@dataclass(frozen=True)
class Parameter:
    """One key of a config, or one option of a command.

    Attributes:
        key: dotted name, as in `contract.seed`.
        option: option as it is typed, such as `--contract.seed`.
        type: type in words.
        default: default as in YAML; `required` if there is none.
        meaning: one line; empty if the docstring has none.
    """

    key: str
    option: str
    type: str
    default: str
    meaning: str


def parameters_of(parser: ArgumentParser) -> list[Parameter]:
    """All keys that can be set; those that follow from others (links) are left out, and so is help."""
    return [_parameter(action) for action in parser._actions if _can_be_set(action)]


def parameters_of_class(kind: Callable[..., Any]) -> list[Parameter]:
    """The arguments of a class or function, with those that it passes on to its bases."""
    parser, prefix = ArgumentParser(exit_on_error=False), "it"
    if inspect.isclass(kind):
        parser.add_class_arguments(kind, prefix)
        linked = _LINKED if issubclass(kind, ResumableDataModule) else ()
        return [_without(prefix, found) for found in parameters_of(parser) if not found.key.endswith(linked)]
    parser.add_function_arguments(kind, as_positional=True)
    return parameters_of(parser)


def parser_of(command: str) -> ArgumentParser:
    """The parser of a command.

    Args:
        command: command of `dbl`, e.g. "train".
    """
    build = import_module(COMMANDS[command]).build_parser
    parser: ArgumentParser = build(command) if "command" in inspect.signature(build).parameters else build()
    return parser


def subclasses_of(base: type) -> list[type]:
    """The public classes of a kind that can be built, in the order of their names in a config."""
    public = [getattr(import_module(package), name) for package in _PUBLIC for name in import_module(package).__all__]
    kinds = {
        kind for kind in public if inspect.isclass(kind) and issubclass(kind, base) and not inspect.isabstract(kind)
    }
    return sorted(kinds - {base}, key=class_path)


def summary_of(kind: Callable[..., Any]) -> str:
    """The first line of a docstring."""
    return docstring_parser.parse(kind.__doc__ or "").short_description or ""


def type_in_words(hint: Any) -> str:
    """A type as a reader of a config needs it: choices are listed, classes are named."""
    arguments = [argument for argument in get_args(hint) if argument is not Ellipsis]
    origin = get_origin(hint)
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in arguments)
    if origin in (Union, UnionType):
        kinds = [type_in_words(argument) for argument in arguments if argument is not NoneType]
        return " or ".join([*kinds, *(["null"] if NoneType in arguments else [])])
    if origin is dict:
        return f"map of {type_in_words(arguments[0])} to {type_in_words(arguments[1])}"
    if origin is list or origin is tuple:
        return f"list of {type_in_words(arguments[0])}"
    if callable(origin) and origin.__name__ == "Callable":
        return type_in_words(arguments[-1])
    if hint in (bool, int, float, str):
        return str(hint.__name__)
    return "path" if hint is Path else f"`{getattr(hint, '__name__', hint)}`"


def _can_be_set(action: Any) -> bool:
    options = action.option_strings
    is_link = bool(options) and not options[0].startswith("-")
    is_group = type(action).__name__ in ("_ActionConfigLoad", "_HelpAction", "_ActionHelpClassPath", "ActionConfigFile")
    return not (is_link or is_group or SUPPRESS in (action.default, action.help))


def _parameter(action: Any) -> Parameter:
    return Parameter(
        key=action.dest,
        option=action.option_strings[0] if action.option_strings else action.dest.upper(),
        type=_type(action),
        default="required" if action.required else _default_in_yaml(action.default),
        meaning=_meaning(action.dest.rpartition(".")[2], action.help or ""),
    )


def _type(action: Any) -> str:
    if action.nargs == 0:
        return "flag"
    if action.choices:
        return ", ".join(f"`{choice}`" for choice in action.choices)
    words = type_in_words(getattr(action, "_typehint", None) or action.type)
    can_be_null = action.default is None and not action.required
    return f"{words} or null" if can_be_null and "null" not in words else words


def _default_in_yaml(default: Any) -> str:
    if inspect.isclass(default):
        return f"`{default.__module__.partition('._')[0]}.{default.__name__}`"
    if isinstance(default, dict) and "class_path" in default:
        return f"`{default['class_path']}`"
    text = yaml.safe_dump(default, default_flow_style=True, width=1000).removesuffix("...\n").strip()
    return f"`{text}`"


def _meaning(name: str, text: str) -> str:
    """A docstring's text in one line; where it only names another class, that class's text."""
    text = " ".join(text.split())
    text += "." if text[-1:].isalnum() else ""
    match = _ELSEWHERE.match(text)
    found = _meaning_in(match[1], name) if match else None
    if match is None or found is None:
        return text
    rest = text[match.end() :]
    return f"{found} {rest[:1].upper()}{rest[1:]}".strip()


def _meaning_in(kind: str, name: str) -> str | None:
    classes = (getattr(module, kind, None) for path, module in [*sys.modules.items()] if path.startswith("dbl."))
    documented = next((found for found in classes if inspect.isclass(found)), None)
    parameters = docstring_parser.parse(getattr(documented, "__doc__", None) or "").params
    return next((_meaning(name, found.description or "") for found in parameters if found.arg_name == name), None)


def _without(prefix: str, found: Parameter) -> Parameter:
    key = found.key.removeprefix(f"{prefix}.")
    return Parameter(key, f"--{key}", found.type, found.default, found.meaning)
