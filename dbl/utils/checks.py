"""Checks of single values that a user gives: choices and numbers."""

import math
from operator import ge, gt, le, lt
from typing import Any

from dbl.utils.errors import UserError


def check_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise UserError unless `value` is one of `choices`, e.g. `get_args` of a Literal."""
    if value not in choices:
        raise UserError(f"{key} ({value}) must be one of {', '.join(choices)}")


def check_number(
    key: str,
    value: Any,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> None:
    """Raise UserError unless `value` is a finite number within the bounds that are given.

    A comparison alone would let NaN pass: `nan < 0` and `nan > 0` are both false.

    Args:
        key: config key or option, for the message.
        value: value to check.
        at_least: smallest value allowed.
        above: value that must be exceeded.
        at_most: largest value allowed.
        below: value that must not be reached.

    Example:
        >>> from dbl.utils.checks import check_number
        >>> check_number("sampler.rho", float("nan"), above=0)
        Traceback (most recent call last):
            ...
        dbl.utils.errors.UserError: sampler.rho (nan) must be a finite number above 0
    """
    limits = [
        ("at least", at_least, ge),
        ("above", above, gt),
        ("at most", at_most, le),
        ("below", below, lt),
    ]
    given = [(word, limit, holds) for word, limit, holds in limits if limit is not None]
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not all(holds(value, limit) for _, limit, holds in given):
        allowed = " and ".join(f"{word} {limit:g}" for word, limit, _ in given)
        raise UserError(f"{key} ({value}) must be a finite number {allowed}".rstrip())
