"""What tests of faults compare in run folders."""

import re
from pathlib import Path

_LEFT = re.compile(r".*\.tmp.*|.*\.old|\.?(\w+\.)?lock.*")


def left_over(run: Path) -> list[str]:
    """Temporary files and locks in a run, which should hold none when nothing is running."""
    return [str(path) for path in run.rglob("*") if _LEFT.fullmatch(path.name)]
