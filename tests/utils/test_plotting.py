"""Colours and saved figures."""

from pathlib import Path

import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread

from dbl.utils.plotting import colour_of, save_figure


def test_seven_colours_differ_and_then_repeat() -> None:
    """Catches two neighbouring blocks of one colour, and an index beyond the palette."""
    colours = [colour_of(number) for number in range(7)]
    assert len(set(colours)) == 7
    assert [colour_of(number) for number in range(7, 14)] == colours


def test_neighbouring_colours_differ_in_brightness_or_hue() -> None:
    """Catches colours that no eye tells apart."""
    for number in range(7):
        first, second = to_rgb(colour_of(number)), to_rgb(colour_of(number + 1))
        assert sum(abs(one - two) for one, two in zip(first, second, strict=True)) > 0.4


def test_a_figure_is_saved_as_png_of_its_size(tmp_path: Path) -> None:
    """Catches another format or resolution, and a temporary file that is left."""
    path = tmp_path / "folder" / "figure.png"
    save_figure(Figure(figsize=(2, 1)), path)
    assert imread(path).shape[:2] == (120, 240)
    assert [entry.name for entry in path.parent.iterdir()] == ["figure.png"]


def test_a_figure_that_cannot_be_drawn_leaves_the_old_one(tmp_path: Path) -> None:
    """Catches half a picture in place of a whole one."""
    path = tmp_path / "figure.png"
    save_figure(Figure(figsize=(1, 1)), path)
    before = path.read_bytes()
    figure = Figure()
    figure.suptitle("$unclosed_{$")
    with pytest.raises(ValueError, match="unclosed"):
        save_figure(figure, path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["figure.png"]
