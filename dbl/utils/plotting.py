"""What the pictures of a report have in common."""

from pathlib import Path
from typing import TYPE_CHECKING

from dbl.utils.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Blue, orange, green, purple, light blue, red and yellow of Okabe and Ito.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")


def colour_of(number: int) -> str:
    """A colour-blind safe colour as `#RRGGBB`: of block `number`, or of the line `number`; seven, then again."""
    return _COLOURS[number % len(_COLOURS)]


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a figure as PNG."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
