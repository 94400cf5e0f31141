"""Ratios of time and memory: a block, or all blocks, against the whole network.

Ratios hold from machine to machine better than seconds do: both arms are measured in turn, in one process.

    python -m benchmarks.block_against_whole --config configs/digits_dit.yaml
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dbl.commands.parsing import parse
from dbl.commands.run_config import RunConfig
from dbl.commands.schema import config_parser
from dbl.data import ResumableDataModule
from dbl.data.spec import ImageSpec, TextSpec
from dbl.denoising.decoding import Decoding
from dbl.denoising.targets import PixelTarget
from dbl.diffusion.partition import PartitionConfig
from dbl.inference.generation import TextGenerator
from dbl.inference.settings import InferenceConfig
from dbl.inference.stack import BlockStack
from dbl.run.contract import Contract
from dbl.training.baselines.text import EndToEndText
from dbl.training.memory.planner import Planner
from dbl.training.memory.synthetic_step import SyntheticStep
from dbl.utils.files import write_json

Call = Callable[[], object]


def main() -> None:
    """Measure, print, and write JSON."""
    options = _options()
    config = RunConfig(parse(config_parser(), ["--config", options.config]))
    planner = Planner(config.contract_config, config.data.spec, config.recipe)
    partition = planner.partition_config(options.blocks or config.contract_config.partition.num_blocks)
    results: dict[str, Any] = {
        "config": options.config,
        "blocks": partition.num_blocks,
        "batch": options.batch,
        "threads": torch.get_num_threads(),
        **training(planner, partition, options.batch, options.repeats),
        "sampling": ratio(*samplings(config, planner, partition, options.samples), 1),
        "data_samples_per_second": round(samples_per_second(config.data)),
        "help_seconds": round(help_seconds(), 2),
    }
    for name, value in results.items():
        print(f"{name:36} {_readable(value)}")
    write_json(Path(options.output), results)
    print(f"written: {options.output}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", default="configs/digits_dit.yaml", help="config to measure")
    parser.add_argument("--blocks", type=int, default=None, help="B; by default the config's")
    parser.add_argument("--samples", type=int, default=256, help="images to sample or classify, or tokens to write")
    parser.add_argument("--batch", type=int, default=128, help="samples in a training step")
    parser.add_argument("--repeats", type=int, default=15, help="training steps of each arm")
    parser.add_argument("--output", default="runs/bench.json", help="where the JSON goes")
    return parser.parse_args()


def _readable(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    return "   ".join(f"{name} {number:.4g}" for name, number in value.items())


def training(planner: Planner, partition: PartitionConfig, batch: int, repeats: int) -> dict[str, dict[str, float]]:
    """Time and peak memory of a training step: a block against the whole, and against the whole with checkpointing."""
    saving = replace(planner.recipe, activation_checkpointing=True)
    parts = planner.block(partition, planner.recipe), planner.end_to_end(planner.recipe), planner.end_to_end(saving)
    block, whole, checkpointed = (SyntheticStep(make(), planner.data, batch) for make in parts)
    peaks = [sum(step.peak().values()) for step in (block, whole, checkpointed)]
    return {
        "training_step": ratio(block, whole, repeats),
        "training_step_against_checkpointing": ratio(block, checkpointed, repeats),
        "peak_memory": {"block": peaks[0], "whole": peaks[1], "ratio": peaks[0] / peaks[1]},
        "peak_memory_against_checkpointing": {"block": peaks[0], "whole": peaks[2], "ratio": peaks[0] / peaks[2]},
    }


def ratio(block: Call, whole: Call, repeats: int) -> dict[str, float]:
    """Median seconds of both, in turn, after one call of each to warm up."""
    block(), whole()
    times = [(seconds(block), seconds(whole)) for _ in range(repeats)]
    block_s, whole_s = (statistics.median(column) for column in zip(*times, strict=True))
    return {"block": block_s, "whole": whole_s, "ratio": block_s / whole_s}


def seconds(call: Call) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def samplings(config: RunConfig, planner: Planner, partition: PartitionConfig, samples: int) -> tuple[Call, Call]:
    """Answers of untrained blocks and of the untrained whole: the time does not depend on the weights."""
    whole = planner.end_to_end(planner.recipe)()
    if not isinstance(whole, EndToEndText):
        return sampling(config, planner, partition, samples), sampling(
            config, planner, PartitionConfig(num_blocks=1), samples
        )
    num_tokens = min(samples, whole.text.seq_len - 1)
    return sampling(config, planner, partition, num_tokens), writing(
        whole.eval().text_generator(Decoding()), num_tokens
    )


def writing(generator: TextGenerator, num_tokens: int) -> Call:
    """Write one text."""
    return lambda: generator.generate(torch.zeros(1, 1, dtype=torch.int64), num_tokens, torch.arange(1))


def sampling(config: RunConfig, planner: Planner, partition: PartitionConfig, samples: int) -> Call:
    """Answer with an untrained stack: images, classes or tokens."""
    contract: Contract = replace(config.contract_config, partition=partition).build(planner.data)
    inference: InferenceConfig = config.inference
    stack = BlockStack(contract, lambda block: contract.denoiser(block).eval(), inference).eval()
    if isinstance(contract.data, TextSpec):
        return writing(stack.text_generator(Decoding()), min(samples, contract.data.seq_len - 1))
    indices = torch.arange(samples)
    if isinstance(contract.config.target, PixelTarget):
        return lambda: stack.generate(indices % contract.data.num_classes, indices)
    assert isinstance(contract.data, ImageSpec)
    pictures = torch.zeros(samples, *contract.data.shape)
    return lambda: stack.classify(pictures, indices)


def samples_per_second(data: ResumableDataModule, budget_s: float = 3.0) -> float:
    """Training samples that the loader gives, with its augmentations, without a network."""
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < budget_s:
        for batch in data.train_dataloader():
            count += len(batch["index"])
            if time.perf_counter() - start >= budget_s:
                break
    return count / (time.perf_counter() - start)


def help_seconds() -> float:
    """Start-up time of the command line: the second of two calls, when files are in the system's cache."""
    call = [sys.executable, "-m", "dbl", "--help"]
    return [seconds(lambda: subprocess.run(call, check=True, capture_output=True)) for _ in range(2)][1]


if __name__ == "__main__":
    main()
