"""Errors of commands and checks of single numbers."""

import errno
import math
from typing import Any

import pytest
import torch

from dbl.utils.checks import check_number
from dbl.utils.errors import Interrupted, TrainingFailed, UserError, as_known_error, one_line


def test_the_error_behind_others_is_found() -> None:
    """Catches a traceback of the parser in place of the line about the user's key."""
    for known in (UserError("key"), Interrupted("stopped"), TrainingFailed("block 1")):
        parser, command = ValueError("parser"), TypeError("command")
        parser.__cause__, command.__cause__ = known, parser
        assert as_known_error(command) is as_known_error(known) is known
    assert as_known_error(ValueError("a bug")) is None
    assert as_known_error(None) is None


def test_what_the_machine_refuses_is_no_bug() -> None:
    """Catches a traceback on a full disk, in a read-only folder or without memory."""
    full = as_known_error(OSError(errno.ENOSPC, "No space left on device", "runs/a/contract.json"))
    assert isinstance(full, UserError)
    assert str(full).startswith("runs/a/contract.json could not be read or written (No space left on device): free")
    assert isinstance(as_known_error(PermissionError(errno.EACCES, "Permission denied", "runs")), UserError)
    assert isinstance(as_known_error(MemoryError()), UserError)
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    assert "dbl plan" in str(as_known_error(caught.value))
    assert "dbl plan" in str(as_known_error(ImportError("libx.so: failed to map segment from shared object")))
    assert as_known_error(FileNotFoundError(errno.ENOENT, "No such file", "x")) is None  # could be our own mistake
    assert as_known_error(ValueError("ran out of memory cells")) is None


def test_a_message_is_one_short_line() -> None:
    """Catches line breaks, control characters and a remedy that is cut off."""
    assert one_line("data: \x1b[31mred\n\n  lines\0") == "data: [31mred lines"
    assert one_line("x" * 200) == "x" * 200
    long = one_line("contract.seed " + "x" * 1000 + ": give a number")
    assert len(long) <= 200
    assert long.startswith("contract.seed ")
    assert long.endswith(": give a number")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0, 1.5, None, "1", True])
def test_a_number_outside_its_range_is_refused(value: Any) -> None:
    """Catches NaN and infinity, which pass checks of the form `x < 0`."""
    with pytest.raises(UserError, match=r"^lr .* must be a finite number above 0 and below 1.5$"):
        check_number("lr", value, above=0, below=1.5)


def test_a_number_of_any_length_is_refused_in_a_short_line() -> None:
    """Catches a conversion to float or to digits, which Python refuses for ints that are too long."""
    with pytest.raises(UserError, match=r"^a \(an int of 33220 bits\) must be a whole number from 1 to 2, or null$"):
        check_number("a", 10**10_000, at_least=1, at_most=2, whole=True, optional=True)


def test_a_number_within_its_range_is_accepted() -> None:
    """Catches a bound that is taken for one that must not be reached."""
    check_number("a", 0, at_least=0, at_most=0)
    check_number("a", -1e300)
    check_number("a", None, at_least=1, optional=True)
    check_number("a", 1.0, above=0, below=2)
