"""`dbl fit`: train one part of a run; `dbl validate`, `test` and `predict` parse the same config."""

import gc
import warnings
from pathlib import Path

import lightning as L
import torch
from jsonargparse import Namespace
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only

from dbl.commands.choices import part_choices
from dbl.commands.console import fit_summary
from dbl.commands.evaluate import evaluate
from dbl.commands.from_hub import add_hub_options, config_of, prepare, push_trained, run_on_hub
from dbl.commands.logs.names import LogName
from dbl.commands.logs.user_loggers import Logged, logging_to
from dbl.commands.parsing import parse
from dbl.commands.run_config import RunConfig, dump, make_trainer, write_config
from dbl.commands.schema import add_from_scratch, config_parser
from dbl.data.text.module import TextData
from dbl.run.checkpoints import CheckpointInfo, Checkpoints, already_trained, read_checkpoint_info
from dbl.run.folder import RunFolder
from dbl.run.start import Pretrained
from dbl.run.start_weights import source_network, start_weights
from dbl.training.block import DiffusionBlock
from dbl.training.callbacks.overview import Overview
from dbl.training.callbacks.progress import StepProgress, Throughput, has_progress_bar
from dbl.training.callbacks.status import Status
from dbl.training.guard import guard
from dbl.training.loggers import part_loggers
from dbl.training.noisy_data import NoisyData
from dbl.training.restoring import refusing_what_does_not_fit
from dbl.utils.errors import DblWarning


def build_parser(command: str = "fit") -> LightningArgumentParser:
    """The parser of a config, with those arguments of a method of the Trainer that `dbl` does not set itself."""
    parser = config_parser(command)
    skipped = LightningCLI.subcommands()[command] | {"weights_only", "return_predictions"}
    parser.add_method_arguments(L.Trainer, command, skip=skipped)
    if command == "fit":
        add_from_scratch(parser)
        add_hub_options(parser)
    return parser


def main(arguments: list[str]) -> None:
    """Train a block, or evaluate the assembled network."""
    command, *rest = arguments
    if command == "fit":
        _fit(rest)
        return
    options = parse(build_parser(command), rest)
    evaluate(RunConfig(options), command, options.ckpt_path, options.get("verbose", True))


def _fit(arguments: list[str]) -> None:
    """Train a block of a run here, or of one on the hub."""
    there = run_on_hub(arguments)
    with config_of(there, arguments) as words:
        options = parse(build_parser("fit"), [*words, *arguments])
    config = RunConfig(options)
    prepare(there, options, config)
    fit_part(config, options.from_scratch, options.ckpt_path)
    num_blocks = config.contract.partition.num_blocks
    rank_zero_only(print)(fit_summary(config.run, config.values.model.block, num_blocks))
    if there is not None and options.push:
        push_trained(there, options, config)


def fit_part(config: RunConfig, from_scratch: bool = False, checkpoint: str | None = None) -> None:
    """Train one part, while no other process does: the only way in which any part of any run is trained.

    Args:
        config: config of the run, with the block to train.
        from_scratch: train anew what is trained already.
        checkpoint: file to resume from; by default the newest good one of the part, if there is one.

    Raises UserError if the training cannot start or go on because of the input, another process or the disk.
    """
    config.check_steps()
    chosen_loggers, built = config.logger, config.build()
    run, part, data, name = built.run, built.model, built.data, built.model.part
    part.recipe.make_optimizer(part)  # refuses its arguments before anything is written
    chosen = read_checkpoint_info(Path(checkpoint)) if checkpoint else None
    if chosen:
        chosen.check(name, part.contract.hash)
    status = Status(run.status(name), name)
    if isinstance(part, DiffusionBlock):
        built.trainer.max_steps = config.steps[part.index]
    trainer = make_trainer(built, _callbacks(config, built, status), training=True, folder=run.part(name))
    with guard(run, name, trainer, status):
        run.write_contract(part.contract)
        if isinstance(data, TextData):
            data.tokenizer.save(run.tokenizer)
        resumed = chosen or _checkpoint_to_resume(run.checkpoints(name), name, trainer, from_scratch)
        if resumed:  # before it is taken for a finished training of this part
            resumed.check(name, part.contract.hash)
        step = resumed.step if resumed else 0
        if step >= trainer.max_steps > 0:
            print(already_trained(name, step))
            status.already_done(step, trainer.max_steps)
            return
        plain = config.plain()
        write_config(run.part(name) / "config.yaml", plain)
        if not run.config.is_file():
            write_config(run.config, plain)
        if isinstance(part, DiffusionBlock):
            _start(part, run, resumed is None)
        batches = NoisyData(data, part) if isinstance(part, DiffusionBlock) else data
        path = resumed.path if resumed else None
        own = part_loggers(run.part(name), step, trainer.global_rank) if chosen_loggers is not False else []
        logged = Logged(
            *(LogName.of(run, name), run.part(name), "training", part_choices(config, part)),
            *(step, trainer.global_rank, from_scratch),
        )
        with logging_to(trainer, own, chosen_loggers, logged), refusing_what_does_not_fit(path):
            trainer.fit(part, datamodule=batches, ckpt_path=path, weights_only=True)  # never run a checkpoint's code


def _start(block: DiffusionBlock, run: RunFolder, is_new: bool) -> None:
    """Give a block the weights that its contract says it starts from, and the network that it learns from."""
    start = start_weights(run, block.contract, block.index) if is_new else None
    if start is not None:
        block.start_from(start.weights, start.path)
    if block.recipe.distillation and isinstance(block.contract.config.start, Pretrained):
        block.learn_from(source_network(run, block.contract))


def fit_and_free(config: RunConfig, from_scratch: bool = False) -> None:
    """Train one part, and free what the training has used, also if it fails; arguments as in `fit_part`."""
    try:
        fit_part(config, from_scratch)
    finally:
        free_memory()


def free_memory() -> None:
    """Free what the training of a part has used, before the next one begins in this process."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _callbacks(config: RunConfig, built: Namespace, status: Status) -> list[L.Callback]:
    overview = Overview(dump(config.plain()), part_choices(config, built.model), built.loss_by_level.num_bins)
    callbacks = [
        # The average first: validation and previews use it.
        *(built.ema, built.loss_by_level, built.previews, built.memory, built.checkpoint),
        *(overview, Throughput(), status),
        Timer(duration=built.trainer.max_time, verbose=False),
    ]
    with_bar = built.trainer.enable_progress_bar is not False and not has_progress_bar(built.trainer.callbacks)
    return [*callbacks, StepProgress()] if with_bar else callbacks


def _checkpoint_to_resume(
    files: Checkpoints, part: str, trainer: L.Trainer, from_scratch: bool
) -> CheckpointInfo | None:
    if from_scratch:
        kept = files.set_aside() if trainer.is_global_zero else None
        if kept:
            print(f"{part} is trained anew; {kept} keeps what was trained, until the next --from_scratch")
        return None
    newest = files.newest()
    if newest and newest.problem and trainer.is_global_zero:
        warnings.warn(
            f"{newest.problem}: training goes on from {newest.path} (step {newest.step})", DblWarning, stacklevel=2
        )
    return newest
