"""Atomic files: written under a temporary name on the same disk, then renamed, so a file is whole or absent."""

import json
import math
import os
import re
import secrets
import shutil
import socket
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from dbl.utils.errors import UserError, reason_of

_DEEPEST = 64  # levels of lists and dicts; our own files have fewer than 10
# Far more than the largest vocabulary takes; parsed values need several times the memory of their text.
_LARGEST_TEXT = 2**28  # bytes

_UNFINISHED = ".tmp"
_WRITER = re.compile(r"\.(?P<pid>\d+)@(?P<host>[^@]+)\.[0-9a-f]{8}\.tmp$")


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """Yield a new, empty, hidden folder beside `path`, for what is to replace it; it is removed in the end.

    An OSError that names a file in it, or none, as a failed write does, is raised with the name `path`.
    """
    # Beside it: a rename is atomic only within one file system. The name says which process to ask whether it lives.
    writer = f"{os.getpid()}@{socket.gethostname()}.{secrets.token_hex(4)}"
    folder = path.with_name(f".{path.name[:80]}.{writer}{_UNFINISHED}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
        yield folder
    except OSError as error:
        if error.errno is not None and str(error.filename or folder).startswith(str(folder)):
            error.filename = str(path)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path; rename it to `path` on success, remove it on failure.

    Its folder is private, so that temporary files of libraries go with it. An OSError names `path`.
    """
    with temporary_folder(path) as folder:
        temporary = folder / path.name
        yield temporary
        temporary.chmod(folder.stat().st_mode & 0o666)  # by the umask: safetensors writes files for the owner alone
        temporary.replace(path)


def remove_unfinished(folder: Path, alone: bool = False) -> None:
    """Remove what killed processes left in a folder under temporary names.

    Args:
        folder: folder in which files were to be written.
        alone: no other process writes there now, so that what processes of other machines left is removed too.
    """
    for temporary in folder.glob(f".*{_UNFINISHED}"):
        writer = _WRITER.search(temporary.name)
        if writer and (alone or (writer["host"] == socket.gethostname() and not process_lives(int(writer["pid"])))):
            shutil.rmtree(temporary, ignore_errors=True)


def process_lives(pid: int) -> bool:
    """Whether a process of this machine runs, or has ended and was not waited for."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # of another user, or no number of a process at all
        pass
    return True


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON values atomically, indented."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def require_file(path: Path, largest: float = math.inf) -> None:
    """Raise UserError unless `path` is a regular file of at most `largest` bytes: a pipe would block its reader."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path} does not exist: restore it from a copy") from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise UserError(f"{path} cannot be read ({reason_of(error)}): check its name and rights") from None
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"{path} is a folder, pipe or device, not a file: restore the file from a copy")
    if found.st_size > largest:
        raise UserError(f"{path} has {found.st_size} bytes, too many for its kind: restore the file from a copy")


def read_text(path: Path) -> str:
    """Read a text file. Raises UserError if it is absent, not UTF-8, or not a file that can be read at once."""
    require_file(path, _LARGEST_TEXT)
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is damaged (not UTF-8: {error.reason}): restore it from a copy") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check its rights") from None


def read_json(path: Path) -> Any:
    """Read JSON values. Raises UserError if the file is absent or is not JSON.

    NaN, infinity and repeated keys, which Python would accept, are not JSON.
    """
    return parse_json(read_text(path), path)


def parse_json(text: str, path: Path) -> Any:
    """The JSON values of a text from the file `path`; errors as in `read_json`."""
    try:
        value = json.loads(text, parse_float=_finite, parse_constant=_finite, object_pairs_hook=_without_repeats)
        if _is_deeper(value, _DEEPEST):
            raise ValueError(f"nested more than {_DEEPEST} deep")
        return value
    except (ValueError, RecursionError) as error:  # ValueError: also of a number with thousands of digits
        reason = str(error).partition(";")[0]  # the rest advises programmers
        raise UserError(f"{path} is damaged ({reason}): restore it from a copy or start a new run") from None


def _is_deeper(value: Any, depth: int) -> bool:
    """Whether lists and dicts are nested deeper, which recursive functions might not survive."""
    nested = [value] if isinstance(value, dict | list) else []
    for _ in range(depth):
        inner = (item.values() if isinstance(item, dict) else item for item in nested)
        nested = [item for items in inner for item in items if isinstance(item, dict | list)]
    return bool(nested)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is not a finite number")
    return number


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key occurs twice in an object")
    return values


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file atomically, with text metadata."""
    with replacing(path) as temporary:
        try:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, dict(metadata or {}))
        except SafetensorError as error:  # it hides the number of the OSError in its text
            number = re.search(r"\(os error (\d+)\)", str(error))
            raise OSError(int(number[1]), os.strerror(int(number[1]))) if number else error from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file. Raises UserError if it is absent or damaged."""
    with _readable(path):
        return load_file(path)


def read_tensor(path: Path, name: str) -> Tensor:
    """Read the only tensor of a safetensors file. Raises UserError if there is not just this one, or as above."""
    tensors = read_tensors(path)
    if tensors.keys() != {name}:
        raise UserError(f"{path} does not hold the tensor {name!r} alone: restore it from a copy")
    return tensors[name]


def read_metadata(path: Path) -> dict[str, str]:
    """Read the text metadata of a safetensors file; errors as in `read_tensors`."""
    with _readable(path), safe_open(path, "pt") as file:
        return dict(file.metadata() or {})


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    require_file(path)
    try:
        yield
    except Exception as error:  # of a damaged header the library raises its own errors, KeyError and others
        raise UserError(f"{path} is damaged ({reason_of(error)}): write it again, e.g. with dbl assemble") from None


class UnreadableFile(UserError):
    """A file that is absent or damaged; `problem` is the message without the remedy."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}: {remedy}")
        self.problem = problem


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a Lightning checkpoint onto the CPU without running code that it might hold (`weights_only=True`).

    Raises UnreadableFile (a UserError) if the file is absent, truncated, changed in any bit of its content, or holds
    anything but tensors and plain values.
    """
    if not path.is_file():
        problem = "is a folder, pipe or device, not a file" if path.exists() else "does not exist"
        raise UnreadableFile(f"{path} {problem}", "train this block first")
    try:
        _verify_records(path)  # torch.load does not
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises pickle, zip, runtime or end-of-file errors
        problem = f"{path} is damaged or not a checkpoint of dbl ({reason_of(error, 120)})"
        raise UnreadableFile(problem, "train this block anew") from None
    if not isinstance(checkpoint, dict):
        raise UnreadableFile(f"{path} is not a checkpoint of dbl", "train this block anew")
    return checkpoint


def _verify_records(path: Path) -> None:
    """Check the CRC-32 of each record of the zip file that a checkpoint is, and that none is larger than it seems."""
    with ZipFile(path) as archive:
        records = archive.infolist()
        # torch compresses nothing: what does not fit into the file would fill the memory.
        is_compressed = any(record.compress_type != ZIP_STORED for record in records)
        if is_compressed or sum(record.file_size for record in records) > path.stat().st_size:
            raise BadZipFile("its records are compressed or overlap")
        damaged = archive.testzip()
        # One flipped bit can mark a record as a folder. torch never writes folders and silently reads them as empty.
        damaged = damaged or next((record.filename for record in records if record.external_attr), None)
    if damaged is not None:
        raise BadZipFile(f"its record {damaged} has changed")


def write_once(entry: Path, last: str, write: Callable[[], None]) -> None:
    """Fill a cache folder unless it is complete; one process writes while others wait. Raises OSError if it cannot.

    The presence of `last`, the file that `write` writes last, means that the folder is complete.
    """
    if (entry / last).exists():
        return
    entry.mkdir(parents=True, exist_ok=True)
    with FileLock(entry / "lock"):
        if not (entry / last).exists():  # again: another process may have filled it while this one waited
            write()
