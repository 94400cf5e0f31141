"""Values of a stored file, checked against the annotations of the dataclass that they are for."""

import math
from collections.abc import Callable, Mapping, Sequence
from reprlib import Repr
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from dbl.utils.errors import UserError

# Restores the dataclass under a key from its plain form: (plain, expected class, key).
Build = Callable[[Any, type, str], Any]

_LARGEST = 2**64  # sizes and seeds; larger ones overflow where they are used
_LISTS = (list, tuple, Sequence)
_DICTS = (dict, Mapping)
_WORDS = {int: "a whole number", float: "a finite number", str: "text", bool: "true or false", NoneType: "null"}


def typed(value: Any, annotation: Any, key: str, build: Build) -> Any:
    """A JSON value as the annotation has it: lists become tuples, and plain forms dataclasses where it asks for them.

    Whole numbers stay whole where a float is expected, so that hashes stay the same. Raises UserError that names the
    key if the value is of another type, or is NaN, infinite or too large.

    Args:
        value: JSON value.
        annotation: as `typing.get_type_hints` gives it.
        key: dotted key, for messages.
        build: restores a dataclass; called wherever the annotation is a class that JSON has no form of.
    """
    annotation = getattr(annotation, "__value__", annotation)  # of a `type` statement
    origin, arguments = get_origin(annotation) or annotation, get_args(annotation)
    if origin is Any:
        return value
    if origin in (Union, UnionType):
        return _of_union(value, arguments, key, build)
    if origin is Literal:
        if not any(value == choice and type(value) is type(choice) for choice in arguments):
            raise _wrong(key, value, f"one of {', '.join(map(str, arguments))}")
        return value
    if origin in _LISTS:
        return _of_list(value, origin, arguments, key, build)
    if origin in _DICTS:
        if not isinstance(value, Mapping):
            raise _wrong(key, value, "a mapping")
        kind = arguments[1] if arguments else Any
        return {name: typed(item, kind, f"{key}.{name}", build) for name, item in value.items()}
    if annotation in (None, *_WORDS):
        return _scalar(value, annotation or NoneType, key)
    if isinstance(annotation, type):
        return build(value, annotation, key)
    raise UserError(f"{key} is annotated with {annotation}, which cannot be read from a file")


def _scalar(value: Any, kind: type, key: str) -> Any:
    matches = isinstance(value, kind) or (kind is float and isinstance(value, int))
    if not matches or (isinstance(value, bool) and kind is not bool):
        raise _wrong(key, value, _WORDS[kind])
    if isinstance(value, float) and not math.isfinite(value):
        raise _wrong(key, value, _WORDS[kind])
    if isinstance(value, int) and abs(value) >= _LARGEST:
        raise UserError(f"{key} is too large a number")
    return value


def _of_list(value: Any, origin: Any, arguments: tuple[Any, ...], key: str, build: Build) -> Any:
    if not isinstance(value, list | tuple):
        raise _wrong(key, value, "a list")
    kinds = [arguments[0] if arguments else Any] * len(value)
    if origin is tuple and arguments and arguments[-1] is not Ellipsis:
        if len(value) != len(arguments):
            raise _wrong(key, value, f"a list of {len(arguments)}")
        kinds = list(arguments)
    items = [typed(item, kind, f"{key}[{i}]", build) for i, (item, kind) in enumerate(zip(value, kinds, strict=True))]
    return tuple(items) if origin is tuple else items


def _of_union(value: Any, members: tuple[Any, ...], key: str, build: Build) -> Any:
    """The value as the first member that it fits; otherwise the error of the member that says most about it."""
    errors = []
    for member in members:
        try:
            return typed(value, member, key, build)
        except UserError as error:
            errors.append((member is NoneType, error))
    raise min(errors, key=lambda found: found[0])[1]


def _wrong(key: str, value: Any, expected: str) -> UserError:
    return UserError(f"{key} ({brief(value)}) must be {expected}")


def brief(value: Any, width: int = 40) -> str:
    """The `repr` of a value of any size and depth, its middle left out if it is long."""
    form = Repr()
    form.maxlevel, form.maxlist, form.maxtuple, form.maxdict = 2, 3, 3, 3
    form.maxstring = form.maxlong = form.maxother = width
    return form.repr(value)
