"""Null where a config needs a value: the parser lets it pass for any key, whatever its type."""

import sys
from functools import cache
from types import NoneType
from typing import Any, get_args

from jsonargparse import ArgumentParser, Namespace

from dbl.utils.errors import UserError


def check_nulls(parser: ArgumentParser, values: Namespace, prefix: str = "") -> None:
    """Raise UserError if a value is null whose type does not say so.

    Args:
        parser: parser of the values.
        values: parsed values.
        prefix: beginning of their keys, with a dot at the end.
    """
    for action in parser._actions:
        key, hint = action.dest, getattr(action, "_typehint", None)
        if hint is None or key not in values:
            continue
        value = values[key]
        if value is None and hint is not Any and action.default is not None and NoneType not in get_args(hint):
            raise UserError(f"{prefix}{key} is null: give a value, or leave it out for the default, {action.default}")
        for nested in value if isinstance(value, list) else [value]:
            if isinstance(nested, Namespace):
                _check_nested(nested, hint, f"{prefix}{key}.")


def _check_nested(value: Namespace, hint: Any, prefix: str) -> None:
    path = value.get("class_path")
    if isinstance(path, str):
        module, _, name = path.rpartition(".")
        cls, arguments, prefix = getattr(sys.modules.get(module), name, None), value.get("init_args"), prefix
        prefix = f"{prefix}init_args."
    else:
        cls, arguments = next((cls for cls in (hint, *get_args(hint)) if isinstance(cls, type)), None), value
    if isinstance(cls, type) and isinstance(arguments, Namespace):
        check_nulls(_parser_of(cls), arguments, prefix)


@cache
def _parser_of(cls: type) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, fail_untyped=False)
    return parser
