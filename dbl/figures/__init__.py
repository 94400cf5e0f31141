"""Pictures: matplotlib figures and grids of images. Matplotlib is imported only when one is drawn."""

from dbl.figures.images import image_grid, save_picture
from dbl.figures.noise import partition_figure
from dbl.figures.style import COLOURS, save_figure

__all__ = ["COLOURS", "image_grid", "partition_figure", "save_figure", "save_picture"]
