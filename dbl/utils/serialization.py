"""Conversion of frozen dataclasses to plain JSON values and back, in the `class_path`/`init_args` form of configs."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, TypeVar, get_type_hints

from dbl.utils.errors import UserError
from dbl.utils.stored_classes import class_path, find_class
from dbl.utils.stored_values import typed

T = TypeVar("T")

# Metadata of a field that files of earlier versions lack: its default is not stored, so that hashes stay the same.
ADDED = {"added": True}


def to_plain(value: Any) -> Any:
    """Convert dataclasses and tuples, nested in lists and dicts, to JSON values."""
    if is_dataclass(value) and not isinstance(value, type):
        cls = type(value)
        arguments = {field.name: to_plain(getattr(value, field.name)) for field in _stored_fields(value)}
        return {"class_path": class_path(cls), "init_args": arguments}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return value


def _stored_fields(value: Any) -> Iterator[Field[Any]]:
    for field in fields(value):
        if field.init and not (field.metadata.get("added") and getattr(value, field.name) == _default(field)):
            yield field


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def from_plain(plain: Any, base: type[T], trusted: Collection[str] = (), key: str = "") -> T:
    """Restore the dataclass that `to_plain` described.

    Raises UserError if the class is not to be found (see `find_class`), or an argument is unknown, absent, or of
    another type than its field declares. Nothing but a `base` is ever constructed.

    Args:
        plain: dict with the keys `class_path` and `init_args`.
        base: expected class or base class.
        trusted: packages that the file may import.
        key: dotted key of the value in its file, for messages.
    """
    if not isinstance(plain, Mapping) or plain.keys() != {"class_path", "init_args"}:
        raise UserError(f"{key or 'the value'} must have class_path and init_args, and nothing else")
    cls = find_class(plain["class_path"], base, trusted)
    arguments = _arguments(cls, plain["init_args"], trusted, key)
    try:
        return cls(**arguments)
    except (ArithmeticError, TypeError, ValueError) as error:
        raise UserError(f"{key or class_path(cls)} cannot be restored ({error})") from None


def _arguments(cls: type, stored: Any, trusted: Collection[str], key: str) -> dict[str, Any]:
    if not is_dataclass(cls):
        raise UserError(f"class_path {class_path(cls)!r} cannot be stored: make it a @dataclass(frozen=True)")
    known = {field.name: field for field in fields(cls) if field.init}
    required = {name for name, field in known.items() if field.default is field.default_factory is MISSING}
    if not isinstance(stored, Mapping):
        raise UserError(f"{key or 'the value'}.init_args must be a mapping")
    if unknown := sorted(stored.keys() - known):
        raise UserError(f"{f'{key}.{unknown[0]}'.lstrip('.')[:80]} is no field of {cls.__name__}")
    if absent := sorted(required - stored.keys()):
        raise UserError(f"{f'{key}.{absent[0]}'.lstrip('.')} is missing")
    try:
        expected = get_type_hints(cls)
    except NameError as error:
        raise UserError(f"{class_path(cls)} has an annotation that cannot be read ({error})") from None

    def build(plain: Any, base: type, place: str) -> Any:
        return from_plain(plain, base, trusted, place)

    values = {}
    for name, value in stored.items():
        place = f"{key}.{name}".lstrip(".")
        # A default is the author's own choice, be it infinite or of another type than annotated.
        is_default = type(value) is type(known[name].default) and value == known[name].default
        values[name] = value if is_default else typed(value, expected[name], place, build)
    return values


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
