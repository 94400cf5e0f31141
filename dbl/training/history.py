"""How the training of a part went: loss curves and speed, from its `metrics.csv`, for the report."""

import math
import warnings
from pathlib import Path
from statistics import fmean, median
from typing import Any

from dbl.training.loggers import DamagedRows, read_rows
from dbl.utils.errors import DblWarning

# Points of a curve: more would not be seen in a picture.
_MOST_POINTS = 100
_NOTHING: dict[str, Any] = {"step_seconds": None, "samples_per_second": None, "losses": {"train": [], "validation": []}}


def read_history(path: Path) -> dict[str, Any]:
    """Speed and losses of a part; nulls and empty lists where there is no file, or, with a warning, a damaged one.

    Args:
        path: the `metrics.csv` of the part.

    Returns:
        `step_seconds` and `samples_per_second`, medians over the log entries of all resumes, without validation, so
        that a machine that was busy for a while does not count; `losses`, for `train` and `validation` a list of points
        with `step` and `loss`, at most 100 of them: of more, each is a mean over its neighbours.
    """
    if not path.is_file():
        return _NOTHING
    try:
        rows = read_rows(path)
    except (DamagedRows, OSError):
        warnings.warn(f"{path} is damaged: the report leaves its curves out", DblWarning, stacklevel=2)
        return _NOTHING
    steps = _median(rows, "train/steps_per_second")
    return {
        "step_seconds": 1 / steps if steps else None,
        "samples_per_second": _median(rows, "train/samples_per_second"),
        "losses": {"train": _curve(rows, "train/loss"), "validation": _curve(rows, "val/loss")},
    }


def _median(rows: list[dict[str, float]], name: str) -> float | None:
    # The first entry holds the start: imports, first kernels, empty caches.
    values = [row[name] for row in rows if 0 < row.get(name, math.nan) < math.inf]
    return median(values[1:] or values) if values else None


def _curve(rows: list[dict[str, float]], name: str) -> list[dict[str, float]]:
    points = [(int(row["step"]), row[name]) for row in rows if math.isfinite(row.get(name, math.nan))]
    size = max(1, math.ceil(len(points) / _MOST_POINTS))
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [{"step": group[-1][0], "loss": fmean(loss for _, loss in group)} for group in groups]
