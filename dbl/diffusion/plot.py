"""Figure of a partition over its noise distribution."""

import math
from typing import TYPE_CHECKING

import torch

from dbl.diffusion.masking import MaskingNoise
from dbl.diffusion.noise import NoiseDistribution
from dbl.diffusion.partition import Partition
from dbl.utils.plotting import colour_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def partition_figure(noise: NoiseDistribution, partition: Partition, block: int | None = None) -> "Figure":
    """Plot the density of ln sigma with each block's interval, and the training interval of `block` if given."""
    from matplotlib.figure import Figure  # slow to import, and only reports and TensorBoard need it

    logs = torch.linspace(math.log(noise.sigma_min), math.log(noise.sigma_max), 200, dtype=torch.float64)
    sigmas, density = logs.exp(), torch.gradient(noise.cdf(logs.exp()), spacing=(logs,))[0]
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(sigmas, density, color="black", linewidth=1.2)
    for index in range(partition.num_blocks):
        low, high = partition.interval(index)
        inside = (sigmas >= low) & (sigmas <= high)
        label = f"block {index}: {high:.3g} to {low:.3g}, {partition.layers[index]} layers"
        axes.fill_between(sigmas, density, where=inside.tolist(), color=colour_of(index), label=label)
    if block is not None:
        for end in partition.training_interval(block):
            axes.axvline(end, color="black", linestyle=":", linewidth=1)
        axes.set_title(f"dotted: levels that block {block} trains on (overlap {partition.overlap:g})", fontsize=9)
    axes.set_xscale("log")
    axes.invert_xaxis()
    masking = isinstance(noise, MaskingNoise)
    axes.set_xlabel("masking probability m (all hidden first)" if masking else "noise level sigma (high noise first)")
    axes.set_ylabel("density of ln m" if masking else "density of ln sigma")
    axes.legend(fontsize=8)
    return figure
