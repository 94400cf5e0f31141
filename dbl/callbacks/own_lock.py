"""A training goes on only while it holds its lock."""

from typing import Any

import lightning as L

from dbl.locks import Hold


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
