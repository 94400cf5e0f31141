"""Figures of a report whose parts must not hide each other."""

import pytest
import torch

import dbl
from dbl.evaluation.figures import curves_figure, memory_figure, samples_figure
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
