"""Figures of a report whose parts must not hide each other."""

import pytest
import torch

import dbl
from dbl.evaluation.figures import curves_figure, memory_figure, memory_quality_figure, samples_figure
from dbl.evaluation.report.facts import unbeaten
from dbl.training.memory.tracker import CATEGORIES


@pytest.mark.parametrize("num_rows", [1, 2, 8])
def test_the_legend_of_memory_hides_no_bar(num_rows: int) -> None:
    """Catches a legend inside the axes, which covers the bar if there is only one."""
    rows = {f"row {row}": dict.fromkeys(CATEGORIES, 1000 * (row + 1)) for row in range(num_rows)}
    figure = memory_figure(rows)
    figure.draw_without_rendering()
    axes = figure.axes[0]
    legends = [legend for legend in (axes.get_legend(), *figure.legends) if legend is not None]
    assert [text.get_text() for text in legends[0].get_texts()] == list(CATEGORIES)
    frame = legends[0].get_window_extent()
    assert not frame.overlaps(axes.get_window_extent())
    assert figure.bbox.containsx(frame.x0)
    assert figure.bbox.containsx(frame.x1)


_DATA = dbl.ImageSpec("toy", "toy-1", 10, (0.1,) * 10, shape=(1, 8, 8), mean=(0.0,), std=(1.0,))


@pytest.mark.parametrize(("num_images", "with_real"), [(30, True), (30, False), (4, True), (4, False)])
def test_samples_have_the_label_of_their_column(num_images: int, with_real: bool) -> None:
    """Catches samples without classes, labels beside their columns, and samples that pass for real images."""
    real = torch.full((10, 1, 8, 8), 255.0) if with_real else None
    figure = samples_figure(torch.zeros(num_images, 1, 8, 8), _DATA, 10, real)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    labels = [text.get_text() for text in axes.get_xticklabels()]
    assert labels == [str(label) for label in range(10 if with_real or num_images > 10 else num_images)]
    assert [text.get_text() for text in axes.get_yticklabels()] == (["real", "generated"] if with_real else [])
    picture = axes.images[0].get_array()
    assert picture is not None
    for x in axes.get_xticks():  # the middle of an image is not the grey between two of them
        assert picture[25, round(x), 0] == (255 if with_real else 0)
    boxes = [text.get_window_extent() for text in (*axes.get_xticklabels(), *axes.get_yticklabels())]
    assert all(figure.bbox.contains(box.x0, box.y0) and figure.bbox.contains(box.x1, box.y1) for box in boxes)


@pytest.mark.parametrize("num_parts", [1, 3, 6])
def test_each_part_has_a_panel_with_both_losses(num_parts: int) -> None:
    """Catches losses of several blocks in one panel, where their scales differ, and empty panels."""
    losses = {f"block {b}": {"train": [{"step": 1, "loss": 1.0 + b}], "validation": []} for b in range(num_parts)}
    shown = [axes for axes in curves_figure(losses).axes if axes.axison]
    assert [axes.get_title() for axes in shown] == list(losses)
    assert [float(axes.lines[0].get_ydata()[0]) for axes in shown] == [1.0 + b for b in range(num_parts)]


def _points(values: dict[str, tuple[int, float]]) -> dict[str, dict[str, float]]:
    return {
        name: {"peak_bytes": size, "seconds": 90.0, "mean": mean, "min": mean - 0.01, "max": mean + 0.01}
        for name, (size, mean) in values.items()
    }


def test_the_unbeaten_are_those_that_nothing_beats_with_as_little_memory() -> None:
    """Catches an arm that needs more and is worse, a tie that is listed twice, and the wrong direction."""
    points = _points({"whole": (9, 0.8), "blocks": (3, 0.7), "one": (3, 0.75), "waste": (6, 0.75), "tiny": (1, 0.2)})
    assert unbeaten(points, lower_is_better=False) == ["tiny", "one", "whole"]
    assert unbeaten(points, lower_is_better=True) == ["tiny"]
    assert unbeaten({}, lower_is_better=True) == []


@pytest.mark.parametrize("num_arms", [2, 15])
def test_each_arm_is_a_point_of_its_own_with_its_time(num_arms: int) -> None:
    """Catches arms that look alike, points outside the picture, and a legend that hides one."""
    points = _points({f"arm {arm}": ((1 + arm % 4) * 2**20, 0.5 + arm / 50) for arm in range(num_arms)})
    figure = memory_quality_figure(points, unbeaten(points, False), "accuracy", lower_is_better=False)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    markers = [container.lines[0] for container in axes.containers]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in markers] == [
        (point["peak_bytes"] / 2**20, point["mean"]) for point in points.values()
    ]
    assert len({(line.get_color(), line.get_marker()) for line in markers}) == num_arms
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [f"{name}, 90 s" for name in points]
    frame = legend.get_window_extent()
    assert not frame.overlaps(axes.get_window_extent())
    assert figure.bbox.contains(frame.x0, frame.y0)
    assert figure.bbox.contains(frame.x1, frame.y1)
