"""Tensors that are slow to compute, kept in files of the cache folder."""

import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from dbl.data.spec import ImageSpec
from dbl.utils.errors import UserError
from dbl.utils.files import read_tensors, write_tensors


def cache_folder(cache_dir: str, data: ImageSpec) -> Path:
    """Folder for the files about one data set: `<cache_dir>/features/<name>-<part of its identity>`."""
    return Path(cache_dir) / "features" / f"{plain_name(data.name)}-{short_hash(data.identity)}"


def plain_name(name: str) -> str:
    """A name with nothing but letters, digits, `.`, `_` and `-`, for files and metrics."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)


def short_hash(*facts: Any) -> str:
    """16 hexadecimal digits that change with any of the facts (JSON values)."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def stored(path: Path, names: set[str], make: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
    """The tensors of a file; if it does not exist, they are made and written first.

    Several processes may ask at once: each makes them, and what they write is whole and equal.

    Raises UserError if the file is damaged or cannot be written.
    """
    found = read_stored(path, names)
    if found is not None:
        return found
    check_writable(path.parent)
    made = make()
    try:
        write_tensors(path, made)
    except (OSError, SafetensorError) as error:
        raise _unwritable(path, error) from None
    return made


def read_stored(path: Path, names: set[str]) -> dict[str, Tensor] | None:
    """The tensors of a file; None if it does not exist. Raises UserError if it is damaged."""
    if not path.exists():
        return None
    try:
        found = read_tensors(path)
    except UserError:
        raise damaged(path) from None
    if found.keys() != names:
        raise damaged(path)
    return found


def damaged(path: Path) -> UserError:
    """The error for a file of the cache that cannot be used."""
    return UserError(f"{path} is damaged: delete it, and it is made again")


def check_writable(folder: Path) -> None:
    """Make the folder and try to write to it. Raises UserError if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _unwritable(folder, error) from None


def _unwritable(path: Path, error: Exception) -> UserError:
    return UserError(f"image_quality.cache_dir: cannot write {path} ({error}); name a folder that can be written")
