"""Measured memory, as the callback `Memory` left it in a file for the report."""

import warnings
from pathlib import Path
from typing import Any

from dbl.training.memory.tracker import CATEGORIES
from dbl.utils.errors import DblWarning, UserError
from dbl.utils.files import read_json

_KEYS = {"step", "device", "batch_size", "bytes", "peak_bytes", "cuda"}
_CUDA = {"allocated_bytes", "reserved_bytes"}


def read_memory(path: Path) -> dict[str, Any] | None:
    """What was measured; None if nothing was, or, with a warning, if the file is damaged: a report needs no memory."""
    if not path.exists():
        return None
    try:
        memory = read_json(path)
        is_whole = _is_memory(memory)
    except UserError:
        is_whole = False
    if is_whole:
        return dict(memory)
    warnings.warn(f"{path} is damaged: the report leaves it out", DblWarning, stacklevel=2)
    return None


def _is_memory(memory: Any) -> bool:
    if not isinstance(memory, dict) or memory.keys() != _KEYS or not isinstance(memory["device"], str):
        return False
    counts = [memory["step"], memory["batch_size"]]
    for key, names in (("bytes", set(CATEGORIES)), ("cuda", _CUDA)):
        if memory[key] is not None and not (isinstance(memory[key], dict) and memory[key].keys() == names):
            return False
        counts += (memory[key] or {}).values()
    if not all(type(count) is int and 0 <= count < 2**63 for count in counts):
        return False
    return bool(memory["peak_bytes"] == (None if memory["bytes"] is None else sum(memory["bytes"].values())))
