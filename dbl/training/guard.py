"""What surrounds the training of a part: its lock, its status file, and one line for a disk that is full."""

import errno
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L

from dbl.run.folder import RunFolder
from dbl.training.callbacks.status import Status
from dbl.utils.errors import UserError, as_known_error
from dbl.utils.locks import Hold, holding


class OwnLock(L.Callback):
    """Stop, without saving, a training whose lock another process took over, so that no two write the same files.

    That happens to a process that was suspended, or cut off from the shared folder, for longer than the lock lasts.

    Args:
        hold: the lock.
    """

    def __init__(self, hold: Hold) -> None:
        self.hold = hold

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop soon after the loss was seen."""
        if self.hold.lost:
            self.hold.check()

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Look before each save."""
        self.hold.check()


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def guarding(run: RunFolder, part: str, trainer: L.Trainer, status: Status) -> Iterator[None]:
    """Train a part alone: no other process does, and a failure, also before the first step, is in its status file.

    The first rank holds the lock for all ranks. `DBL_LOCK_WAIT_S` in the environment says for how many seconds to wait
    for a process that holds it (default 0): a part that is started again elsewhere may find its own dying process.

    Args:
        run: the run of the part.
        part: its name.
        trainer: that trains it; stops if the lock is lost.
        status: its status file.

    Raises:
        UserError: if another process trains it, or a disk is full.
    """
    if not trainer.is_global_zero:
        yield
        return
    with holding(run.lock(part), str(run.part(part)), _lock_wait_s()) as hold:
        trainer.callbacks.insert(0, OwnLock(hold))  # type: ignore[attr-defined]
        try:
            with _full_disk_is_one_line(part):
                yield
        except Exception as error:
            status.record_failure(error)
            raise


def _lock_wait_s() -> float:
    text = os.environ.get("DBL_LOCK_WAIT_S", "0")
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise UserError(f"DBL_LOCK_WAIT_S={text} in the environment must be a number of seconds, 0 or more")
    return seconds


@contextmanager
def _full_disk_is_one_line(part: str) -> Iterator[None]:
    """Loggers and configs are written while a part is trained: what they raise on a full disk is a fault of the disk.

    When the training has already raised a clear line, closing the loggers may raise again and hide it.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        hidden = error.__context__
        while hidden is not None and as_known_error(hidden) is None:
            hidden = hidden.__context__
        if hidden is not None:
            raise hidden from None
        raise UserError(
            f"{part} stopped because {error.filename or 'a file of it'} could not be written ({error.strerror}): free "
            "space on the disk, and the same command resumes (without --from-scratch)"
        ) from error
