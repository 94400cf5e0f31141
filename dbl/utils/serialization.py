"""Frozen dataclasses as plain JSON values and back, in the `class_path` and `init_args` form of the configs."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from importlib import import_module
from typing import Any, TypeVar, get_type_hints

from dbl.utils.errors import UserError

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """Lists, dicts, numbers, strings and None for a value made of these, tuples and dataclasses."""
    if is_dataclass(value) and not isinstance(value, type):
        cls = type(value)
        arguments = {field.name: to_plain(getattr(value, field.name)) for field in fields(value) if field.init}
        return {"class_path": class_path(cls), "init_args": arguments}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return value


def class_path(cls: type) -> str:
    """The name of a class in a config or a stored file: `dbl.DiT` for a class of `dbl`, wherever its file is."""
    is_ours = cls.__module__.partition(".")[0] == "dbl"
    return f"dbl.{cls.__qualname__}" if is_ours else f"{cls.__module__}.{cls.__qualname__}"


def from_plain(plain: Mapping[str, Any], base: type[T]) -> T:
    """The dataclass that `to_plain` described.

    Args:
        plain: with keys `class_path` and `init_args`.
        base: the class, or a base of it, that is expected here; nothing else is ever constructed.

    Raises:
        UserError: if the class cannot be imported or is not of the expected kind.
    """
    path = str(plain.get("class_path"))
    module, _, name = path.rpartition(".")
    try:
        cls = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"class_path {path!r} cannot be imported ({error}): install or import its package") from None
    if not (isinstance(cls, type) and issubclass(cls, base) and is_dataclass(cls)):
        raise UserError(f"class_path {path!r} is not a {base.__name__}")
    expected = get_type_hints(cls)
    arguments = {key: _nested(value, expected.get(key)) for key, value in plain["init_args"].items()}
    return cls(**arguments)  # type: ignore[return-value]


def _nested(value: Any, expected: Any) -> Any:
    """A dataclass inside a dataclass, which must be of the kind that its field is annotated with."""
    if isinstance(value, Mapping) and "class_path" in value and isinstance(expected, type):
        return from_plain(value, expected)
    return value


def first_difference(ours: Any, theirs: Any, key: str = "") -> tuple[str, Any, Any] | None:
    """The first place at which two plain values differ: its dotted key and both values; None if they are equal."""
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        for name in sorted({*ours, *theirs}):
            nested = key if name in ("class_path", "init_args") else f"{key}.{name}".lstrip(".")
            found = first_difference(ours.get(name), theirs.get(name), nested)
            if found:
                return found
        return None
    return None if ours == theirs else (key, ours, theirs)
