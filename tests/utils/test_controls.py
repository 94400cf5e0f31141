"""Sliders of a notebook, without a browser: what is shown first, and what replaces it when a control is moved."""

import sys
from base64 import b64decode
from typing import Any

import ipywidgets
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure

from dbl.utils.controls import interact
from dbl.utils.errors import UserError


class _Shown:
    """Stands for the output of a cell: what was displayed, in order, and what it was replaced with."""

    def __init__(self) -> None:
        self.values: list[Any] = []

    def __call__(self, value: Any, raw: bool = False, display_id: bool = False) -> "_Shown":
        self.values.append(value)
        return self

    def update(self, value: Any, raw: bool = False) -> None:
        self.values.append(value)

    @property
    def controls(self) -> dict[str, Any]:
        return {control.description: control for control in self.values[0].children}


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> _Shown:
    shown = _Shown()
    monkeypatch.setattr("IPython.display.display", shown)
    return shown


def test_a_moved_control_replaces_what_is_shown(shown: _Shown) -> None:
    """Catches a picture that a page without a browser does not have, and a slider that changes nothing."""

    def words(num_blocks: int = 3, noise: str = "uniform", overlap: float = 0.1) -> str:
        return f"{num_blocks} {noise} {overlap}"

    interact(words, num_blocks=(1, 6), noise=["log-normal", "uniform"], overlap=(0, 0.5, 0.1))
    assert shown.values[1:] == [{"text/plain": "3 uniform 0.1"}]
    shown.controls["num blocks"].value = 5
    shown.controls["noise"].value = "log-normal"
    assert shown.values[2:] == [{"text/plain": "5 uniform 0.1"}, {"text/plain": "5 log-normal 0.1"}]
    assert shown.controls["num blocks"].max == 6
    assert not shown.controls["overlap"].continuous_update  # drawn once, not for every pixel of the way


def test_a_figure_is_stored_as_a_picture_and_shown_once(shown: _Shown) -> None:
    """Catches a figure that a notebook shows as `<Figure size ...>`, and one that pyplot shows a second time."""
    before = pyplot.get_fignums()
    interact(lambda width: Figure(figsize=(width, 1)), width=(1, 3))
    interact(lambda width: pyplot.figure(figsize=(width, 1)), width=(1, 3))
    for output in (shown.values[1], shown.values[3]):
        assert b64decode(output["image/png"]).startswith(b"\x89PNG")
    assert pyplot.get_fignums() == before


def test_other_values_are_shown_as_a_notebook_would(shown: _Shown) -> None:
    """Catches a value that is shown as a text of Python."""
    from IPython.display import Markdown

    interact(lambda n: Markdown(f"**{n}**"), n=(2, 4))
    assert shown.values[1]["text/markdown"] == "**3**"


def test_a_wrong_value_is_said_in_place_of_the_picture(shown: _Shown) -> None:
    """Catches an error that vanishes in the log of Jupyter, as those of callbacks do."""

    def half(n: int = 4) -> str:
        if n % 2:
            raise UserError(f"n ({n}) must be even: move the slider")
        return str(n // 2)

    interact(half, n=ipywidgets.IntSlider(4, 0, 9))
    shown.controls["n"].value = 5
    assert shown.values[1:] == [{"text/plain": "2"}, {"text/plain": "n (5) must be even: move the slider"}]


def test_what_cannot_be_a_control_is_refused(shown: _Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a traceback from inside of ipywidgets, and one where it is not installed."""
    with pytest.raises(UserError, match="n must be what ipywidgets"):
        interact(lambda n: str(n), n=object())
    with pytest.raises(UserError, match="m is no argument"):
        interact(lambda n: str(n), m=(1, 2))
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with pytest.raises(UserError, match=r"needs the package `ipywidgets`: pip install .*\[notebook\]"):
        interact(lambda n: str(n), n=(1, 2))
