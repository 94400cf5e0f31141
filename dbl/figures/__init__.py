"""Pictures: matplotlib figures and grids of images. Matplotlib is imported only when one is drawn."""

from dbl.figures.images import image_grid, save_picture
from dbl.figures.levels import likelihood_figure, loss_figure, trajectory_figure
from dbl.figures.memory import memory_figure, readable_bytes
from dbl.figures.noise import partition_figure
from dbl.figures.steps import steps_figure
from dbl.figures.style import colour_of, save_figure

__all__ = [
    "colour_of",
    "image_grid",
    "likelihood_figure",
    "loss_figure",
    "memory_figure",
    "partition_figure",
    "readable_bytes",
    "save_figure",
    "save_picture",
    "steps_figure",
    "trajectory_figure",
]
