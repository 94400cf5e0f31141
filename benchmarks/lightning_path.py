"""What a training step costs beside its arithmetic: `dbl fit` with all its callbacks, against a plain loop.

Both train a block of equal sizes on the same kind of batches, one step in turn: a callback, the last one, takes a plain
step after each step of the training. Medians leave out the steps that log, validate or write a checkpoint.

    python -m benchmarks.lightning_path
"""

import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import nn

from benchmarks.timing import Call, config_of, print_figures
from dbl.commands.fit import fit_part
from dbl.data import ResumableDataModule
from dbl.training.block import DiffusionBlock, NoisyBatch
from dbl.utils.files import read_json, write_json

# Steps before those that count; the callback `Memory` measures one of them.
_WARM_UP = 10
_TINY = ["--contract.network.init_args.width=16", "--contract.network.init_args.num_heads=2"]
# AdamW without `fused` reads its own counters, which stay on the CPU on any device.
_FUSED = "--model.recipe.optimizer.init_args.fused=true"


class PlainSteps(L.Callback):
    """Takes a step of a plain loop after each step of the training, and notes the process time of both.

    Args:
        output: JSON file for the median seconds of a step, `lightning` and `plain`.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self.seconds: list[tuple[float, float]] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Prepare a second block with data of its own."""
        assert isinstance(pl_module, DiffusionBlock)
        noisy_data: Any = trainer.datamodule  # type: ignore[attr-defined]
        self.step = plain_step(DiffusionBlock(pl_module.contract, pl_module.index, pl_module.recipe), noisy_data.data)
        self.left = time.process_time()

    def on_train_batch_end(self, *_: Any) -> None:
        """Take the time of the training's step, then that of a plain one."""
        arrived = time.process_time()
        self.step()
        now = time.process_time()
        self.seconds.append((arrived - self.left, now - arrived))
        self.left = time.process_time()

    def on_train_end(self, *_: Any) -> None:
        """Write the medians."""
        columns = zip(*self.seconds[_WARM_UP:], strict=True)
        write_json(self.output, dict(zip(("lightning", "plain"), map(statistics.median, columns), strict=True)))


def plain_step(block: DiffusionBlock, data: ResumableDataModule) -> Call:
    """A step as one would write it without a trainer: batch, noise, loss, backward, clipping, optimizer."""
    optimizer = block.recipe.make_optimizer(block)
    batches, generator = _endless(data), torch.Generator()

    def step() -> None:
        batch = next(batches)
        clean = block.space.encode(batch)
        sigma = block.contract.noise.sample(block.interval, len(clean.clean), generator).float()
        noise = torch.randn(clean.clean.shape, generator=generator)
        noisy = block.space.corrupt(clean.clean, noise, sigma)
        block.losses(NoisyBatch(clean, noisy, sigma)).per_sample.mean().backward()
        if block.recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(block.parameters(), block.recipe.clip_norm)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _endless(data: ResumableDataModule) -> Iterator[Any]:
    while True:
        yield from data.train_dataloader()


def step_seconds(num_steps: int, *options: str) -> dict[str, float]:
    """Median seconds of a step of `dbl fit` on digits DiT, `lightning`, and of the plain loop, `plain`."""
    return _fit("lightning_path.PlainSteps", {}, num_steps, *options)


def reads_in_a_step() -> int:
    """How often the host reads a number in a step that does not log."""
    return int(_fit("host_reads.ReadsInSteps", {"num_steps": 5}, 12, *_TINY, _FUSED)["reads"])


def _fit(callback: str, arguments: dict[str, Any], num_steps: int, *options: str) -> dict[str, Any]:
    """What a callback of this package wrote in a training of a block of digits DiT."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "figures.json"
        chosen = [{"class_path": f"benchmarks.{callback}", "init_args": arguments | {"output": str(output)}}]
        settings = [f"--trainer.max_steps={num_steps}", "--trainer.accelerator=cpu", f"--run.root={folder}"]
        fit_part(config_of("digits_dit", *settings, f"--trainer.callbacks={json.dumps(chosen)}", *options))
        return dict(read_json(output))


def figures(num_steps: int = 100, num_tiny_steps: int = 400) -> dict[str, float]:
    """Lightning / plain, milliseconds that it adds to a tiny step, and reads in a step."""
    usual, tiny = step_seconds(num_steps), step_seconds(num_tiny_steps, *_TINY)
    return {
        "Lightning path / plain loop, digits DiT": usual["lightning"] / usual["plain"],
        "milliseconds of a plain step, tiny DiT": 1000 * tiny["plain"],
        "milliseconds above a plain step, tiny DiT": 1000 * (tiny["lightning"] - tiny["plain"]),
        "host reads in a step that does not log": reads_in_a_step(),
    }


if __name__ == "__main__":
    print_figures(figures)
