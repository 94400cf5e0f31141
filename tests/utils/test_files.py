"""Files are whole or absent, and a damaged one is refused in one line."""

import errno
import json
import os
import resource
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dbl.utils.errors import UserError
from dbl.utils.files import (
    UnreadableFile,
    read_checkpoint,
    read_json,
    read_metadata,
    read_tensors,
    remove_unfinished,
    replacing,
    write_json,
    write_once,
    write_tensors,
    write_text,
)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    """Catches writing in place: a reader would see half a file."""
    path = tmp_path / "deep" / "file"
    write_text(path, "old")
    with replacing(path) as temporary:
        temporary.write_text("half")
        assert path.read_text() == "old"
        assert temporary.parent.parent == path.parent  # another disk could not be renamed from
    assert path.read_text() == "half"
    assert _names(path.parent) == ["file"]


def test_a_failed_write_changes_nothing(tmp_path: Path) -> None:
    """Catches a lost or truncated file, and a temporary one that is left."""
    write_text(tmp_path / "file", "old")
    with pytest.raises(TypeError), replacing(tmp_path / "file") as temporary:
        temporary.write_text("half") + "a type error"
    assert (tmp_path / "file").read_text() == "old"
    assert _names(tmp_path) == ["file"]


def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    """Catches a sweep that takes away what another process, or another machine, is writing, or a user's file."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = socket.gethostname()
    ours, living, elsewhere = f".a.{dead.pid}@{host}", f".b.{os.getpid()}@{host}", f".c.{dead.pid}@elsewhere"
    for name in (ours, living, elsewhere):
        (tmp_path / f"{name}.0123abcd.tmp").mkdir()
        (tmp_path / f"{name}.0123abcd.tmp" / "half").touch()
    (tmp_path / ".of_the_user.tmp").touch()
    remove_unfinished(tmp_path)
    assert _names(tmp_path) == sorted([".of_the_user.tmp", f"{living}.0123abcd.tmp", f"{elsewhere}.0123abcd.tmp"])
    remove_unfinished(tmp_path, alone=True)
    assert _names(tmp_path) == [".of_the_user.tmp"]


def test_a_link_in_the_place_of_a_temporary_folder_is_not_followed(tmp_path: Path) -> None:
    """Catches a sweep that empties a folder elsewhere."""
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / ".a.1@elsewhere.0123abcd.tmp").symlink_to(tmp_path / "precious")
    remove_unfinished(folder, alone=True)
    assert _names(tmp_path / "precious") == ["file"]


def test_all_files_have_the_mode_of_the_umask(tmp_path: Path) -> None:
    """Catches weights that nobody but their owner can read, beside a config that all can."""
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a.txt", "a")
        write_tensors(tmp_path / "a.safetensors", {"a": torch.ones(2)})
        with replacing(tmp_path / "a.ckpt") as temporary:
            torch.save({}, temporary)
    finally:
        os.umask(before)
    assert {path.suffix: oct(path.stat().st_mode & 0o777) for path in tmp_path.iterdir()} == dict.fromkeys(
        (".txt", ".safetensors", ".ckpt"), "0o640"
    )


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_text(path, "x" * 4000),
        lambda path: write_json(path, ["x" * 4000]),
        lambda path: write_tensors(path, {"a": torch.ones(1000)}),
    ],
    ids=["text", "json", "tensors"],
)
def test_a_full_disk_names_the_file_and_leaves_the_old_one(write: Callable[[Path], None], tmp_path: Path) -> None:
    """Catches an error of another library, one that names a temporary file or none, and what is left of the attempt."""
    path = tmp_path / "file"
    write_text(path, "old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            write(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(path))
    assert path.read_text() == "old"
    assert _names(tmp_path) == ["file"]


def test_json_returns_as_it_was_written(tmp_path: Path) -> None:
    """Catches values that change on the way, and a file that people cannot read."""
    value = {"a": [1, 2.5, None, True], "é": {"b": "x"}}
    write_json(tmp_path / "file.json", value)
    assert read_json(tmp_path / "file.json") == value
    assert (tmp_path / "file.json").read_text(encoding="utf-8").count("\n") > 5


@pytest.mark.parametrize("content", [b'{"a": 1', b"", b"\xff\xfe{}"])
def test_damaged_json_is_one_line_with_the_file(tmp_path: Path, content: bytes) -> None:
    """Catches a traceback of the parser or the decoder."""
    path = tmp_path / "contract.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"contract\.json is damaged") as caught:
        read_json(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("read", [read_json, read_tensors, read_metadata])
def test_an_absent_file_is_named(tmp_path: Path, read) -> None:  # type: ignore[no-untyped-def]
    """Catches a bare FileNotFoundError."""
    with pytest.raises(UserError, match=r"nothing\.here does not exist"):
        read(tmp_path / "nothing.here")


def test_tensors_return_with_their_metadata(tmp_path: Path) -> None:
    """Catches a transposed tensor stored in the order of its memory, and lost metadata."""
    matrix = torch.arange(6.0).reshape(2, 3)
    write_tensors(tmp_path / "file.safetensors", {"a": matrix.T, "b": torch.tensor([1, 2])}, {"block": "1"})
    read = read_tensors(tmp_path / "file.safetensors")
    assert torch.equal(read["a"], matrix.T)
    assert torch.equal(read["b"], torch.tensor([1, 2]))
    assert read_metadata(tmp_path / "file.safetensors") == {"block": "1"}


def test_truncated_tensors_are_refused(tmp_path: Path) -> None:
    """Catches a traceback, or zeros in place of what is missing."""
    path = tmp_path / "file.safetensors"
    write_tensors(path, {"a": torch.ones(100)})
    path.write_bytes(path.read_bytes()[:-10])
    for read in (read_tensors, read_metadata):
        with pytest.raises(UserError, match=r"file\.safetensors is damaged"):
            read(path)


class _Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, ("touched",)


def test_a_checkpoint_cannot_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a pickle that is executed when a checkpoint from elsewhere is opened."""
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": _Harmful()}, tmp_path / "last.ckpt")
    with pytest.raises(UnreadableFile, match=r"last\.ckpt is damaged or not a checkpoint of dbl"):
        read_checkpoint(tmp_path / "last.ckpt")
    assert _names(tmp_path) == ["last.ckpt"]


