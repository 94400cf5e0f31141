"""Pictures: the partition over its noise distribution, and grids of images."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dbl.data_spec import DataSpec
from dbl.files import replacing
from dbl.noise import NoiseDistribution
from dbl.partition import Partition

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def partition_figure(noise: NoiseDistribution, partition: Partition, block: int | None = None) -> "Figure":
    """The density of ln sigma with each block's interval, and the training interval of one block if asked."""
    from matplotlib.figure import Figure

    logs = torch.linspace(math.log(noise.sigma_min), math.log(noise.sigma_max), 200, dtype=torch.float64)
    sigmas, density = logs.exp(), torch.gradient(noise.cdf(logs.exp()), spacing=(logs,))[0]
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(sigmas, density, color="black", linewidth=1.2)
    for index in range(partition.num_blocks):
        low, high = partition.interval(index)
        inside = (sigmas >= low) & (sigmas <= high)
        label = f"block {index}: {high:.3g} to {low:.3g}, {partition.layers[index]} layers"
        # Colour-blind safe: blue, orange, green of Okabe and Ito, and so on.
        axes.fill_between(sigmas, density, where=inside.tolist(), color=_COLOURS[index % len(_COLOURS)], label=label)
    if block is not None:
        for end in partition.training_interval(block):
            axes.axvline(end, color="black", linestyle=":", linewidth=1)
        axes.set_title(f"dotted: levels that block {block} trains on (overlap {partition.overlap:g})", fontsize=9)
    axes.set_xscale("log")
    axes.invert_xaxis()
    axes.set_xlabel("noise level sigma (high noise first)")
    axes.set_ylabel("density of ln sigma")
    axes.legend(fontsize=8)
    return figure


_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")


def image_grid(images: Tensor, data: DataSpec, num_columns: int) -> Tensor:
    """Raw images [N, channels, height, width] as one picture [1 or 3, H, W] of type uint8, row by row.

    Images of 1 or 3 channels are taken as pixels from 0 to 255. Of latents the first three channels are shown, each
    scaled to its measured mean and 2.5 standard deviations. Small images are enlarged by whole factors.
    """
    from torchvision.utils import make_grid

    if images.shape[1] not in (1, 3):
        mean, std = (torch.tensor(values, device=images.device)[:3, None, None] for values in (data.mean, data.std))
        scaled = ((images[:, :3] - mean) / (2.5 * std) + 1) * 127.5
        images = scaled if scaled.shape[1] == 3 else scaled[:, :1]
    factor = max(1, 48 // images.shape[-1])
    large = images.repeat_interleave(factor, dim=-2).repeat_interleave(factor, dim=-1)
    grid = make_grid(large.float().clamp(0, 255), nrow=num_columns, padding=2, pad_value=128)
    return grid.round().to(torch.uint8)


def save_picture(picture: Tensor, path: Path) -> None:
    """Write a picture [1 or 3, H, W] of type uint8 as PNG."""
    from torchvision.io import write_png

    with replacing(path) as temporary:
        write_png(picture.cpu(), str(temporary))
