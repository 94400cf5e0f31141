"""All blocks against the whole network: seconds of a training step, and of images.

python -m benchmarks.blocks
"""

from dataclasses import replace

import torch

from benchmarks.timing import Call, config_of, median_seconds, planner_of, print_figures
from dbl.commands.run_config import RunConfig
from dbl.diffusion.partition import PartitionConfig
from dbl.inference.stack import BlockStack
from dbl.training.memory.synthetic_step import SyntheticStep


def figures(repeats: int = 15) -> dict[str, float]:
    """B times the seconds of a block over those of the whole network, at the batch of the config; and of sampling."""
    dit = config_of("digits_dit")
    return {
        "B x block / whole step, digits ViT, B = 3": step_ratio(config_of("digits_vit"), 3, repeats),
        "B x block / whole step, digits DiT, B = 3": step_ratio(dit, 3, repeats),
        "B x block / whole step, digits DiT, B = 12": step_ratio(dit, 12, repeats),
        "blocks / whole, 256 images in 50 steps, digits DiT, B = 3": sampling_ratio(dit),
    }


def step_ratio(config: RunConfig, num_blocks: int, repeats: int) -> float:
    """B times the seconds of a training step of one block over those of a step of the whole network.

    B steps of the block in a row, as in training, take turns with one of the whole network: alternating single steps
    would give the block cold caches at each of them.
    """
    planner = planner_of(config)
    parts = {
        "block": planner.block(planner.partition_config(num_blocks), planner.recipe),
        "whole": planner.end_to_end(planner.recipe),
    }
    calls = {name: SyntheticStep(make(), planner.data, config.data.batch_size) for name, make in parts.items()}
    seconds = median_seconds(calls, repeats, in_a_row={"block": num_blocks})
    return num_blocks * seconds["block"] / seconds["whole"]


def sampling_ratio(config: RunConfig, num_images: int = 256) -> float:
    """Seconds of images from untrained blocks over those from one block with all layers; weights do not matter."""
    whole = PartitionConfig(num_blocks=1)
    calls = {"blocks": _sampling(config, config.contract_config.partition, num_images)}
    seconds = median_seconds(calls | {"whole": _sampling(config, whole, num_images)}, repeats=1, warm_up=1)
    return seconds["blocks"] / seconds["whole"]


def _sampling(config: RunConfig, partition: PartitionConfig, num_images: int) -> Call:
    contract = replace(config.contract_config, partition=partition).build(config.data.declared_spec)
    stack = BlockStack(contract, lambda block: contract.denoiser(block).eval(), config.inference).eval()
    indices = torch.arange(num_images)
    return lambda: stack.sample_images(indices % contract.data.num_classes, indices)


if __name__ == "__main__":
    print_figures(figures)
