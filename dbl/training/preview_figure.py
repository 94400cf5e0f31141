"""Rows of images with their titles."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dbl.data.spec import ImageSpec
from dbl.inference.grid import image_grid
from dbl.utils.plotting import DPI

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TITLE_WIDTH = 90  # pixels


def denoising_figure(titles: Sequence[str], rows: Sequence[Tensor], data: ImageSpec) -> "Figure":
    """Rows of images below each other, at their own resolution or enlarged by a whole factor.

    Args:
        titles: one for each row.
        rows: raw images [N, channels, height, width] of each row.
        data: data set of the images.
    """
    from matplotlib.figure import Figure

    grid = image_grid(torch.cat(list(rows)), data, num_columns=len(rows[0]))
    height, width = grid.shape[1:]
    whole = width + _TITLE_WIDTH
    figure = Figure(figsize=(whole / DPI, height / DPI), dpi=DPI)
    axes = figure.add_axes((_TITLE_WIDTH / whole, 0, width / whole, 1))
    axes.imshow(grid.permute(1, 2, 0).expand(-1, -1, 3).numpy(), interpolation="nearest", aspect="auto")
    axes.set_xticks([])
    axes.set_yticks([height / len(rows) * (row + 0.5) for row in range(len(rows))], list(titles))
    axes.tick_params(length=0, labelsize=8)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure
