"""One process at a time: locks that say who holds them, work on shared folders, and do not outlive their holder."""

import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from filelock import SoftFileLease, Timeout

from dbl.utils.errors import UserError
from dbl.utils.files import read_json, write_json

# A holder that gives no sign of life for this long has died: any process on any machine may take its lock.
LEASE_S = 30.0
_BEAT_S = 2.0  # between two signs of life
_AT_ONCE_S = 0.5  # enough for two attempts: the first clears the lock of a process that died on this machine


class Hold:
    """A lock that this process holds.

    Attributes:
        lost: whether it was seen that another process took the lock, or that its file was removed.
    """

    def __init__(self, path: Path, what: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.lost = False
        self._path, self._what = path, what
        self._lease = SoftFileLease(
            path, lease_duration=LEASE_S, heartbeat_interval=_BEAT_S, on_compromise=lambda _: self._lose()
        )

    def _lose(self) -> None:
        self.lost = True

    def check(self) -> None:
        """Look whether the lock is still this process's: to be asked before what must not be done by two.

        Raises:
            UserError: if it is not, because this process was suspended for longer than `LEASE_S`, say.
        """
        # Another process that looks at the lock may move it aside for some milliseconds: so ask again before giving up.
        for _ in range(5):
            owner = self._lease.owner
            if not self.lost and owner is not None and owner.token == self._lease.token:
                return
            time.sleep(0.1)
        self.lost = True
        raise UserError(
            f"{self._what} stopped without saving: another process took over {self._path}, or the file was removed, "
            "while this one gave no sign of life; the same command resumes what is saved"
        )

    def take(self, wait_s: float) -> None:
        """Take the lock; parameters and errors as of `holding`."""
        if self._attempt():
            return
        watch = _Watch(self._path, wait_s)
        try:
            self._lease.acquire(timeout=wait_s + 10 * LEASE_S, poll_interval=_BEAT_S / 10, cancel_check=watch.decided)
        except Timeout:
            if watch.silent:
                # Where two names cannot be exchanged in one step, as on NFS, the library leaves a dead holder's lock.
                self._lease.force_break()
            if not (watch.silent and self._attempt()):
                raise UserError(self._refusal()) from None

    def _attempt(self) -> bool:
        with suppress(Timeout):
            self._lease.acquire(timeout=_AT_ONCE_S)
        return self._lease.is_locked

    def sign(self) -> None:
        """Leave who holds the lock beside it, for the message to others."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        command = shlex.join(sys.argv)
        signature = {"pid": os.getpid(), "host": socket.gethostname(), "since": now, "command": command}
        with suppress(OSError):  # a full disk: the others get a shorter message
            write_json(self._signature, signature | {"token": self._lease.token})

    @property
    def _signature(self) -> Path:
        return self._path.with_name(self._path.name + ".json")

    def _refusal(self) -> str:
        """One line for who cannot have the lock."""
        owner = self._lease.owner
        holder = f"process {owner.pid} on {owner.hostname.partition('?')[0]}" if owner else "another process"
        with suppress(UserError, KeyError, ValueError, TypeError):
            signature = read_json(self._signature)
            if owner and signature["token"] == owner.token:
                minutes = (datetime.now(UTC) - datetime.fromisoformat(signature["since"])).total_seconds() / 60
                holder += f" since {signature['since']} ({max(minutes, 0):.0f} min)"
        return (
            f"{self._what} is being trained by {holder}: wait for it, or stop it; if it dies, its lock ({self._path}) "
            f"is free within {LEASE_S:.0f} s"
        )

    def release(self) -> None:
        """Give the lock back; a lock that another process took is left alone."""
        if not self.lost:
            self._signature.unlink(missing_ok=True)
        self._lease.release()


class _Watch:
    """Looks at a lock of another process until it is clear whether that one lives.

    Args:
        path: of the lock.
        wait_s: for how long a living holder is waited for.
    """

    def __init__(self, path: Path, wait_s: float) -> None:
        self._path = path
        self._until = time.monotonic() + wait_s
        self._told = False
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
        """Whether the holder gave no sign of life for so long that the lock may be taken."""
        # A little more than the library needs to take it by itself.
        return time.monotonic() - self._changed > LEASE_S + _BEAT_S

    def decided(self) -> bool:
        """Whether to wait no more: the holder gave a sign of life after all patience, or it has died."""
        state, now = self._state(), time.monotonic()
        if state is None:
            return False  # just given back: the next attempt takes it
        alive = state != self._seen
        if alive:
            self._seen, self._changed = state, now
        if not self._told and now - self._changed > 3 * _BEAT_S:
            self._told = True
            print(f"waiting to see whether the process that holds {self._path} still lives", file=sys.stderr)
        return self.silent or (alive and now >= self._until)


@contextmanager
def holding(path: Path, what: str, wait_s: float = 0) -> Iterator[Hold]:
    """Hold a lock, so that no two processes of any machines that share the folder do the same.

    The lock of a process that died on this machine is taken at once, that of one elsewhere after `LEASE_S` seconds
    without a sign of life. Whether another holder lives shows within some seconds.

    Args:
        path: of the lock file; `<path>.json` beside it says who holds it since when.
        what: is being trained, for messages.
        wait_s: for how many seconds to wait for a living holder.

    Raises:
        UserError: if another process holds it, or the folder cannot be written to.
    """
    try:
        hold = Hold(path, what)
        hold.take(wait_s)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error}): fix that, e.g. free space") from None
    try:
        hold.sign()
        yield hold
    finally:
        hold.release()
