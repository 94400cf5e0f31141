"""Quality against the number of sampler steps."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dbl.figures.style import colour_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def steps_figure(curves: Mapping[str, Sequence[Mapping[str, Any]]], metric: str, lower_is_better: bool) -> "Figure":
    """One line for each way to train, with its range over the seeds; on a log axis where lower is better.

    Args:
        curves: name of the line -> its points: `steps`, and `mean`, `min` and `max` of the metric.
        metric: its name, for the axis.
        lower_is_better: as it says.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    for number, (name, points) in enumerate(curves.items()):
        colour, steps = colour_of(number), [point["steps"] for point in points]
        axes.plot(steps, [point["mean"] for point in points], "o-", ms=4, color=colour, label=name)
        low, high = ([point[end] for point in points] for end in ("min", "max"))
        axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
    ticks = sorted({point["steps"] for points in curves.values() for point in points})
    axes.set_xscale("log")
    axes.set_xticks(ticks, labels=[str(tick) for tick in ticks])
    axes.minorticks_off()
    if lower_is_better:
        axes.set_yscale("log")
    axes.set_xlabel("sampler steps")
    axes.set_ylabel(f"{metric}, {'lower' if lower_is_better else 'higher'} is better")
    axes.set_title("lines: means; bands: range over training seeds", fontsize=9)
    axes.legend(fontsize=8)
    return figure
