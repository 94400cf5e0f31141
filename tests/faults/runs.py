"""What tests of faults do in children, and what they compare in run folders."""

import ctypes
import re
import resource
from pathlib import Path

from dbl.commands.main import main

_LEFT = re.compile(r".*\.tmp.*|.*\.old|\.?(\w+\.)?lock.*")


def left_over(run: Path) -> list[str]:
    """Temporary files and locks in a run, which should hold none when nothing is running."""
    return [str(path) for path in run.rglob("*") if _LEFT.fullmatch(path.name)]


def without_room(arguments: list[str], limit: int) -> int:
    """Run a command while no file may grow beyond `limit` bytes, which fails in the middle as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    return main(arguments)


def without_rights(arguments: list[str]) -> int:
    """Run a command without the capabilities with which root may write to any folder."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3 of the call, this process
    assert ctypes.CDLL(None, use_errno=True).capset(header, (ctypes.c_uint32 * 6)()) == 0
    return main(arguments)
