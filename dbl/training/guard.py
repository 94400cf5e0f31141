"""What surrounds the training of a part: its lock, its status file, and a clear error if the disk is full."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L

from dbl.run.folder import RunFolder
from dbl.training.callbacks.status import Status
from dbl.utils.errors import FULL_DISK, UserError, as_known_error
from dbl.utils.files import remove_unfinished
from dbl.utils.locks import Lock


class StopWhenLockLost(L.Callback):
    """Stop, without saving, a training whose lock another process took over, so that no two write the same files.

    That happens to a process that was suspended, or cut off from the shared folder, for longer than the lock lasts.

    Args:
        lock: lock of the part.
    """

    def __init__(self, lock: Lock) -> None:
        self.lock = lock

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop at the next batch after a refresh has failed: reading the file after each batch would be slow."""
        if self.lock.lost:
            self.lock.check()

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Read the lock file before each save."""
        self.lock.check()


@contextmanager
def guard(run: RunFolder, part: str, trainer: L.Trainer, status: Status) -> Iterator[None]:
    """Keep other processes from training the part, and write any failure, also before step 1, to its status file.

    The first rank holds the lock for all ranks. `DBL_LOCK_WAIT_S` in the environment says for how many seconds to wait
    for a process that holds it (default 0): a part that is started again elsewhere may find its own dying process.

    Args:
        run: run folder of the part.
        part: name of the part.
        trainer: trainer of the part; stops if the lock is lost.
        status: status file of the part.

    Raises UserError if another process trains it, or a disk is full.
    """
    if not trainer.is_global_zero:
        yield
        return
    with Lock(run.lock(part), str(run.part(part))).acquire(_lock_wait_s()) as lock:
        remove_unfinished(run.part(part), alone=True)
        remove_unfinished(run.path)
        trainer.callbacks.insert(0, StopWhenLockLost(lock))  # type: ignore[attr-defined]
        try:
            with _full_disk_as_user_error(part):
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
def _full_disk_as_user_error(part: str) -> Iterator[None]:
    """Turn what loggers and configs raise on a full disk into a UserError.

    When the training has already raised a clear error, closing the loggers may raise another one that hides it.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        hidden = error.__context__
        while hidden is not None and as_known_error(hidden) is None:
            hidden = hidden.__context__
        if hidden is not None:
            raise hidden from None
        raise UserError(
            f"{part} stopped because {error.filename or 'a file of it'} could not be written ({error.strerror}): free "
            "space; the same command resumes"
        ) from error
