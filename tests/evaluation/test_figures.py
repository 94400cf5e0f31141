"""Figures of a report whose parts must not hide each other."""

import pytest

from dbl.evaluation.figures import memory_figure
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
