"""The schema of a config: one parser, whose groups are the arguments of classes, and the links between them."""

import lightning as L
from jsonargparse import ActionConfigFile
from lightning.pytorch.cli import LightningArgumentParser

from dbl.commands.help import HELP
from dbl.data.module import ResumableDataModule
from dbl.evaluation.callbacks.diagnostics import Diagnostics
from dbl.evaluation.callbacks.image_quality import ImageQuality
from dbl.evaluation.callbacks.likelihood import Likelihood
from dbl.evaluation.callbacks.text_quality import TextQuality
from dbl.run.contract import Contract, ContractConfig
from dbl.run.folder import RunFolder
from dbl.run.hub.shared_training import MatmulPrecision
from dbl.run.inference import InferenceConfig
from dbl.training.block import DiffusionBlock
from dbl.training.callbacks.checkpoint import LastCheckpoint
from dbl.training.callbacks.ema import EMA
from dbl.training.callbacks.loss_by_level import LossByLevel
from dbl.training.callbacks.memory import Memory
from dbl.training.callbacks.previews import Previews
from dbl.training.module import TrainingModule

# Evaluation of an assembled network: config group -> callback.
EVALUATION = {
    "image_quality": ImageQuality,
    "text_quality": TextQuality,
    "likelihood": Likelihood,
    "diagnostics": Diagnostics,
}

# Callbacks of the training of a part: config group -> callback.
TRAINING = {
    "ema": EMA,
    "checkpoint": LastCheckpoint,
    "loss_by_level": LossByLevel,
    "previews": Previews,
    "memory": Memory,
}

_TRAINER_DEFAULTS = {
    "precision": "32-true",  # what Lightning's own default, null, means
    "num_sanity_val_steps": 0,
    "max_epochs": -1,  # the length of a training is trainer.max_steps
    "check_val_every_n_epoch": None,  # so that val_check_interval counts steps
    "use_distributed_sampler": False,  # our data order already depends on the rank
    "enable_model_summary": False,
}


def config_parser(command: str = "fit", part: type[TrainingModule] = DiffusionBlock) -> LightningArgumentParser:
    """The parser of a config, with all groups and links; commands add their own options to it.

    Args:
        command: name of the command that parses, for the help text.
        part: class under `model`: a block, or an end-to-end baseline.
    """
    parser = _new_parser(command)
    parser.add_argument(
        "--seed_everything",
        type=bool | int,
        default=False,  # everything random is a function of contract.seed
        help="Set to an int to run seed_everything with this value before classes instantiation."
        "Set to True to use a random seed.",
    )
    _add_matmul_precision(parser)
    parser.add_argument(
        "--relative_steps",
        type=list[float] | None,
        default=None,
        help="Relative numbers of optimizer steps of the blocks, such as [1, 1, 2]; trainer.max_steps is their mean. "
        "null: all blocks train for trainer.max_steps.",
    )
    parser.add_lightning_class_args(L.Trainer, "trainer")
    parser.set_defaults({f"trainer.{name}": value for name, value in _TRAINER_DEFAULTS.items()})
    parser.add_lightning_class_args(part, "model")
    parser.add_lightning_class_args(ResumableDataModule, "data", subclass_mode=True)
    _add_run_groups(parser)
    for group, callback in TRAINING.items():
        parser.add_class_arguments(callback, group)
    parser.link_arguments("contract.seed", "data.init_args.seed")
    parser.link_arguments(("contract", "data", "run"), "model.contract", _contract, apply_on="instantiate")
    parser.link_arguments(("run", "model"), "checkpoint.path", _checkpoint_path, apply_on="instantiate")
    parser.link_arguments(("run", "model"), "memory.path", _memory_path, apply_on="instantiate")
    return parser


def add_from_scratch(parser: LightningArgumentParser) -> None:
    """Add the option `--from_scratch`."""
    parser.add_argument(
        "--from_scratch",
        action="store_true",
        help="Train anew what has been trained already; the old checkpoint is kept as replaced.ckpt.",
    )


def _new_parser(command: str) -> LightningArgumentParser:
    """An empty parser like that of `LightningCLI`, which raises its errors; its YAML may hold references."""
    header = [f"lightning.pytorch=={L.__version__}"]
    parser = LightningArgumentParser(
        prog=f"dbl {command}",
        description=HELP[command].summary,
        parser_mode="omegaconf+",
        exit_on_error=False,
        dump_header=header,
        allow_abbrev=False,  # a misspelt key is no abbreviation
    )
    help_text = "Path to a configuration file in json or yaml format."
    parser.add_argument("-c", "--config", action=ActionConfigFile, help=help_text)
    return parser


def run_parser() -> LightningArgumentParser:
    """The parser of those groups that can be built without building anything that is trained."""
    parser = LightningArgumentParser(exit_on_error=False)
    _add_run_groups(parser)
    _add_matmul_precision(parser)
    parser.add_lightning_class_args(ResumableDataModule, "data", subclass_mode=True)
    parser.add_lightning_class_args(L.Trainer, "trainer")
    return parser


def _add_run_groups(parser: LightningArgumentParser) -> None:
    parser.add_class_arguments(RunFolder, "run")
    parser.add_class_arguments(ContractConfig, "contract")
    parser.add_class_arguments(InferenceConfig, "inference")
    for group, callback in EVALUATION.items():
        parser.add_class_arguments(callback, group)


def _add_matmul_precision(parser: LightningArgumentParser) -> None:
    parser.add_argument(
        "--float32_matmul_precision",
        type=MatmulPrecision,
        default="high",
        help="Precision of products of float32 matrices on CUDA, in training and evaluation: highest (float32), high "
        "(TF32) or medium (bfloat16), as in torch.set_float32_matmul_precision. Whatever it is, likelihoods and "
        "samples add the evidence of noisy targets in float32. A CPU ignores it.",
    )


def _contract(config: ContractConfig, data: ResumableDataModule, run: RunFolder) -> Contract:
    return run.load_or_build_contract(config, data.spec)


def _checkpoint_path(run: RunFolder, part: TrainingModule) -> str:
    return str(run.checkpoint(part.part))


def _memory_path(run: RunFolder, part: TrainingModule) -> str:
    return str(run.memory(part.part))
