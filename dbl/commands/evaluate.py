"""Evaluate an assembled network or a baseline, and collect for the report what it is and what it cost."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import fmean
from typing import Any, NamedTuple

import lightning as L
import torch
from jsonargparse import Namespace

from dbl.commands.choices import run_choices
from dbl.commands.logs.names import LogName
from dbl.commands.logs.user_loggers import Logged, logging_to
from dbl.commands.run_config import RunConfig, make_trainer
from dbl.commands.schema import EVALUATION
from dbl.diffusion.partition import Partition
from dbl.evaluation.log import EvaluationLog
from dbl.evaluation.quality_by_steps import quality_by_steps
from dbl.evaluation.report import Arm
from dbl.evaluation.stack_evaluation import StackEvaluation
from dbl.inference.stack import BlockStack
from dbl.run.assembly import PartCheckpoint, read_part
from dbl.run.contract import Contract
from dbl.run.folder import RunFolder
from dbl.run.model_folder import ModelFolder, load_into
from dbl.training.baselines import baseline_of, rival_of
from dbl.training.block import DiffusionBlock
from dbl.training.callbacks.progress import EvaluationProgress, has_progress_bar
from dbl.training.history import read_history
from dbl.training.memory.stored import read_memory
from dbl.training.module import TrainingModule
from dbl.training.restoring import refusing_what_does_not_fit
from dbl.utils.errors import Interrupted, UserError
from dbl.utils.files import write_tensors
from dbl.utils.plotting import save_figure
from dbl.utils.progress import progress_shown


class Evaluation(NamedTuple):
    """A finished evaluation: the network, the built config with its callbacks, the trainer, and what was logged."""

    model: L.LightningModule
    groups: Namespace
    trainer: L.Trainer
    metrics: dict[str, float]


def evaluate(config: RunConfig, command: str, checkpoint: str | None = None, verbose: bool = True) -> Evaluation:
    """Evaluate the assembled network of a run, or an end-to-end baseline if that is the part of the config.

    Args:
        config: config of the run.
        command: validate, test or predict.
        checkpoint: file with the weights of a baseline.
        verbose: print the metrics.

    Raises UserError if the network is not assembled, or lacks blocks, or is not that of this config.
    """
    chosen = config.logger
    if issubclass(config.part, DiffusionBlock):
        groups, model = config.groups, _load_stack(config, command, checkpoint)
    else:
        groups = config.build()
        model = groups.model
    run, data = groups.run, groups.data
    if command == "test":
        if isinstance(model, StackEvaluation):
            groups.image_quality.prepare(data, model.stack.target.generates == "images")
        groups.text_quality.prepare(data)
    callbacks = [groups[name] for name in EVALUATION]
    with_bar = groups.trainer.enable_progress_bar is not False
    own_bar = with_bar and not has_progress_bar(groups.trainer.callbacks)
    # Its bar closes before the callbacks that follow it measure.
    trainer = make_trainer(groups, [*([EvaluationProgress()] if own_bar else []), *callbacks], False, run.report)
    choices = run_choices(config)
    own = [] if chosen is False else [EvaluationLog(run.report, command, choices)]
    logged = Logged(LogName.of(run, "report"), run.report, "evaluation", choices)
    options = {"datamodule": data, "ckpt_path": checkpoint, "weights_only": True}  # never run code of a checkpoint
    options |= {"return_predictions": True} if command == "predict" else {"verbose": verbose}
    try:
        with (
            logging_to(trainer, own, chosen if command != "predict" else None, logged),
            refusing_what_does_not_fit(checkpoint),
            _ended_by_sigterm(),
            progress_shown(with_bar),
        ):
            results = getattr(trainer, command)(model, **options) or []
    except OSError as error:
        error.filename = error.filename or str(run.report)  # TensorBoard's writer names no file
        raise
    if command == "predict":
        _write_predictions(run, results)
        return Evaluation(model, groups, trainer, {})
    return Evaluation(model, groups, trainer, dict(results[0]) if results else {})


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end an evaluation; Lightning's own handler only notes it for a training."""

    def end(*_: object) -> None:
        raise Interrupted("the evaluation was stopped by a signal; what is trained is there: repeat the command")

    if threading.current_thread() is not threading.main_thread():  # only that one may set handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _load_stack(config: RunConfig, command: str, checkpoint: str | None) -> StackEvaluation:
    run = config.run
    if checkpoint:
        raise UserError(f"--ckpt_path is for dbl fit: the assembled network is read from {run.model}")
    stack = BlockStack.from_pretrained(run.model, config.inference)
    if stack.contract.hash != config.contract.hash:
        raise UserError(f"{run.model} was assembled under another contract: run dbl assemble {run.path}")
    evaluation = StackEvaluation(stack)
    evaluation.setup(command)  # refuses a model without all of its blocks before any data is read
    return evaluation


def _write_predictions(run: RunFolder, batches: list[Any]) -> None:
    """Write labels, or an image for each label, of the test split."""
    path = run.report / "predictions.safetensors"
    write_tensors(path, {"predictions": torch.cat([torch.as_tensor(batch).cpu() for batch in batches])})
    print(f"predictions: {path}")


