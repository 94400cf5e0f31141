"""`python -m docs.chain_picture RUN PICTURE`: images on their way through a trained run, and the memory of a step.

Above, one image of each of the first classes, as it enters the first block (noise) and leaves each block; below, the
planned memory of a training step of a block beside that of the whole network.
"""

import sys
from itertools import pairwise
from pathlib import Path

import torch
from matplotlib.figure import Figure, FigureBase
from matplotlib.patches import ConnectionPatch
from torch import Tensor

from dbl.commands.memory_plan import memory_plan_of
from dbl.commands.run_config import RunConfig
from dbl.denoising.targets import image_spec
from dbl.diffusion.gaussian import euler_step
from dbl.evaluation.figures import colour_of, image_grid, save_figure
from dbl.inference.stack import BlockStack
from dbl.run.folder import RunFolder
from dbl.utils.seeding import SampleDraws

_COLUMNS, _ROWS = 4, 4


def chain_picture(run: RunFolder) -> Figure:
    """The picture of a run that makes images."""
    config = RunConfig.load(run.config)
    stack = BlockStack.from_pretrained(run.model, config.inference).eval()
    states = states_between_blocks(stack)
    figure = Figure(figsize=(2.6 * len(states), 4.4), dpi=120, layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(2.6, 1))
    panels = above.subplots(1, len(states))
    for panel, (title, images) in zip(panels, states.items(), strict=True):
        grid = image_grid(images, image_spec(stack.contract.data, "PixelTarget"), _COLUMNS)
        panel.imshow(grid.permute(1, 2, 0).expand(-1, -1, 3).numpy(), interpolation="nearest")
        panel.set_title(title, fontsize=10)
        panel.set_axis_off()
    for block, (before, after) in enumerate(pairwise(panels)):
        ends = {"xyA": (1, 0.5), "xyB": (0, 0.5), "coordsA": before.transAxes, "coordsB": after.transAxes}
        above.add_artist(
            ConnectionPatch(**ends, arrowstyle="->,head_width=.4,head_length=.6", lw=3, color=colour_of(block))
        )
    _draw_memory(below, config)
    return figure


@torch.no_grad()
def states_between_blocks(stack: BlockStack) -> dict[str, Tensor]:
    """Raw images [N, channels, height, width] of the sampler's state before the first block and after each one.

    A noisy state is scaled to the standard deviation of a clean one, or its contrast would fall with the noise.
    """
    contract, inference = stack.contract, stack.inference
    indices = torch.arange(_ROWS * _COLUMNS)
    labels = indices % contract.data.num_classes
    levels = inference.sampler.levels(contract.noise)
    owners = contract.partition.block_for(levels[:-1]).tolist()
    like = torch.empty(len(indices), *stack.target.shape(contract.data), dtype=torch.float64)
    noisy = SampleDraws(inference.seed, ("start", 0), indices).normal(like) * levels[0]
    states = {"noise": _shown(stack, noisy, levels[0])}
    for (sigma, following), block in zip(pairwise(levels), owners, strict=True):
        noisy = euler_step(noisy, stack(noisy, sigma, labels), sigma, following)
        states[f"after block {block}"] = _shown(stack, noisy, following)
    return states


def _shown(stack: BlockStack, noisy: Tensor, sigma: Tensor) -> Tensor:
    sigma_data = stack.target.sigma_data  # type: ignore[attr-defined]
    return stack.space.decode(noisy * sigma_data / (sigma**2 + sigma_data**2).sqrt())


def _draw_memory(figure: FigureBase, config: RunConfig) -> None:
    peaks = {row["name"]: row["peak_bytes"] / 2**20 for row in memory_plan_of(config)["rows"]}
    num_blocks = config.contract.partition.num_blocks
    bars = {f"block {block} alone": peaks[f"{num_blocks} blocks"] for block in range(num_blocks)}
    bars["whole network at once"] = peaks["end to end"]
    axes = figure.subplots()
    axes.barh(list(bars), list(bars.values()), color=[*map(colour_of, range(num_blocks)), "0.6"])
    for place, size in enumerate(bars.values()):
        axes.text(size, place, f" {size:.1f} MiB", va="center", fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.set_xticks([])
    axes.tick_params(labelsize=9, length=0)
    axes.set_title("memory of a training step", fontsize=10, loc="left")


if __name__ == "__main__":
    run, picture = sys.argv[1:]
    save_figure(chain_picture(RunFolder.at(run)), Path(picture))
