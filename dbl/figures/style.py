"""What the pictures of a report have in common."""

from pathlib import Path
from typing import TYPE_CHECKING

from dbl.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Colour-blind safe: blue, orange, green, purple, light blue, red and yellow of Okabe and Ito. Block b has the b-th.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a figure as PNG."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