def evaluate_stack(run: RunFolder, name: str, steps: list[int] | None = None) -> Arm:
    """Test the assembled network of a run (`dbl test`).

    Args:
        run: run folder; `samples.png` goes to its report folder if the network makes images.
        name: name of the arm in the report.
        steps: numbers of sampler steps with which to measure the quality as well.
    """
    done = evaluate(_on_one_device(RunConfig.load(run.config)), "test", verbose=False)
    assert isinstance(done.model, StackEvaluation)
    stack, groups = done.model.stack, done.groups
    if done.model.samples is not None:
        save_figure(done.model.samples, run.report / "samples.png")
    parts = _parts(run, stack.contract.partition)
    arm = Arm(
        name=name,
        parts=parts,
        calls=_calls(stack),
        test=done.metrics,
        memory=[read_memory(run.memory(part["part"])) for part in parts],
        weights=stack.weights,
        ancestors=_ancestors(run, stack.contract),
        **{callback: groups[callback].result for callback in EVALUATION},
    )
    if steps and stack.target.generates != "text":
        stack.to(done.trainer.strategy.root_device)
        with_bar = groups.trainer.enable_progress_bar is not False
        with done.trainer.precision_plugin.test_step_context(), progress_shown(with_bar):
            arm.quality_by_steps = quality_by_steps(stack, groups.data, groups.image_quality, steps)
    return arm


def validation_metrics(run: RunFolder) -> dict[str, float]:
    """Metrics of the assembled network of a run on the validation split (`dbl validate`), without the stage in front.

    Of a classifier the mean accuracy of all draws comes first.
    """
    done = evaluate(_on_one_device(RunConfig.load(run.config)), "validate", verbose=False)
    named = {name.removeprefix("val/"): value for name, value in done.metrics.items()}
    draws = [value for name, value in named.items() if name.startswith("accuracy_draw_")]
    return ({"accuracy": fmean(draws)} if draws else {}) | named


def _on_one_device(config: RunConfig) -> RunConfig:
    """The config, with one of the devices: others would be other processes, which repeat the command line."""
    trainer = config.values.trainer
    trainer.devices = trainer.devices[:1] if isinstance(trainer.devices, list) else 1
    trainer.strategy, trainer.num_nodes = "auto", 1
    return config


def evaluate_baseline(run: RunFolder, part: str = "end_to_end", name: str | None = None) -> Arm:
    """Test a whole network that is no denoiser, in its own run folder, with the weights of its checkpoint.

    Args:
        run: its run folder.
        part: its part: `end_to_end`, or one of `RIVALS`.
        name: name of the arm; by default that of the part.
    """
    contract, checkpoint = run.load_contract(), run.checkpoint(part)
    kind = type(load_baseline(run, part))  # refuses weights that Lightning would take, such as NaN
    done = evaluate(_on_one_device(RunConfig.load(run.config, kind)), "test", str(checkpoint), verbose=False)
    facts = {
        "part": part,
        "layers": contract.config.network.num_layers,
        "sigma_high": None,
        "sigma_low": None,
        **_read_baseline(run, contract, part).summary(),
        **read_history(run.metrics(part)),
    }
    return Arm(
        name or part,
        [facts],
        calls=[1],
        test=done.metrics,
        memory=[read_memory(run.memory(part))],
        **{callback: done.groups[callback].result for callback in EVALUATION},
    )


def load_baseline(run: RunFolder, name: str = "end_to_end") -> TrainingModule:
    """A whole network that is no denoiser, with its trained weights; UserError if it was not trained."""
    contract = run.load_contract()
    kind = rival_of(name, contract.config.network) or baseline_of(contract.config.network)
    assert kind is not None
    part: TrainingModule = kind(contract)  # type: ignore[call-arg, arg-type]
    load_into(part.get_submodule("network"), _read_baseline(run, contract, name).weights, run.checkpoint(part.part))
    return part


def _read_baseline(run: RunFolder, contract: Contract, name: str) -> PartCheckpoint:
    return read_part(run.checkpoint(name), name, contract, "network.")


def _parts(run: RunFolder, partition: Partition) -> list[dict[str, Any]]:
    """Layers and noise levels of each block, what its training took, and its losses."""
    return [
        {
            "part": f"block_{index}",
            "layers": partition.layers[index],
            "sigma_high": partition.interval(index).high,
            "sigma_low": partition.interval(index).low,
            **facts,
            **read_history(run.metrics(f"block_{index}")),
        }
        for index, facts in enumerate(ModelFolder(run.model).config["blocks"])
    ]


def _ancestors(run: RunFolder, contract: Contract) -> list[dict[str, Any]]:
    """The parts of all ancestors, the first of them first, named by their place in the run folder."""
    if contract.config.start.num_parts == 0:
        return []
    ancestor = run.ancestor()
    own = ModelFolder(ancestor.model).contract
    parts = [*_ancestors(ancestor, own), *_parts(ancestor, own.partition)]
    return [part | {"part": f"{ancestor.name}/{part['part']}"} for part in parts]


def _calls(stack: BlockStack) -> list[int]:
    """Network calls of each block in one sample; guidance calls each block twice."""
    contract, sampler = stack.contract, stack.inference.sampler
    factor = 1 if sampler.guidance_scale == 1 else 2
    return [factor * calls for calls in sampler.calls_per_block(contract.noise, contract.partition)]
