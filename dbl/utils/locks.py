"""Cross-process locks with owner information and expiry."""

import os
import shlex
import socket
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from filelock import SoftFileLease, Timeout

from dbl.utils.errors import UserError
from dbl.utils.files import read_json, write_json

# A holder that has not refreshed its lock for this long is taken for dead: any process on any machine may take over.
LEASE_S = 30.0
_REFRESH_S = 2.0
# Locks of this process, with its number: a forked child has those of its parent in its memory, but does not hold them.
_HELD: set[tuple[int, Path]] = set()
_AT_ONCE_S = 0.5  # enough for two attempts: the first clears the lock of a process that died on this machine


class Lock:
    """A lock file that one process at a time can hold, among all machines that share the folder.

    The lock of a process that died on this machine is taken at once, that of one elsewhere after `LEASE_S` seconds
    without a refresh. Use it as a context manager: `with Lock(path, "block_0").acquire():`.

    Args:
        path: lock file; `<path>.json` beside it says who holds it since when.
        what: name of what is being trained, for messages.
        doing: another word for messages than "trained".
    """

    def __init__(self, path: Path, what: str, doing: str = "trained") -> None:
        self._path, self._what, self._doing = path, what, doing
        self._info = path.with_name(path.name + ".json")
        self._lease = SoftFileLease(path, lease_duration=LEASE_S, heartbeat_interval=_REFRESH_S)
        self._found_lost = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def acquire(self, wait_s: float = 0) -> Self:
        """Take the lock. Whether another holder is alive shows within some seconds.

        Args:
            wait_s: seconds to wait for a holder that is alive.

        Raises UserError if another process holds it, or the folder cannot be written to.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if not self._try_once():
                self._wait(wait_s)
        except OSError as error:
            message = f"{self._path} cannot be written ({error.strerror or error}): fix that, e.g. free space"
            raise UserError(message) from None
        _HELD.add((os.getpid(), self._path.resolve()))
        self._write_info()
        return self

    def release(self) -> None:
        """Give the lock back; a lock that another process took is left alone."""
        if not self.lost:
            self._info.unlink(missing_ok=True)
        self._lease.release()
        _HELD.discard((os.getpid(), self._path.resolve()))

    @property
    def lost(self) -> bool:
        """Whether a refresh, or `check`, found that another process took the lock or that its file was removed."""
        return self._found_lost or self._lease.compromise is not None

    def check(self) -> None:
        """Read the lock file again: to be called before anything that two processes must not both do.

        Raises UserError if the lock is lost, for example because this process was suspended for longer than `LEASE_S`.
        """
        # Another process that inspects the lock may move it aside for some milliseconds: so try again before giving up.
        for _ in range(5):
            owner = self._lease.owner
            if not self.lost and owner is not None and owner.token == self._lease.token:
                return
            time.sleep(0.1)
        self._found_lost = True
        raise UserError(
            f"{self._what} stopped without saving: another process took over its lock, or the file was removed: "
            "repeat the command"
        )

    def _try_once(self) -> bool:
        with suppress(Timeout):
            self._lease.acquire(timeout=_AT_ONCE_S)
        return self._lease.is_locked

    def _wait(self, wait_s: float) -> None:
        holder = _Holder(self._path, wait_s)
        try:
            self._lease.acquire(
                timeout=wait_s + 10 * LEASE_S, poll_interval=_REFRESH_S / 10, cancel_check=holder.decided
            )
        except Timeout:
            if holder.silent:
                # Where two names cannot be exchanged in one step, as on NFS, the library leaves a dead holder's lock.
                self._lease.force_break()
            if not (holder.silent and self._try_once()):
                raise UserError(self._refusal()) from None

    def _write_info(self) -> None:
        """Write who holds the lock, for the message to other processes."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        info = {"pid": os.getpid(), "host": socket.gethostname(), "since": now, "command": shlex.join(sys.argv)}
        with suppress(OSError):  # a full disk: the others get a shorter message
            write_json(self._info, info | {"token": self._lease.token})

    def _refusal(self) -> str:
        """The message to a process that cannot have the lock."""
        owner = self._lease.owner
        holder = f"process {owner.pid} on {owner.hostname.partition('?')[0]}" if owner else "another process"
        with suppress(UserError, KeyError, ValueError, TypeError):
            info = read_json(self._info)
            if owner and info["token"] == owner.token:
                minutes = (datetime.now(UTC) - datetime.fromisoformat(info["since"])).total_seconds() / 60
                holder += f" since {info['since']} ({max(minutes, 0):.0f} min)"
        return (
            f"{self._what} is being {self._doing} by {holder}: wait for it, or stop it; if it dies, "
            f"its lock is free within {LEASE_S:.0f} s"
        )


def held_by_another(path: Path) -> bool:
    """Whether a living process other than this one holds a lock; if one does, the answer takes some seconds."""
    if (os.getpid(), path.resolve()) in _HELD:
        return False
    # Not by reading who holds it: a process that inspects the lock puts its own name there for some milliseconds.
    try:
        with Lock(path, path.parent.name).acquire():
            return False
    except UserError:
        return True


class _Holder:
    """The process that holds a lock, watched until it is clear whether it is alive.

    The lease of the library alone would tell a refused process only after the whole `LEASE_S` that the holder lives.

    Args:
        path: lock file.
        wait_s: seconds to wait for a holder that is alive.
    """

    def __init__(self, path: Path, wait_s: float) -> None:
        self._path = path
        self._deadline = time.monotonic() + wait_s
        self._printed = False
        self._seen = self._state()
        self._changed = time.monotonic()

    def _state(self) -> tuple[int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino

    @property
    def silent(self) -> bool:
        """Whether the lock has not been refreshed for so long that it may be taken."""
        # A little longer than the library needs to take it by itself.
        return time.monotonic() - self._changed > LEASE_S + _REFRESH_S

    def decided(self) -> bool:
        """Whether to stop waiting: the holder is alive and the deadline is over, or it is dead."""
        state, now = self._state(), time.monotonic()
        if state is None:
            return False  # just released: the next attempt takes it
        alive = state != self._seen
        if alive:
            self._seen, self._changed = state, now
        if not self._printed and now - self._changed > 3 * _REFRESH_S:
            self._printed = True
            print(f"waiting to see whether the process that holds {self._path} still lives", file=sys.stderr)
        return self.silent or (alive and now >= self._deadline)
