"""Evaluate an assembled run and say what it cost."""

from typing import Any

import yaml

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
    contract = stack.contract
    parts = [f"block_{index}" for index in range(contract.partition.num_blocks)]
    side = Side(
        name=name,
        parts=[
            {
                "part": part,
                "layers": contract.partition.layers[index],
                "sigma_high": contract.partition.interval(index).high,
                "sigma_low": contract.partition.interval(index).low,
                **training_facts(run, part, facts),
            }
            for index, (part, facts) in enumerate(zip(parts, ModelFolder(run.model).config["blocks"], strict=True))
        ],
        calls=stack.inference.sampler.calls_per_block(contract.noise, contract.partition),
        test=dict(cli.results[0]),
        memory=[measured_memory(run, part) for part in parts],
        image_quality=cli.callback(ImageQuality).result,
        likelihood=cli.callback(Likelihood).result,
        diagnostics=cli.callback(Diagnostics).result,
        weights=stack.weights,
    )
    if steps:
        stack.to(cli.trainer.strategy.root_device)
        side.quality_by_steps = quality_by_steps(stack, cli.datamodule, cli.callback(ImageQuality), steps)
    return side


def training_facts(run: RunFolder, part: str, facts: dict[str, Any]) -> dict[str, Any]:
    """What the checkpoint says of a part's training, and the images that passed through it."""
    config = yaml.safe_load((run.part(part) / "config.yaml").read_text(encoding="utf-8"))
    per_step = config["data"]["init_args"]["batch_size"] * config["model"]["recipe"]["accumulate"]
    return facts | {"images": facts["steps"] * per_step}


def measured_memory(run: RunFolder, part: str) -> dict[str, Any] | None:
    """`memory.json` of a part, if there is one: a training of fewer steps has not been measured."""
    path = run.memory(part)
    measured: dict[str, Any] | None = read_json(path) if path.is_file() else None
    return measured
