"""What a log of TensorBoard can hold beside curves: texts, figures and the choices by which runs are compared."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter  # slow to import

Choice = str | int | float | bool


def event_writers(trainer: L.Trainer) -> "list[SummaryWriter]":
    """The writers of the trainer's TensorBoard loggers; none on ranks other than the first, which write nothing."""
    if not trainer.is_global_zero:
        return []
    return [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def add_choices(writer: "SummaryWriter", choices: Mapping[str, Choice]) -> None:
    """Make a log a row of the tab HPARAMS.

    `SummaryWriter.add_hparams` opens a log of its own for each row, and Lightning's `log_hyperparams` adds a chart with
    one point. Both also write a list of columns, and TensorBoard takes that of one log for all: without any such list
    it shows the columns of every log. TensorBoard reads the first row of a log alone.

    Args:
        writer: writer of the log.
        choices: values by the name of their column.
    """
    from torch.utils.tensorboard.summary import hparams

    _, row, _ = hparams(dict(choices), {})
    writer._get_file_writer().add_summary(row)


def remove_events(folder: Path, suffix: str = "") -> None:
    """Remove a log that a new one replaces: TensorBoard would show both as one.

    Args:
        folder: folder of the log.
        suffix: end of the names of its files.
    """
    for path in folder.glob(f"events.out.tfevents.*{suffix}"):
        path.unlink(missing_ok=True)
