"""Evaluate an assembled run and say what it cost."""

from typing import Any

from dbl.commands.fit import BlockCLI
from dbl.diffusion.partition import Partition
from dbl.evaluation.callbacks.diagnostics import Diagnostics
from dbl.evaluation.callbacks.image_quality import ImageQuality
from dbl.evaluation.callbacks.likelihood import Likelihood
from dbl.evaluation.callbacks.text_quality import TextQuality
from dbl.evaluation.quality_by_steps import quality_by_steps
from dbl.evaluation.report import Arm
from dbl.evaluation.stack_evaluation import StackEvaluation
from dbl.inference.grid import save_picture
from dbl.inference.stack import BlockStack
from dbl.run.assembly import read_part
from dbl.run.folder import RunFolder
from dbl.run.model_folder import ModelFolder
from dbl.training.baselines import baseline_of
from dbl.training.module import TrainingModule
from dbl.utils.files import read_json


def evaluate_stack(run: RunFolder, name: str, steps: list[int] | None = None) -> Arm:
    """Test the assembled network of a run (`dbl test`).

    Args:
        run: its folder; `samples.png` goes to its report folder if it makes images.
        name: of the side.
        steps: also measure the quality with these numbers of sampler steps.
    """
    cli = BlockCLI(["test", "--config", str(run.config)])
    assert isinstance(cli.model, StackEvaluation)
    stack = cli.model.stack
    if cli.model.grid is not None:
        save_picture(cli.model.grid, run.report / "samples.png")
    parts = _parts(run, stack.contract.partition)
    side = Arm(
        name=name,
        parts=parts,
        calls=_calls(stack),
        test=dict(cli.results[0]),
        memory=[measured_memory(run, part["part"]) for part in parts],
        image_quality=cli.callback(ImageQuality).result,
        text_quality=cli.callback(TextQuality).result,
        likelihood=cli.callback(Likelihood).result,
        diagnostics=cli.callback(Diagnostics).result,
        weights=stack.weights,
    )
    if steps and stack.target.generates != "text":
        stack.to(cli.trainer.strategy.root_device)
        with cli.trainer.precision_plugin.test_step_context():
            side.quality_by_steps = quality_by_steps(stack, cli.datamodule, cli.callback(ImageQuality), steps)
    return side


def evaluate_baseline(run: RunFolder) -> Arm:
    """Test an end-to-end network that is no denoiser (`dbl test` on its checkpoint), in its own run folder."""
    contract, checkpoint = run.load_contract(), run.checkpoint("end_to_end")
    kind = baseline_of(contract.config.network)
    assert kind is not None
    cli = BlockCLI(["test", "--config", str(run.config), "--ckpt_path", str(checkpoint)], kind)
    part = {
        "part": "end_to_end",
        "layers": contract.config.network.num_layers,
        "sigma_high": None,
        "sigma_low": None,
        **read_part(checkpoint, "end_to_end", contract, "network.").summary(),
    }
    return Arm(
        "end_to_end",
        [part],
        calls=[1],
        test=dict(cli.results[0]),
        memory=[measured_memory(run, "end_to_end")],
        text_quality=cli.callback(TextQuality).result,
        likelihood=cli.callback(Likelihood).result,
    )


def load_baseline(run: RunFolder) -> TrainingModule:
    """An end-to-end network that is no denoiser, with its trained weights.

    Raises:
        UserError: if it was not trained.
    """
    contract, checkpoint = run.load_contract(), run.checkpoint("end_to_end")
    kind = baseline_of(contract.config.network)
    assert kind is not None
    part: TrainingModule = kind(contract)  # type: ignore[call-arg, arg-type]
    part.get_submodule("network").load_state_dict(read_part(checkpoint, "end_to_end", contract, "network.").weights)
    return part


def _parts(run: RunFolder, partition: Partition) -> list[dict[str, Any]]:
    """What each block is and what its training took."""
    return [
        {
            "part": f"block_{index}",
            "layers": partition.layers[index],
            "sigma_high": partition.interval(index).high,
            "sigma_low": partition.interval(index).low,
            **facts,
        }
        for index, facts in enumerate(ModelFolder(run.model).config["blocks"])
    ]


def _calls(stack: BlockStack) -> list[int]:
    """Network calls of each block in one sample; guidance asks each block twice."""
    contract, sampler = stack.contract, stack.inference.sampler
    factor = 1 if sampler.guidance_scale == 1 else 2
    return [factor * calls for calls in sampler.calls_per_block(contract.noise, contract.partition)]


def measured_memory(run: RunFolder, part: str) -> dict[str, Any] | None:
    """`memory.json` of a part, if there is one: a training of fewer steps has not been measured."""
    path = run.memory(part)
    measured: dict[str, Any] | None = read_json(path) if path.is_file() else None
    return measured
