"""The one schema of a config, and the commands on single parts: LightningCLI with the groups of a run."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import lightning as L
import torch
import yaml
from jsonargparse import ArgumentError, Namespace
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger

from dbl.commands.schema import EVALUATION, add_run_groups, add_training_groups
from dbl.data.module import ResumableDataModule
from dbl.data.text.module import TextData
from dbl.evaluation.stack_evaluation import StackEvaluation
from dbl.inference.stack import BlockStack
from dbl.run.checkpoints import CheckpointInfo, already_trained, read_checkpoint_info
from dbl.run.folder import RunFolder
from dbl.training.block import DiffusionBlock
from dbl.training.callbacks.loss_by_level import PartitionFigure
from dbl.training.callbacks.progress import StepProgress, Throughput
from dbl.training.callbacks.status import Status
from dbl.training.distributed import check_strategy
from dbl.training.guard import guarding
from dbl.training.loggers import part_loggers
from dbl.training.module import TrainingModule
from dbl.training.noisy_data import NoisyData
from dbl.utils.errors import DblWarning, UserError
from dbl.utils.files import write_tensors, write_text

Kind = TypeVar("Kind", bound=L.Callback)

STACK_COMMANDS = ("validate", "test", "predict")
# Options of Lightning's Trainer that manual optimization excludes: name, default, and our own.
_AUTOMATIC_ONLY = (("gradient_clip_val", None, "clip_norm"), ("accumulate_grad_batches", 1, "accumulate"))

# Options that say what one call does, not how the run is made.
_OF_ONE_CALL = ("blocks", "seeds", "from_scratch", "ckpt_path", "weights_only")


class BlockCLI(LightningCLI):
    """Parses a config into `run`, `contract`, `data`, `model`, `ema`, `checkpoint`, `inference` and `trainer`.

    `fit` trains one part; `validate`, `test` and `predict` use the assembled stack. With `run=False` it only parses.

    Args:
        arguments: the command line without the program's name.
        part: the class under `model`: a block, or an end-to-end baseline.
        run: whether the first argument is a command to carry out.

    Raises:
        UserError: if the command line or a config file is wrong.
    """

    def __init__(self, arguments: list[str], part: type[TrainingModule] = DiffusionBlock, run: bool = True) -> None:
        self.part = part
        self.results: list[Mapping[str, float]] = []
        options = {"parser_mode": "omegaconf+", "exit_on_error": False}
        super().__init__(
            model_class=part,
            datamodule_class=ResumableDataModule,
            subclass_mode_data=True,
            save_config_callback=None,
            seed_everything_default=False,  # everything random is a function of contract.seed
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            parser_kwargs=options | {command: dict(options) for command in ("fit", *STACK_COMMANDS)},
            trainer_defaults={
                "precision": "32-true",  # what Lightning's own default, null, means
                "num_sanity_val_steps": 0,
                "max_epochs": -1,  # the length of a training is trainer.max_steps
                "check_val_every_n_epoch": None,  # so that val_check_interval counts steps
                "use_distributed_sampler": False,  # the order of the data knows ranks
                "enable_model_summary": False,
            },
            args=arguments,
            run=run,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The groups beside `model`, `data` and `trainer`."""
        add_run_groups(parser)
        add_training_groups(parser)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse; what is wrong becomes one line."""
        try:
            self.config = parser.parse_args(args)  # type: ignore[arg-type]
        except ArgumentError as error:
            raise UserError(_one_line(str(error))) from None

    def instantiate_classes(self) -> None:
        """Build what the command needs: nothing to parse only, no part to train for the commands on the stack."""
        if self.subcommand is None:
            return
        uses_stack = self.subcommand in STACK_COMMANDS and issubclass(self.part, DiffusionBlock)
        self.config_init = self.without_part() if uses_stack else self.parser.instantiate_classes(self.config)
        self.datamodule = self._get(self.config_init, "data")
        self.run: RunFolder = self._get(self.config_init, "run")
        self.model = self._stack() if uses_stack else self._get(self.config_init, "model")
        self.trainer = self._training() if self.subcommand == "fit" else self._evaluation()

    def without_part(self) -> Namespace:
        """Build the groups of a run, `data` and the arguments of `trainer`, and nothing that is trained.

        Returns:
            The groups, under the name of the command if there is one.
        """
        parser = LightningArgumentParser(exit_on_error=False)
        add_run_groups(parser)
        parser.add_lightning_class_args(ResumableDataModule, "data", subclass_mode=True)
        parser.add_lightning_class_args(L.Trainer, "trainer")
        config = self.config[self.subcommand] if self.subcommand else self.config
        groups = {group: config[group] for group in ("run", "contract", "inference", *EVALUATION, "data", "trainer")}
        built = parser.instantiate_classes(parser.parse_object(groups))
        if self.subcommand is None:
            return built
        options = {name: config.get(name) for name in self._subcommand_method_arguments[self.subcommand]}
        return Namespace({self.subcommand: Namespace(**vars(built), **options)})

    def _stack(self) -> StackEvaluation:
        stack = BlockStack.from_pretrained(self.run.model, self._get(self.config_init, "inference"))
        contract = self.run.load_or_build_contract(self._get(self.config_init, "contract"), self.datamodule.spec)
        if stack.contract.hash != contract.hash:
            raise UserError(f"{self.run.model} was assembled under another contract: run dbl assemble {self.run.path}")
        evaluation = StackEvaluation(stack)
        evaluation.setup(str(self.subcommand))  # refuses a model without all of its blocks before any data is read
        return evaluation

    def _training(self) -> L.Trainer:
        for option, default, ours in _AUTOMATIC_ONLY:
            if self._get(self.config, "trainer")[option] != default:
                raise UserError(f"trainer.{option} is for automatic optimization: set model.recipe.{ours} instead")
        callbacks = [
            *(self._get(self.config_init, group) for group in ("ema", "loss_by_level", "memory", "checkpoint")),
            PartitionFigure(),
            Throughput(),
            Status(self.run.status(self.model.part), self.model.part),
            Timer(duration=self._get(self.config_init, "trainer")["max_time"], verbose=False),
        ]
        with_bar = self._get(self.config, "trainer")["enable_progress_bar"] is not False
        return self._trainer(callbacks + ([StepProgress()] if with_bar else []))

    def _evaluation(self) -> L.Trainer:
        if self.subcommand == "test" and isinstance(self.model, StackEvaluation):
            self._get(self.config_init, "image_quality").prepare(
                self.datamodule, self.model.stack.target.generates == "images"
            )
        if self.subcommand == "test":
            self._get(self.config_init, "text_quality").prepare(self.datamodule)
        trainer = self._trainer([self._get(self.config_init, group) for group in EVALUATION])
        if self._get(self.config, "trainer")["logger"] is None:
            trainer.loggers = [TensorBoardLogger(str(self.run.report), name="", version="")]
        return trainer

    def _trainer(self, callbacks: list[L.Callback]) -> L.Trainer:
        config = dict(self._get(self.config_init, "trainer"))
        config["callbacks"] = [*callbacks, *(config["callbacks"] or [])]
        config["max_time"] = None  # the timer above has it
        config["logger"] = False if config["logger"] is None else config["logger"]
        config["default_root_dir"] = config["default_root_dir"] or str(self.run.path)
        check_strategy(config["strategy"], training=self.subcommand == "fit")
        return L.Trainer(**config)

    def fit(self, model: TrainingModule, datamodule: ResumableDataModule, **options: Any) -> None:
        """Train one part, from its newest good checkpoint if there is one, while no other process does."""
        status = self.callback(Status)
        with guarding(self.run, model.part, self.trainer, status):
            self.run.write_contract(model.contract)
            if isinstance(datamodule, TextData):
                datamodule.tokenizer.save(self.run.tokenizer)
            resumed = self._checkpoint_to_resume(options.pop("ckpt_path", None))
            step = resumed.step if resumed else 0
            if step >= self.trainer.max_steps > 0:
                print(already_trained(model.part, step))
                status.already_done(step, self.trainer.max_steps)
                return
            self._write_config(model.part)
            if self._get(self.config, "trainer")["logger"] is None:
                self.trainer.loggers = part_loggers(self.run.part(model.part), step, self.trainer.global_rank)
            data = NoisyData(datamodule, model) if isinstance(model, DiffusionBlock) else datamodule
            options["weights_only"] = True  # never run code that a checkpoint might hold
            self.trainer.fit(model, datamodule=data, ckpt_path=resumed.path if resumed else None, **options)

    def resolved(self) -> dict[str, Any]:
        """The whole config as plain values, without what belongs to one call only."""
        config = self.config[self.subcommand] if self.subcommand else self.config
        plain: dict[str, Any] = yaml.safe_load(self._parser(self.subcommand).dump(config, skip_unset=False))
        return {key: value for key, value in plain.items() if key not in _OF_ONE_CALL}

    def _write_config(self, part: str) -> None:
        """Keep how a part was trained beside it, and in the run folder if nothing is there."""
        text = yaml.safe_dump(self.resolved(), sort_keys=False)
        write_text(self.run.part(part) / "config.yaml", text)
        if not self.run.config.is_file():
            write_text(self.run.config, text)

    def _checkpoint_to_resume(self, chosen: str | None) -> CheckpointInfo | None:
        if chosen:
            return read_checkpoint_info(Path(chosen))
        files = self.run.checkpoints(self.model.part)
        if self._get(self.config, "from_scratch"):
            kept = files.set_aside() if self.trainer.is_global_zero else None
            if kept:
                print(
                    f"{self.model.part} is trained anew; {kept} keeps what was trained, until the next --from-scratch"
                )
            return None
        newest = files.newest()
        if newest and newest.problem and self.trainer.is_global_zero:
            warnings.warn(
                f"{newest.problem}: training goes on from {newest.path} (step {newest.step})", DblWarning, stacklevel=2
            )
        return newest

    def callback(self, kind: type[Kind]) -> Kind:
        """The callback of a class that the trainer was given."""
        return next(callback for callback in self.trainer.callbacks if isinstance(callback, kind))  # type: ignore[attr-defined]

    def validate(self, **options: Any) -> None:
        """Evaluate the stack on the validation split."""
        self.results = list(self.trainer.validate(**self._checked(options)))

    def test(self, **options: Any) -> None:
        """Evaluate the stack on the test split."""
        self.results = list(self.trainer.test(**self._checked(options)))

    def predict(self, **options: Any) -> None:
        """Write labels, or an image for each label, of the test split to `report/predictions.safetensors`."""
        options["return_predictions"] = True
        batches = self.trainer.predict(**self._checked(options))
        path = self.run.report / "predictions.safetensors"
        write_tensors(path, {"predictions": torch.cat([torch.as_tensor(batch).cpu() for batch in batches or []])})
        print(f"predictions: {path}")

    def _checked(self, options: dict[str, Any]) -> dict[str, Any]:
        if isinstance(self.model, StackEvaluation) and options.get("ckpt_path"):
            raise UserError(f"--ckpt_path is for dbl fit: the assembled network is read from {self.run.model}")
        return options | {"weights_only": True}  # never run code that a checkpoint might hold


def _one_line(message: str) -> str:
    """The first lines of a parser's message, without its repetitions."""
    return " ".join(message.split())[:400]


def main(arguments: list[str]) -> None:
    """Run a Lightning command on a block (`fit`) or on the assembled stack."""
    BlockCLI(arguments)
