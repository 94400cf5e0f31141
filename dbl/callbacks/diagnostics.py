"""Diagnostics of an assembled network after its test."""

from typing import Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger

from dbl.data import ImageData
from dbl.diagnostics import diagnose
from dbl.errors import UserError
from dbl.figures.levels import loss_figure, trajectory_figure
from dbl.stack import BlockStack


class Diagnostics(L.Callback):
    """Measure what each block of a tested stack does, as `dbl.diagnostics` explains. Other models are left alone.

    It costs two network calls of each block for every image and level, and one sampling of at most 64 images.

    Args:
        num_images: test images that are used, evenly spaced over the split (all if there are fewer); 0 turns the
            diagnostics off.
        levels_per_block: noise levels of each block's interval.
        seed: of the noise.

    Attributes:
        result: what `dbl.diagnostics.diagnose` returns, JSON values; None before a test.

    Raises:
        UserError: if a number is too small.
    """

    def __init__(self, num_images: int = 256, levels_per_block: int = 8, seed: int = 0) -> None:
        if num_images < 0 or num_images == 1:
            raise UserError(
                f"diagnostics.num_images ({num_images}) must be 0 (off) or at least 2: an image needs another one"
            )
        if levels_per_block < 1:
            raise UserError(
                f"diagnostics.levels_per_block ({levels_per_block}) must be at least 1; "
                "diagnostics.num_images=0 turns the diagnostics off"
            )
        self.num_images = num_images
        self.levels_per_block = levels_per_block
        self.seed = seed
        self.result: dict[str, Any] | None = None

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget the test before."""
        self.result = None

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure and log."""
        data = getattr(trainer, "datamodule", None)
        if not self.num_images or not isinstance(pl_module, BlockStack) or not isinstance(data, ImageData):
            return
        # Callbacks run outside the context that gives test steps the trainer's precision.
        with trainer.precision_plugin.test_step_context():
            self.result = diagnose(pl_module, data.split("test"), self.num_images, self.levels_per_block, self.seed)
        for name, value in _scalars(self.result).items():
            pl_module.log(f"test/{name}", value)
        boundaries = [boundary["sigma"] for boundary in self.result["boundaries"]]
        losses = loss_figure(self.result["levels"], boundaries, self.result["loss_unit"])
        trajectory = trajectory_figure(self.result["trajectory"], boundaries)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_figure("loss over sigma", losses)
                logger.experiment.add_figure("trajectory", trajectory)


def _scalars(result: dict[str, Any]) -> dict[str, float]:
    """Rise of each block's loss with another image's condition, share of the nats, disagreement with the next block."""
    scalars: dict[str, float] = {}
    for block, (condition, information) in enumerate(zip(result["condition"], result["information"], strict=True)):
        scalars[f"condition_rise_block_{block}"] = condition["loss_shuffled"] - condition["loss"]
        scalars[f"information_share_block_{block}"] = information["share"]
    for boundary in result["boundaries"]:
        first, second = boundary["blocks"]
        scalars[f"boundary_difference_block_{first}_{second}"] = boundary["difference"]
    return scalars
