"""Time of a block against the whole network at equal layers: a training step, and sampling.

Run `make bench`, or `python -m benchmarks.block_against_whole --config configs/digits_dit.yaml --blocks 3`. It prints a
table and one line of JSON. Both sides take turns, so that a change in the machine's load meets both; the ratio is that
of the medians.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from dbl.commands.run_cli import RunCLI
from dbl.contract import Contract
from dbl.partition import Cut
from dbl.stack import BlockStack, Inference
from dbl.targets import Clean


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/digits_dit.yaml", help="config of a DiT")
    parser.add_argument("--blocks", type=int, default=3, help="B")
    parser.add_argument("--images", type=int, default=256, help="images to sample")
    parser.add_argument("--batch", type=int, default=128, help="images in a training step")
    parser.add_argument("--repeats", type=int, default=15, help="training steps of each side")
    options = parser.parse_args()
    config = RunCLI(["--config", options.config])
    whole, parts = (
        replace(config.terms, partition=Cut(num_blocks=blocks)).settle(config.data.spec)
        for blocks in (1, options.blocks)
    )
    step = ratio(training_step(parts, options.batch), training_step(whole, options.batch), options.repeats)
    images = ratio(
        sampling(parts, config.inference, options.images), sampling(whole, config.inference, options.images), 1
    )
    results = {"training_step": step, "sampling": images}
    for name, result in results.items():
        print(
            f"{name:14} block {result['block_s']:.3f} s   whole {result['whole_s']:.3f} s   ratio {result['ratio']:.3f}"
        )
    print(json.dumps({"blocks": options.blocks, "threads": torch.get_num_threads(), **results}))


def ratio(block: Callable[[], object], whole: Callable[[], object], repeats: int) -> dict[str, float]:
    """Median seconds of both, in turn, after one call of each to warm up."""
    block(), whole()
    times = [(seconds(block), seconds(whole)) for _ in range(repeats)]
    block_s, whole_s = (statistics.median(column) for column in zip(*times, strict=True))
    return {"block_s": block_s, "whole_s": whole_s, "ratio": block_s / whole_s}


def seconds(call: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def training_step(contract: Contract, batch: int) -> Callable[[], object]:
    """Forward, backward and AdamW step of block 0 on random images."""
    denoiser = contract.denoiser(0).train()
    optimizer = torch.optim.AdamW(denoiser.parameters())
    images = torch.randn(batch, *contract.data.shape)
    labels = torch.arange(batch) % contract.data.num_classes
    sigma = contract.noise.sample(contract.partition.interval(0), batch, torch.Generator().manual_seed(0)).float()
    noisy = images + sigma.reshape(-1, 1, 1, 1) * torch.randn_like(images)

    def step() -> None:
        denoiser.loss(Clean(images, labels, labels), noisy, sigma).mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def sampling(contract: Contract, inference: Inference, images: int) -> Callable[[], object]:
    """Generate images with an untrained stack: the time does not depend on the weights."""
    stack = BlockStack(contract, lambda block: contract.denoiser(block).eval(), inference).eval()
    labels = torch.arange(images) % contract.data.num_classes
    return lambda: stack.generate(labels, torch.arange(images))


if __name__ == "__main__":
    main()
