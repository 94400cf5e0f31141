"""Memory of several ways to train, as stacked bars."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from dbl.figures.style import colour_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Bytes are shown in binary units, as memory is sold.
_UNITS = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10), ("B", 1))


def readable_bytes(size: float, largest: float | None = None) -> str:
    """A size such as `43.21 MiB`, in the unit that fits `largest` (by default the size itself)."""
    name, unit = _unit(size if largest is None else largest)
    return f"{size / unit:.2f} {name}"


def memory_figure(rows: Mapping[str, Mapping[str, int]]) -> "Figure":
    """One bar for each row, one colour for each category; both in the given order, from top to bottom and outwards.

    Args:
        rows: name of the row -> category -> bytes at the peak.
    """
    from matplotlib.figure import Figure

    name, unit = _unit(max(sum(row.values()) for row in rows.values()))
    figure = Figure(figsize=(8, 1.2 + 0.36 * len(rows)), layout="constrained")
    axes = figure.subplots()
    ends = dict.fromkeys(rows, 0.0)
    for number, category in enumerate(next(iter(rows.values()))):
        widths = [row[category] / unit for row in rows.values()]
        axes.barh(list(rows), widths, left=list(ends.values()), label=category, color=colour_of(number))
        ends = {key: end + width for (key, end), width in zip(ends.items(), widths, strict=True)}
    for place, end in enumerate(ends.values()):
        axes.text(end, place, f" {end:.2f}", va="center", fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set_xlabel(f"peak memory of one training step, {name}")
    axes.legend(fontsize=8, ncols=2)
    return figure


def _unit(size: float) -> tuple[str, int]:
    return next((name, unit) for name, unit in _UNITS if size >= unit or unit == 1)
