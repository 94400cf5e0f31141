"""Files that are either whole or absent: written to a temporary name beside the place and then renamed."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from dbl.utils.errors import UserError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; rename it to `path` at the end, or remove it if writing failed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(path: Path) -> None:
    """Remove what killed processes left of writing to `path`; no other process may be writing to it."""
    for temporary in path.parent.glob(f".{path.name}.*.tmp"):
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON values, indented."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON values.

    Raises:
        UserError: if the file is absent or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged ({error}): restore it from a copy or start a new run") from None


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as safetensors, with text metadata."""
    with replacing(path) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, dict(metadata or {}))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        UserError: if the file is absent or truncated.
    """
    with _readable(path):
        return load_file(path)


def read_metadata(path: Path) -> dict[str, str]:
    """Text metadata of a safetensors file; errors as in `read_tensors`."""
    with _readable(path), safe_open(path, "pt") as file:
        return dict(file.metadata() or {})


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged ({error}): write it again, e.g. with dbl assemble") from None


class UnreadableFile(UserError):
    """A file that is absent or damaged.

    Args:
        fault: which file, and what is wrong with it.
        remedy: what the user can do.
    """

    def __init__(self, fault: str, remedy: str) -> None:
        super().__init__(f"{fault}: {remedy}")
        self.fault = fault


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a Lightning checkpoint on the CPU without running any code that it might hold (`weights_only=True`).

    Its checksums are compared first, which torch does not do.

    Raises:
        UnreadableFile: (a UserError) if the file is absent, truncated, changed in any bit of its content, or holds
            anything but tensors and plain values.
    """
    if not path.is_file():
        raise UnreadableFile(f"{path} does not exist", "train this block first")
    try:
        _compare_checksums(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (
        Exception
    ) as error:  # torch raises many kinds for a damaged file: pickle, zip, runtime and end-of-file errors
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnreadableFile(
            f"{path} is damaged or not a checkpoint of dbl ({reason[:120]})", "train this block anew"
        ) from None
    if not isinstance(checkpoint, dict):
        raise UnreadableFile(f"{path} is not a checkpoint of dbl", "train this block anew")
    return checkpoint


def _compare_checksums(path: Path) -> None:
    """A checkpoint is a zip file whose records carry CRC-32 sums."""
    with ZipFile(path) as archive:
        damaged = archive.testzip()
        # Of a record that is marked as a folder, which torch never writes, torch would read nothing and say nothing.
        damaged = damaged or next((record.filename for record in archive.infolist() if record.external_attr), None)
    if damaged is not None:
        raise BadZipFile(f"its record {damaged} has changed")


def write_once(entry: Path, last: str, write: Callable[[], None]) -> None:
    """Fill an entry unless it is whole; of several processes one writes and the others wait for it.

    Args:
        entry: folder of the entry.
        last: name of the file that is written last: an entry that has it is whole.
        write: fills the entry.

    Raises:
        OSError: if nothing can be written.
    """
    if (entry / last).exists():
        return
    entry.mkdir(parents=True, exist_ok=True)
    with FileLock(entry / "lock"):
        if not (entry / last).exists():
            write()
