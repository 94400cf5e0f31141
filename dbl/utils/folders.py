"""Folders that are replaced as one."""

import ctypes
import errno
import os
import shutil
from pathlib import Path

_SET_ASIDE = ".old"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # fcntl.h and fs.h of Linux


def replace_folder(folder: Path, new: Path) -> None:
    """Put the folder `new` in the place of `folder`, on the same disk; what was there is removed.

    Linux exchanges the two names in one step. Elsewhere, and on NFS, the old folder is renamed first, so that there is
    a moment without `folder`; a process that is killed then leaves the old one for `restore_folder`.
    """
    if not folder.exists():
        new.rename(folder)
    elif not _exchange(folder, new):
        old = set_aside(folder)
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
        try:
            new.rename(folder)
        except OSError:
            old.rename(folder)
            raise
        shutil.rmtree(old, ignore_errors=True)


def set_aside(folder: Path) -> Path:
    """Where a folder is while another takes its place, on file systems that cannot exchange two names."""
    return folder.with_name(f".{folder.name}{_SET_ASIDE}")


def restore_folder(folder: Path) -> None:
    """Undo, or finish, what a process began that was killed in `replace_folder`; no other may be in it now."""
    old = set_aside(folder)
    if old.is_dir() and not old.is_symlink() and not folder.exists():
        old.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two names in one step; False where the system or the file system cannot."""
    exchange = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if os.name == "posix" else None
    if exchange is None:
        return False
    if exchange(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(first))
