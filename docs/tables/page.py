"""A Markdown page whose prose is written by hand and whose tables are generated between marks.

A mark says what stands below it, up to the line `<!-- end -->`:

- `<!-- table: keys GROUP -->`: keys of a group of the config
- `<!-- table: class PATH -->`: arguments of a class
- `<!-- table: classes PATH -->`: a section with a table for each class of a kind that a config may name
- `<!-- table: variants PATH -->`: the same, without the arguments that all of that kind have
- `<!-- table: options COMMAND -->`: options of a command that are not keys of a config or options of `train`
- `<!-- table: function PATH -->`: options of a command that is one function
- `<!-- table: names MODULE -->`: what a module offers
"""

import inspect
import re
from collections.abc import Callable, Iterable
from functools import cache, cached_property
from importlib import import_module
from types import ModuleType
from typing import Any

from dbl.utils.errors import UserError
from docs.tables.parameters import (
    Parameter,
    class_path,
    parameters_of,
    parameters_of_class,
    parser_of,
    subclasses_of,
    summary_of,
)

_TABLE = re.compile(r"^<!-- table: (\w+) ([\w.]+) -->$.*?^<!-- end -->$", re.MULTILINE | re.DOTALL)
# Commands that take a config. Groups of keys that all of them have are those of a config.
_COMMANDS = ("train", "compare", "plan", "bench")
# Top-level keys that the prose explains: Lightning's own, and the one whose classes have sections.
_IN_PROSE = ("seed_everything", "trainer", "data")


@cache
def _keys_of(command: str) -> list[Parameter]:
    return parameters_of(parser_of(command))


@cache
def _keys_of_config() -> list[Parameter]:
    first, *others = (_keys_of(command) for command in _COMMANDS)
    return [key for key in first if "." in key.key and all(key in other for other in others)]


class Page:
    """The text of a page, and the same text with its tables written anew.

    Args:
        text: with marks.

    Raises:
        UserError: if a mark is not known or names nothing.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._documented: set[str] = set()

    @cached_property
    def generated(self) -> str:
        """The page with the tables that belong there now."""
        return _TABLE.sub(self._filled, self._text)

    def missing(self) -> list[str]:
        """Keys of a config, and options of the commands that take one, that no table of the page has."""
        assert self.generated
        keys = dict.fromkeys(key.key for command in _COMMANDS for key in _keys_of(command))
        return [key for key in keys if key.split(".")[0] not in _IN_PROSE and key not in self._documented]

    def _filled(self, match: re.Match[str]) -> str:
        mark = match[0].partition("\n")[0]
        kinds: dict[str, Callable[[str], list[str]]] = {
            "keys": self._keys,
            "class": lambda path: _rows(parameters_of_class(_found(path))),
            "classes": lambda path: _sections(path, ()),
            "variants": lambda path: _sections(path, parameters_of_class(_found(path))),
            "options": self._options,
            "function": _options_of_function,
            "names": _names,
        }
        if match[1] not in kinds:
            raise UserError(f"{mark}: the kind of a table is one of {', '.join(kinds)}")
        return "\n".join([mark, "", *kinds[match[1]](match[2]), "", "<!-- end -->"])

    def _keys(self, group: str) -> list[str]:
        found = [key for key in _keys_of_config() if key.key.rpartition(".")[0] == group]
        if not found:
            raise UserError(f"<!-- table: keys {group} -->: a config has no such group")
        self._documented.update(key.key for key in found)
        return _rows(found)

    def _options(self, command: str) -> list[str]:
        groups = {key.key.split(".")[0] for key in _keys_of_config()} | set(_IN_PROSE)
        known = _keys_of("train") if command != "train" else []
        found = [key for key in _keys_of(command) if key.key.split(".")[0] not in groups and key not in known]
        self._documented.update(key.key for key in found)
        return _rows(found, "option")


def _found(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def _sections(path: str, common: Iterable[Parameter]) -> list[str]:
    known, lines = set(common), []
    for kind in subclasses_of(_found(path)):
        own = [parameter for parameter in parameters_of_class(kind) if parameter not in known]
        lines += [
            f"### `{class_path(kind)}`",
            "",
            summary_of(kind),
            "",
            *(_rows(own) if own else ["No keys of its own."]),
            "",
        ]
    return lines[:-1]


def _options_of_function(path: str) -> list[str]:
    own = [parameter for parameter in parameters_of_class(_found(path)) if "." not in parameter.key]
    return _rows(own, "option")


def public_names(module: ModuleType) -> list[str]:
    """The names in `__all__`, or else the functions that do not begin with an underscore."""
    functions = [name for name, value in vars(module).items() if inspect.isfunction(value) and name[0] != "_"]
    return sorted(getattr(module, "__all__", functions), key=str.lower)


def _names(path: str) -> list[str]:
    module = import_module(path)
    rows = [f"| `{name}` | {summary_of(getattr(module, name))} |" for name in public_names(module)]
    return ["| name | what it is |", "|---|---|", *rows]


def _rows(parameters: Iterable[Parameter], first: str = "key") -> list[str]:
    lines = [f"| {first} | type | default | meaning |", "|---|---|---|---|"]
    for found in parameters:
        cells = (f"`{found.key if first == 'key' else found.option}`", found.type, found.default, found.meaning)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return lines
