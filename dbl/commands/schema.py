"""The groups of a config that `LightningCLI` does not know, and how they are linked."""

from lightning.pytorch.cli import LightningArgumentParser

from dbl.data.module import ResumableDataModule
from dbl.evaluation.callbacks.diagnostics import Diagnostics
from dbl.evaluation.callbacks.image_quality import ImageQuality
from dbl.evaluation.callbacks.likelihood import Likelihood
from dbl.evaluation.callbacks.text_quality import TextQuality
from dbl.inference.settings import InferenceConfig
from dbl.run.contract import Contract, ContractConfig
from dbl.run.folder import RunFolder
from dbl.training.callbacks.checkpoint import LastCheckpoint
from dbl.training.callbacks.ema import EMA
from dbl.training.callbacks.loss_by_level import LossByLevel
from dbl.training.callbacks.memory import Memory
from dbl.training.module import TrainingModule

# Evaluation of an assembled network: config group and callback.
EVALUATION = {
    "image_quality": ImageQuality,
    "text_quality": TextQuality,
    "likelihood": Likelihood,
    "diagnostics": Diagnostics,
}


def add_run_groups(parser: LightningArgumentParser) -> None:
    """The groups of a run, which need nothing that is trained."""
    parser.add_class_arguments(RunFolder, "run")
    parser.add_class_arguments(ContractConfig, "contract")
    parser.add_class_arguments(InferenceConfig, "inference")
    for group, callback in EVALUATION.items():
        parser.add_class_arguments(callback, group)


def add_training_groups(parser: LightningArgumentParser) -> None:
    """The groups that say how a part is trained, beside `model`, `data` and `trainer`."""
    parser.add_class_arguments(EMA, "ema")
    parser.add_class_arguments(LastCheckpoint, "checkpoint")
    parser.add_class_arguments(LossByLevel, "loss_by_level")
    parser.add_class_arguments(Memory, "memory")
    parser.add_argument(
        "--from-scratch",
        dest="from_scratch",
        action="store_true",
        help="Train anew what has been trained already; the old checkpoint is kept as replaced.ckpt.",
    )
    parser.link_arguments("contract.seed", "data.init_args.seed")
    parser.link_arguments(("contract", "data", "run"), "model.contract", _contract, apply_on="instantiate")
    parser.link_arguments(("run", "model"), "checkpoint.path", _checkpoint_path, apply_on="instantiate")
    parser.link_arguments(("run", "model"), "memory.path", _memory_path, apply_on="instantiate")


def _contract(config: ContractConfig, data: ResumableDataModule, run: RunFolder) -> Contract:
    return run.load_or_build_contract(config, data.spec)


def _checkpoint_path(run: RunFolder, part: TrainingModule) -> str:
    return str(run.checkpoint(part.part))


def _memory_path(run: RunFolder, part: TrainingModule) -> str:
    return str(run.memory(part.part))
