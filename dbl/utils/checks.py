"""Checks of single values that a user gives: choices and numbers.

Messages name a key as it stands in a config, with `init_args` where a class is chosen by `class_path`, such as
`contract.network.init_args.width`; so it can be copied to the command line.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from dbl.utils.errors import UserError


def check_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise UserError unless `value` is one of `choices`, e.g. `get_args` of a Literal."""
    if value not in choices:
        raise UserError(f"{key} ({shown(value)}) must be one of {', '.join(choices)}")


@dataclass(frozen=True)
class Number:
    """What a number may be. It must be finite: a comparison alone would let NaN pass, `nan < 0` is false.

    Args:
        at_least: smallest value allowed.
        above: value that must be exceeded.
        at_most: largest value allowed.
        below: value that must not be reached.
        whole: whether it must be an int.
        optional: whether None, which is null in a config, is allowed too.
        remedy: advice that ends the message.
    """

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    whole: bool = False
    optional: bool = False
    remedy: str = ""

    def allows(self, value: Any) -> bool:
        """Whether a value is such a number."""
        if value is None:
            return self.optional
        is_number = isinstance(value, Integral if self.whole else Real) and not isinstance(value, bool)
        # -inf < value < inf: false for NaN, and right for ints that are too large for a float.
        return (
            is_number
            and -math.inf < value < math.inf
            and (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a finite number"
        limits = [("at least", self.at_least), ("above", self.above), ("at most", self.at_most), ("below", self.below)]
        bounds = " and ".join(f"{word} {_short(limit)}" for word, limit in limits if limit is not None)
        if self.at_least is not None and self.at_most is not None:
            bounds = f"from {_short(self.at_least)} to {_short(self.at_most)}"
        null = ", or null" if self.optional else ""
        return f"{kind} {bounds}".rstrip() + null + (self.remedy and f": {self.remedy}")


def whole(at_least: int, at_most: int, optional: bool = False, remedy: str = "") -> Number:
    """An int; the largest one is what memory or time could never do, not what is sensible."""
    return Number(at_least=at_least, at_most=at_most, whole=True, optional=optional, remedy=remedy)


# Any int of 64 bits: `dbl.utils.seeding.derive_seed` hashes it.
SEED = whole(-(2**63), 2**64 - 1)


def check_number(
    key: str,
    value: Any,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    whole: bool = False,
    optional: bool = False,
) -> None:
    """Raise UserError unless `value` is a finite number within the bounds that are given; see `Number`.

    Args:
        key: config key or option, for the message.
        value: value to check.
        at_least: smallest value allowed.
        above: value that must be exceeded.
        at_most: largest value allowed.
        below: value that must not be reached.
        whole: whether it must be an int.
        optional: whether None is allowed too.

    Example:
        >>> from dbl.utils.checks import check_number
        >>> check_number("sampler.rho", float("nan"), above=0)
        Traceback (most recent call last):
            ...
        dbl.utils.errors.UserError: sampler.rho (nan) must be a finite number above 0
    """
    allowed = Number(at_least, above, at_most, below, whole, optional)
    if not allowed.allows(value):
        raise _refusal(key, value, allowed)


def check_numbers(group: str, values: object, /, **allowed: Number) -> None:
    """Raise UserError unless the numbers of an object are what is allowed.

    Args:
        group: config key of the object; the keys of its numbers are `<group>.<name>`.
        values: object with the numbers as attributes, or a mapping.
        allowed: range of the number of this name.

    Example:
        >>> from dbl.utils.checks import Number, check_numbers, whole
        >>> check_numbers("sampler", {"num_steps": 0, "rho": 7.0}, num_steps=whole(1, 1000), rho=Number(above=0))
        Traceback (most recent call last):
            ...
        dbl.utils.errors.UserError: sampler.num_steps (0) must be a whole number from 1 to 1000
    """
    for name, number in allowed.items():
        value = values[name] if isinstance(values, Mapping) else getattr(values, name)
        if not number.allows(value):
            raise _refusal(f"{group}.{name}", value, number)


def check_items(key: str, values: Any, allowed: Number) -> None:
    """Raise UserError unless `values` is a list or tuple of numbers that are what is allowed."""
    if not isinstance(values, list | tuple):
        raise UserError(f"{key} ({shown(values)}) must be a list")
    for index, value in enumerate(values):
        if not allowed.allows(value):
            raise _refusal(f"{key}[{index}]", value, allowed)


def _refusal(key: str, value: Any, allowed: Number) -> UserError:
    return UserError(f"{key} ({shown(value)}) must be {allowed}")


def _short(limit: float) -> str:
    return str(limit) if isinstance(limit, int) else f"{limit:g}"


def shown(value: Any) -> str:
    """A value in at most some 30 characters; `str` refuses ints of more than 4,300 digits."""
    if isinstance(value, int) and abs(value) >= 2**70:
        return f"an int of {value.bit_length()} bits"
    text = "null" if value is None else str(value)
    return text if len(text) <= 30 else f"{text[:29]}…"
