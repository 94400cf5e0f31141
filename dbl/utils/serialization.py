"""Conversion of frozen dataclasses to plain JSON values and back, in the `class_path`/`init_args` form of configs."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from importlib import import_module
from typing import Any, TypeVar, get_type_hints

from dbl.utils.errors import UserError

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """Convert dataclasses and tuples, nested in lists and dicts, to JSON values."""
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
    """Name of a class in configs and stored files: `dbl.DiT` for a class of `dbl`, whatever module it is in."""
    # Contract hashes include these names, so moving a file must not change them.
    is_ours = cls.__module__.partition(".")[0] == "dbl"
    return f"dbl.{cls.__qualname__}" if is_ours else f"{cls.__module__}.{cls.__qualname__}"


def from_plain(plain: Mapping[str, Any], base: type[T]) -> T:
    """Restore the dataclass that `to_plain` described. Raises UserError if it is not importable or not a `base`.

    Args:
        plain: dict with the keys `class_path` and `init_args`.
        base: expected class or base class; nothing else is ever constructed.
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
    arguments = {**plain["init_args"]}
    for key, value in arguments.items():
        # A dataclass inside a dataclass must be of the class that its field is annotated with.
        if isinstance(value, Mapping) and "class_path" in value and isinstance(expected.get(key), type):
            arguments[key] = from_plain(value, expected[key])
    return cls(**arguments)  # type: ignore[return-value]


def first_difference(ours: Any, theirs: Any, key: str = "") -> tuple[str, Any, Any] | None:
    """Dotted key and both values of the first difference between two plain values; None if they are equal."""
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        for name in sorted({*ours, *theirs}):
            nested = key if name in ("class_path", "init_args") else f"{key}.{name}".lstrip(".")
            found = first_difference(ours.get(name), theirs.get(name), nested)
            if found:
                return found
        return None
    return None if ours == theirs else (key, ours, theirs)
