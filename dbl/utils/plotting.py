"""Colours and saving, shared by all figures."""

from pathlib import Path
from typing import TYPE_CHECKING

from dbl.utils.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The colour-blind safe palette of Okabe and Ito: blue, orange, green, purple, light blue, red, yellow.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")


DPI = 120  # of saved figures


def colour_of(number: int) -> str:
    """Colour-blind safe colour `#RRGGBB` of a block or line; repeats after seven."""
    return _COLOURS[number % len(_COLOURS)]


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a figure as PNG."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)
