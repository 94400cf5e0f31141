"""Figures of losses, likelihood, the sampler's path, quality and memory, from plain values of a report.

Figures over the noise level have high noise on the left, as block 0 runs first; each block has its own colour.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dbl.data.spec import ImageSpec
from dbl.diffusion.plot import partition_figure as partition_figure
from dbl.inference.grid import image_grid as image_grid, save_picture as save_picture
from dbl.utils.plotting import DPI, colour_of as colour_of, save_figure as save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Name of a level -> its symbol, and the label of its axis.
_LEVELS = {
    "sigma": ("sigma", "noise level sigma, in units of the target (high noise first)"),
    "the masking probability": ("m", "masking probability m of a token (all hidden first)"),
}


def likelihood_figure(curve: Sequence[dict[str, Any]], level: str = "sigma") -> "Figure":
    """Nats of the likelihood bound over the noise level; the area of a block is its share.

    Args:
        curve: `sigma_high`, `sigma_low`, `block` and `nats_per_log_sigma` of each stratum, levels decreasing.
        level: name of a level: "sigma" or "the masking probability".
    """
    figure, axes = _level_axes(level)
    for block, group in groupby(curve, key=lambda step: step["block"]):
        steps = list(group)
        edges = [steps[0]["sigma_high"], *(step["sigma_low"] for step in steps)]
        values = [step["nats_per_log_sigma"] for step in steps]
        axes.stairs(values, edges, color=colour_of(block), fill=True, alpha=0.6, label=f"block {block}")
    boundaries = [after["sigma_high"] for before, after in pairwise(curve) if before["block"] < after["block"]]
    _finish(axes, boundaries, f"nats per unit of ln {_LEVELS[level][0]}")
    axes.set_ylim(bottom=0)
    return figure


def loss_figure(levels: Sequence[dict[str, Any]], boundaries: Sequence[float], unit: str) -> "Figure":
    """Loss with the right condition and with that of another sample.

    Args:
        levels: `sigma`, `block`, `loss` and `loss_shuffled` of each level, levels decreasing.
        boundaries: levels between two blocks.
        unit: unit of the loss without the weight.
    """
    figure, axes = _level_axes()
    for block, group in groupby(levels, key=lambda level: level["block"]):
        rows = list(group)
        sigmas = [row["sigma"] for row in rows]
        axes.plot(sigmas, [row["loss"] for row in rows], "o-", color=colour_of(block), ms=3, label=f"block {block}")
        axes.plot(sigmas, [row["loss_shuffled"] for row in rows], "x--", color=colour_of(block), ms=4)
    _finish(axes, boundaries, unit)
    if any(row["loss"] > 0 or row["loss_shuffled"] > 0 for row in levels):
        axes.set_yscale("log")
    axes.set_title("loss without weight; dashed: with the condition of another sample", fontsize=9)
    return figure


def samples_figure(images: Tensor, data: ImageSpec, num_columns: int, real: Tensor | None = None) -> "Figure":
    """Images with the number of the class above each column, below a row of real ones; a pixel is a whole of pixels.

    Args:
        images: raw images [N, channels, height, width], row by row, image i of class i modulo `num_columns`.
        data: data set of the images.
        num_columns: number of columns, each of one class.
        real: raw images [num_columns, channels, height, width], one of each class.
    """
    from matplotlib.figure import Figure

    rows = images if real is None else torch.cat([real.to(images), images])
    grid = image_grid(rows, data, num_columns)
    height, width = grid.shape[1:]
    left, top = (0 if real is None else 80), 24  # pixels for the labels
    figure = Figure(figsize=((width + left) / DPI, (height + top) / DPI), dpi=DPI)
    axes = figure.add_axes((left / (width + left), 0, width / (width + left), height / (height + top)))
    axes.imshow(grid.permute(1, 2, 0).expand(-1, -1, 3).numpy(), interpolation="nearest", aspect="auto")
    num_columns = min(num_columns, len(rows))
    cell = (width - 2) / num_columns
    axes.set_xticks(
        [2 + cell * (column + 0.5) - 1.5 for column in range(num_columns)],
        [str(column) for column in range(num_columns)],
    )
    if real is not None:
        axes.axhline(cell + 0.5, color=colour_of(1), linewidth=2)
    marks = [] if real is None else [(0.5, "real"), (min(1.5, height / cell), "generated")]
    axes.set_yticks([cell * place for place, _ in marks], [text for _, text in marks])
    axes.tick_params(length=0, labelsize=8, labeltop=True, labelbottom=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


def curves_figure(losses: Mapping[str, Mapping[str, Sequence[Mapping[str, float]]]]) -> "Figure":
    """Training and validation loss over optimizer steps, a panel for each part: losses of other levels differ in scale.

    Args:
        losses: title of each part -> points of `train` and `validation`, each with `step` and `loss`.
    """
    from matplotlib.figure import Figure

    columns = min(4, len(losses))
    rows = -(-len(losses) // columns)
    figure = Figure(figsize=(max(5, 2.7 * columns), 2.4 * rows + 0.4), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for number, (panel, (title, curves)) in enumerate(zip(panels, losses.items(), strict=False)):
        for (name, points), style in zip(curves.items(), ("-", "o--"), strict=True):
            values = [point["step"] for point in points], [point["loss"] for point in points]
            shade = colour_of(number) if name == "train" else "black"
            panel.plot(*values, style, color=shade, linewidth=1, ms=3, label=name)
        panel.set_title(title, fontsize=9)
        panel.tick_params(which="both", labelsize=8)
        if all(point["loss"] > 0 for points in curves.values() for point in points):
            panel.set_yscale("log")
            panel.yaxis.set_major_formatter("{x:.3g}")
            panel.yaxis.set_minor_formatter("{x:.3g}")
        panel.legend(fontsize=7)
    for panel in panels[len(losses) :]:
        panel.set_axis_off()
    figure.supxlabel("optimizer steps", fontsize=9)
    figure.supylabel("loss, weighted", fontsize=9)
    return figure


def trajectory_figure(trajectory: Sequence[dict[str, Any]], boundaries: Sequence[float]) -> "Figure":
    """Norm of the denoised target along the sampler's path.

    Args:
        trajectory: `sigma`, `block` and `norm` of each network call, in the order of the calls.
        boundaries: levels between two blocks.
    """
    figure, axes = _level_axes()
    sigmas = [call["sigma"] for call in trajectory]
    axes.plot(sigmas, [call["norm"] for call in trajectory], color="0.6", linewidth=1)
    for block in sorted({call["block"] for call in trajectory}):
        points = zip(*((call["sigma"], call["norm"]) for call in trajectory if call["block"] == block), strict=True)
        axes.plot(*points, "o", color=colour_of(block), ms=4, label=f"block {block}")
    axes.axhline(1, color="black", linestyle="--", linewidth=0.8, label="clean targets")
    _finish(axes, boundaries, "norm of denoised / of clean target")
    axes.set_ylim(0, max([1.1, *(1.1 * call["norm"] for call in trajectory)]))
    return figure


def _new_figure(width: float = 7, height: float = 3.2) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _level_axes(level: str = "sigma") -> "tuple[Figure, Axes]":
    """An empty figure over the logarithm of the level, high noise on the left."""
    from matplotlib.ticker import NullFormatter

    figure, axes = _new_figure()
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.invert_xaxis()
    axes.set_xlabel(_LEVELS[level][1])
    return figure, axes


def _finish(axes: "Axes", boundaries: Sequence[float], label: str) -> None:
    """Draw the levels between two blocks, label the vertical axis, and add the legend of what was drawn before."""
    for sigma in boundaries:
        axes.axvline(sigma, color="black", linestyle=":", linewidth=1)
    axes.set_ylabel(label)
    axes.legend(fontsize=8)


def steps_figure(curves: Mapping[str, Sequence[Mapping[str, Any]]], metric: str, lower_is_better: bool) -> "Figure":
    """One line for each way to train, with its range over the seeds; on a log axis where lower is better.

    Args:
        curves: points of each line by its name: `steps`, and `mean`, `min` and `max` of the metric.
        metric: name of the metric, for the axis.
        lower_is_better: whether lower values of the metric are better.
    """
    figure, axes = _new_figure()
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


def memory_quality_figure(
    points: Mapping[str, Mapping[str, Any]], unbeaten: Sequence[str], metric: str, lower_is_better: bool
) -> "Figure":
    """One point for each way to train; a step line joins those that nothing beats with as little memory.

    Args:
        points: name -> `peak_bytes` of a step, `seconds` of the training, and `mean`, `min` and `max` of the metric.
        unbeaten: names of the points that are joined, by rising memory.
        metric: name of the metric, for the axis.
        lower_is_better: whether lower values of the metric are better.
    """
    figure, axes = _new_figure(8, 3.6)
    largest = max(point["peak_bytes"] for point in points.values())
    name, unit = _unit(largest)
    corners = [(points[each]["peak_bytes"], points[each]["mean"]) for each in unbeaten]
    corners.append((largest, corners[-1][1]))
    axes.step([size / unit for size, _ in corners], [mean for _, mean in corners], where="post", color="0.6", zorder=1)
    for number, (title, point) in enumerate(points.items()):
        ends = [[abs(point["mean"] - point[end])] for end in ("min", "max")] if point["min"] < point["max"] else None
        label = f"{title}, {readable_seconds(point['seconds'])}"
        style: Any = {"fmt": _MARKERS[number // 7 % len(_MARKERS)], "color": colour_of(number), "ms": 7, "capsize": 2}
        axes.errorbar([point["peak_bytes"] / unit], [point["mean"]], ends, label=label, **style)
    values = [point["mean"] for point in points.values()]
    if lower_is_better and min(values) > 0 and max(values) > 10 * min(values):
        axes.set_yscale("log")
    axes.margins(y=0.1)
    axes.set_xlim(left=0)
    axes.set_xlabel(f"peak memory of one training step, {name}")
    axes.set_ylabel(f"{metric},\n{'lower' if lower_is_better else 'higher'} is better", fontsize=9)
    # Beside the axes: names at their points would lie on each other, since many have the memory of a block.
    figure.legend(fontsize=8, loc="outside right upper", title="training, and its time", title_fontsize=8)
    return figure


def readable_seconds(seconds: float) -> str:
    """A time such as `48 s`, `12 min` or `3.4 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


# Shapes of points, each for seven colours.
_MARKERS = ("o", "s", "^", "D")
# Binary units, in which memory is sold.
_UNITS = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10), ("B", 1))


def readable_bytes(size: float, largest: float | None = None) -> str:
    """A size such as `43.21 MiB`, in the unit that fits `largest` (by default the size itself)."""
    name, unit = _unit(size if largest is None else largest)
    return f"{size / unit:.2f} {name}"


def memory_figure(rows: Mapping[str, Mapping[str, int]]) -> "Figure":
    """One bar for each row and one colour for each category, in the given order from top to bottom and outwards.

    Args:
        rows: bytes at the peak of each category of each row, by their names.
    """
    name, unit = _unit(max(sum(row.values()) for row in rows.values()))
    figure, axes = _new_figure(8, 1.5 + 0.36 * len(rows))
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
    # Below the axes: inside, it would cover the bars where there are few.
    figure.legend(fontsize=8, ncols=len(axes.containers), loc="outside lower center")
    return figure


def _unit(size: float) -> tuple[str, int]:
    return next((name, unit) for name, unit in _UNITS if size >= unit or unit == 1)
