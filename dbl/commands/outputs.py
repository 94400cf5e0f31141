"""Check where a command writes its result, before it works for it."""

import os
from pathlib import Path

from dbl.utils.errors import UserError


def check_output(path: Path, suffix: str | None = None) -> Path:
    """The path, whose folder is made.

    Args:
        path: file to write; one that exists will be replaced.
        suffix: ending that its name must have, e.g. `.png`; None for any.

    Raises UserError if the name has another ending, a folder or device is there, or its folder cannot be written.
    """
    if path.is_dir() or (path.exists() and not path.is_file()):
        kind = "a folder" if path.is_dir() else "no ordinary file"
        raise UserError(f"--output {path} is {kind}: give the path of a file, which will be replaced")
    if suffix is not None and path.suffix.lower() != suffix:
        raise UserError(f"--output {path} must end in {suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise UserError(f"--output {path}: cannot make its folder ({error})") from None
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"--output {path}: its folder cannot be written")
    return path
