"""Markdown tables and numbers."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table; the first column is for names, the others for numbers."""
    marks = ["---", *["---:"] * (len(header) - 1)]
    return [f"| {' | '.join(cells)} |" for cells in (header, marks, *rows)]


def number(value: float | None) -> str:
    """Four significant digits; nothing for None."""
    return "" if value is None else f"{value:.4g}"


def with_spread(found: Mapping[str, Any] | None) -> str:
    """The mean, and the range if there are several values."""
    if found is None:
        return ""
    if len(found["values"]) == 1:
        return number(found["mean"])
    return f"{number(found['mean'])} ({number(found['min'])} to {number(found['max'])})"


def signed_spread(values: Sequence[float]) -> str:
    """The mean of differences, and the range if there are several."""
    mean, *ends = (f"{value:+.3g}" for value in (fmean(values), min(values), max(values)))
    return mean if len(values) == 1 else f"{mean} ({ends[0]} to {ends[1]})"
