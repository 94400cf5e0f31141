"""The log of an evaluation: each value is measured once, and stands in a table."""

import re
from collections.abc import Mapping
from pathlib import Path

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import override

from dbl.training.event_log import Choice, add_choices, remove_events
from dbl.utils.markdown import table

_OF_BLOCK = re.compile(r"(?P<name>.+)_block_(?P<block>\d+)")


class EvaluationLog(TensorBoardLogger):
    """Writes what is logged as a table of the tab TEXT, since a chart of it would be a single point.

    After a test the values of the whole network are columns of the tab HPARAMS too, beside the choices that led to
    them: TensorBoard takes the tab's own metrics from charts.

    Args:
        folder: folder of the log.
        command: command that is logged: validate, test or predict; the log of an earlier one is replaced.
        choices: choices of the run, by the name of their column.
    """

    def __init__(self, folder: Path, command: str, choices: Mapping[str, Choice]) -> None:
        self._choices = choices
        rank_zero_only(remove_events)(folder, f".{command}")
        super().__init__(str(folder), name="", version="", filename_suffix=f".{command}")

    @override
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write the values of each stage, whose names are such as `test/loss` and `test/loss_block_0`."""
        stages: dict[str, dict[str, float]] = {}
        for name, value in metrics.items():
            stage, _, metric = name.partition("/")
            if metric:  # else it is the number of the epoch
                stages.setdefault(stage, {})[metric] = float(value)
        for stage, values in stages.items():
            self.experiment.add_text(stage, metrics_table(values))
            if stage == "test":
                whole = {f"test/{name}": value for name, value in values.items() if "_block_" not in name}
                add_choices(self.experiment, {**self._choices, **whole})


def metrics_table(values: Mapping[str, float]) -> str:
    """A row for each metric, with a column for the whole network and for each block.

    Args:
        values: figures by name; names of those of a block end in `_block_<b>`.
    """
    rows: dict[str, dict[int, float]] = {}  # name -> block, or -1 for the whole network -> value
    for name, value in values.items():
        found = _OF_BLOCK.fullmatch(name)
        metric, column = (found["name"], int(found["block"])) if found else (name, -1)
        rows.setdefault(metric, {})[column] = value
    columns = sorted({column for row in rows.values() for column in row} | {-1})
    header = ["", "whole network", *(f"block {column}" for column in columns[1:])]
    cells = ([f"{row[column]:.4g}" if column in row else None for column in columns] for row in rows.values())
    return table(header, ([name, *row] for name, row in zip(rows, cells, strict=True)))