def test_a_checkpoint_must_be_a_dict(tmp_path: Path) -> None:
    """Catches a bare tensor that fails far away with an index error."""
    torch.save(torch.ones(2), tmp_path / "last.ckpt")
    with pytest.raises(UnreadableFile, match="is not a checkpoint of dbl") as caught:
        read_checkpoint(tmp_path / "last.ckpt")
    assert "train" not in caught.value.problem  # the remedy stands in the message alone
    assert str(caught.value).startswith(caught.value.problem)


def test_a_record_marked_as_a_folder_is_found(tmp_path: Path) -> None:
    """Catches a flag beside the contents, which their checksums do not cover and torch reads as nothing."""
    path = tmp_path / "last.ckpt"
    torch.save({"a": torch.ones(3)}, path)
    with zipfile.ZipFile(path) as archive:
        records = [(record, archive.read(record)) for record in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for record, content in records:
            record.external_attr = 0x10 if record.filename.endswith("data/0") else 0
            archive.writestr(record, content)
    with pytest.raises(UnreadableFile, match="damaged"):
        read_checkpoint(path)


def test_one_of_many_fills_an_entry(tmp_path: Path) -> None:
    """Catches two writers in one cache entry, and one that goes on before the entry is whole."""
    entry, written, seen = tmp_path / "entry", [], []

    def write() -> None:
        written.append(1)
        time.sleep(0.2)
        (entry / "last").write_text("whole")

    def use() -> None:
        write_once(entry, "last", write)
        seen.append((entry / "last").read_text())

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (written, seen) == ([1], ["whole"] * 4)
    write_once(entry, "last", write)
    assert written == [1]


def test_an_entry_whose_writer_died_is_filled_again(tmp_path: Path) -> None:
    """Catches half an entry that is taken for a whole one for ever."""
    entry = tmp_path / "entry"

    def die() -> None:
        (entry / "first").write_text("half")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        write_once(entry, "last", die)
    write_once(entry, "last", lambda: write_json(entry / "last", 1))
    assert json.loads((entry / "last").read_text()) == 1
