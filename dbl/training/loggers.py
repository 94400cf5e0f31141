"""Loggers of a part: TensorBoard events and `metrics.csv` in its folder, both continued on resume."""

import csv
import warnings
from collections.abc import Mapping
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import override

from dbl.training.event_log import remove_events
from dbl.utils.errors import DblWarning


class DamagedRows(ValueError):
    """A `metrics.csv` that is not one of a part."""


def part_loggers(folder: Path, step: int, rank: int) -> list[Logger]:
    """Create loggers for a training that starts or resumes at `step`; later entries of an earlier run are dropped."""
    if step == 0 and rank == 0:
        remove_events(folder)
    events = Curves(str(folder), name="", version="", purge_step=step + 1 if step else None)
    rows = CSVLogger(str(folder), name="", version="")
    continue_rows(rows, step, rank)
    return [events, rows]


class Curves(TensorBoardLogger):
    """Leaves out the number of the epoch, whose chart would stand before all others and say nothing."""

    @override
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write a point of each curve."""
        super().log_metrics({name: value for name, value in metrics.items() if name != "epoch"}, step)


def continue_rows(logger: CSVLogger, step: int, rank: int) -> None:
    """Let a logger go on in the `metrics.csv` of its folder, whose later rows are dropped; Lightning would begin anew.

    Args:
        logger: a new logger.
        step: step at which a training starts or resumes.
        rank: rank of this process; only the first one writes.
    """
    if rank:
        return
    earlier = _rows_until(Path(logger.log_dir) / "metrics.csv", step)
    with warnings.catch_warnings():
        # Lightning warns that it deletes the earlier file; its rows are written back at once.
        warnings.filterwarnings("ignore", message="Experiment logs directory")
        logger.experiment.metrics.extend(earlier)
    logger.save()


def _rows_until(path: Path, step: int) -> list[dict[str, float]]:
    if not path.is_file():
        return []
    try:
        return [row | {"step": int(row["step"])} for row in read_rows(path) if row["step"] <= step]
    except DamagedRows:
        kept = path.replace(path.with_name("metrics.damaged.csv"))
        warnings.warn(f"{path} is damaged and was renamed to {kept.name}: a new one begins", DblWarning, stacklevel=2)
        return []


def read_rows(path: Path) -> list[dict[str, float]]:
    """The rows of a `metrics.csv`, each without its empty cells. Raises DamagedRows if one of them cannot be read."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
        if any("step" not in row or not row["step"].is_integer() for row in rows):
            raise DamagedRows("a row has no step")
    except (ValueError, TypeError, AttributeError, csv.Error) as error:  # TypeError: more values than names
        raise DamagedRows(str(error)) from None
    return rows
