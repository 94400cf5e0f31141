"""Evaluate an assembled run and say what it cost."""

from typing import Any

from dbl.assembly import ModelFolder
from dbl.callbacks import Diagnostics, ImageQuality, Likelihood
from dbl.commands.block_cli import BlockCLI
from dbl.figures import save_picture
from dbl.files import read_json
from dbl.quality_by_steps import quality_by_steps
from dbl.report import Side
from dbl.run_folder import RunFolder
from dbl.stack import BlockStack


def evaluate_stack(run: RunFolder, name: str, steps: list[int] | None = None) -> Side:
    """Test the assembled network of a run (`dbl test`).

    Args:
        run: its folder; `samples.png` goes to its report folder if it makes images.
        name: of the side.
        steps: also measure the quality with these numbers of sampler steps.
    """
    cli = BlockCLI(["test", "--config", str(run.config)])
    stack = cli.model
    assert isinstance(stack, BlockStack)
    if stack.grid is not None:
        save_picture(stack.grid, run.report / "samples.png")
    contract, sampler = stack.contract, stack.inference.sampler
    calls_of_blocks = sampler.calls_per_block(contract.noise, contract.partition)
    parts = [f"block_{index}" for index in range(contract.partition.num_blocks)]
    side = Side(
        name=name,
        parts=[
            {
                "part": part,
                "layers": contract.partition.layers[index],
                "sigma_high": contract.partition.interval(index).high,
                "sigma_low": contract.partition.interval(index).low,
                **facts,
            }
            for index, (part, facts) in enumerate(zip(parts, ModelFolder(run.model).config["blocks"], strict=True))
        ],
        calls=[calls * (1 if sampler.guidance_scale == 1 else 2) for calls in calls_of_blocks],
        test=dict(cli.results[0]),
        memory=[measured_memory(run, part) for part in parts],
        image_quality=cli.callback(ImageQuality).result,
        likelihood=cli.callback(Likelihood).result,
        diagnostics=cli.callback(Diagnostics).result,
        weights=stack.weights,
    )
    if steps:
        stack.to(cli.trainer.strategy.root_device)
        with cli.trainer.precision_plugin.test_step_context():
            side.quality_by_steps = quality_by_steps(stack, cli.datamodule, cli.callback(ImageQuality), steps)
    return side


def measured_memory(run: RunFolder, part: str) -> dict[str, Any] | None:
    """`memory.json` of a part, if there is one: a training of fewer steps has not been measured."""
    path = run.memory(part)
    measured: dict[str, Any] | None = read_json(path) if path.is_file() else None
    return measured
