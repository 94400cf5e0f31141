"""Diagnostics of an assembled network at the end of its test."""

from typing import Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger

from dbl.data import ResumableDataModule
from dbl.evaluation.diagnostics import diagnose
from dbl.evaluation.figures import loss_figure, trajectory_figure
from dbl.evaluation.stack_evaluation import StackEvaluation
from dbl.utils.checks import SEED, check_numbers, whole
from dbl.utils.errors import UserError


class Diagnostics(L.Callback):
    """Measure what each block of a tested stack does, as `dbl.diagnose` explains. Other models are left alone.

    It costs two network calls of each block for every sample and level, and one sampling of at most 64 images. Targets
    without a condition, such as masked text, are left alone too. Raises UserError if a number is too small.

    Args:
        num_samples: number of test samples, evenly spaced over the split (all if there are fewer); 0 turns the
            diagnostics off.
        levels_per_block: noise levels of each block's interval.
        seed: random seed of the noise.

    Attributes:
        result: JSON values from `dbl.evaluation.diagnostics.diagnose`; None before a test.
    """

    def __init__(self, num_samples: int = 256, levels_per_block: int = 8, seed: int = 0) -> None:
        self.num_samples = num_samples
        self.levels_per_block = levels_per_block
        self.seed = seed
        levels = whole(1, 10_000, remedy="num_samples=0 turns them off")
        check_numbers("diagnostics", self, num_samples=whole(0, 10**9), levels_per_block=levels, seed=SEED)
        if num_samples == 1:
            raise UserError("diagnostics.num_samples (1) must be 0 (off) or at least 2: a sample needs another one")
        self.result: dict[str, Any] | None = None

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget the last test."""
        self.result = None

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure and log."""
        data = getattr(trainer, "datamodule", None)
        if not self.num_samples or not isinstance(data, ResumableDataModule):
            return
        if not isinstance(pl_module, StackEvaluation) or not pl_module.stack.target.has_condition:
            return
        # Callbacks run outside the context that gives test steps the trainer's precision.
        with trainer.precision_plugin.test_step_context():
            self.result = diagnose(pl_module.stack, data, self.num_samples, self.levels_per_block, self.seed)
        for name, value in _scalars(self.result).items():
            pl_module.log(f"test/{name}", value)
        boundaries = [boundary["sigma"] for boundary in self.result["boundaries"]]
        figures = {
            "whole_network/loss over sigma": loss_figure(self.result["levels"], boundaries, self.result["loss_unit"])
        }
        if self.result["trajectory"]:
            figures["whole_network/trajectory"] = trajectory_figure(self.result["trajectory"], boundaries)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                for name, figure in figures.items():
                    logger.experiment.add_figure(name, figure)


def _scalars(result: dict[str, Any]) -> dict[str, float]:
    """Each block's rise in loss with another condition, share of the nats, and difference from the next block."""
    scalars: dict[str, float] = {}
    for block, (condition, information) in enumerate(zip(result["condition"], result["information"], strict=True)):
        scalars[f"condition_rise_block_{block}"] = condition["loss_shuffled"] - condition["loss"]
        scalars[f"information_share_block_{block}"] = information["share"]
    for boundary in result["boundaries"]:
        first, second = boundary["blocks"]
        scalars[f"boundary_difference_block_{first}_{second}"] = boundary["difference"]
    return scalars
