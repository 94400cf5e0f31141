"""Atomic files: written under a temporary name on the same disk, then renamed, so a file is whole or absent."""

import json
import os
import re
import secrets
import shutil
import socket
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
        if writer and (alone or (writer["host"] == socket.gethostname() and not _lives(int(writer["pid"])))):
            shutil.rmtree(temporary, ignore_errors=True)


def _lives(pid: int) -> bool:
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


def read_json(path: Path) -> Any:
    """Read JSON values. Raises UserError if the file is absent or is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged ({error}): restore it from a copy or start a new run") from None


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file atomically, with text metadata."""
    with replacing(path) as temporary:
        try:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, dict(metadata or {}))
        except SafetensorError as error:  # it hides the number of the OSError in its text
            number = re.search(r"\(os error (\d+)\)", str(error))
            raise OSError(int(number[1]), os.strerror(int(number[1]))) if number else error from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file. Raises UserError if it is absent or truncated."""
    with _readable(path):
        return load_file(path)


def read_metadata(path: Path) -> dict[str, str]:
    """Read the text metadata of a safetensors file; errors as in `read_tensors`."""
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
        raise UnreadableFile(f"{path} does not exist", "train this block first")
    try:
        _verify_checksums(path)  # torch.load does not
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises pickle, zip, runtime or end-of-file errors
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnreadableFile(
            f"{path} is damaged or not a checkpoint of dbl ({reason[:120]})", "train this block anew"
        ) from None
    if not isinstance(checkpoint, dict):
        raise UnreadableFile(f"{path} is not a checkpoint of dbl", "train this block anew")
    return checkpoint


def _verify_checksums(path: Path) -> None:
    """Check the CRC-32 of each record of the zip file that a checkpoint is."""
    with ZipFile(path) as archive:
        damaged = archive.testzip()
        # One flipped bit can mark a record as a folder. torch never writes folders and silently reads them as empty.
        damaged = damaged or next((record.filename for record in archive.infolist() if record.external_attr), None)
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
