"""The likelihood bound of an assembled network."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from dbl.errors import UserError
from dbl.figures.levels import likelihood_figure
from dbl.likelihood import Bound, BoundEstimator
from dbl.stack import BlockStack
from dbl.targets import Batch, Prediction


class Likelihood(L.Callback):
    """Log the bound of `dbl.likelihood` on the negative log-likelihood of the labels, in total and for each block.

    For a stack whose targets are rows of a table, in test and validation; it costs `levels_per_block` network calls of
    each block for every image. Other models are left alone.

    Args:
        levels_per_block: noise levels of each block at which an image is denoised; 0 turns the bound off.
        seed: of levels and noise.

    Attributes:
        result: `dbl.likelihood.Bound` as JSON values: `nats`, `standard_error`, `prior`, `reconstruction`, `blocks`,
            `num_samples`, `levels_per_block`, `curve`; None if there is no bound.

    Raises:
        UserError: if `levels_per_block` is negative.
    """

    def __init__(self, levels_per_block: int = 8, seed: int = 0) -> None:
        if levels_per_block < 0:
            raise UserError(f"likelihood.levels_per_block ({levels_per_block}) must be 0 (off) or more")
        self.levels_per_block = levels_per_block
        self.seed = seed
        self.result: dict[str, Any] | None = None
        self._estimator: BoundEstimator | None = None

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start from nothing."""
        self._start(pl_module)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start from nothing."""
        self._start(pl_module)

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add a batch."""
        self._add(trainer, pl_module, batch)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add a batch."""
        self._add(trainer, pl_module, batch)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the bound."""
        self._finish(trainer, pl_module, "test")

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the bound."""
        self._finish(trainer, pl_module, "val")

    def _start(self, stack: L.LightningModule) -> None:
        self.result = self._estimator = None
        if not self.levels_per_block or not isinstance(stack, BlockStack) or stack.makes_images:
            return
        contract = stack.contract
        assert contract.table is not None
        frequencies = torch.tensor(contract.data.class_frequencies, dtype=torch.float64)
        self._estimator = BoundEstimator(
            contract.table, frequencies, contract.noise, contract.partition, self.levels_per_block, self.seed
        )

    def _add(self, trainer: L.Trainer, stack: L.LightningModule, batch: Batch) -> None:
        if self._estimator is None:
            return
        assert isinstance(stack, BlockStack)
        clean = stack.space.encode(batch)

        def predict(block: int, noisy: Tensor, sigma: Tensor) -> Prediction:
            return stack.denoiser(block).predict(noisy, sigma, clean.cond)

        # Callbacks run outside the context that gives test steps the trainer's precision.
        with trainer.precision_plugin.test_step_context():
            self._estimator.add(clean.clean, clean.labels, batch["index"], predict)

    def _finish(self, trainer: L.Trainer, stack: L.LightningModule, stage: str) -> None:
        if self._estimator is None:
            return
        if trainer.world_size > 1:
            self._estimator.sums.reduce(lambda part: _total(trainer, part.to(stack.device)).cpu())
        bound = self._estimator.result()
        self.result = bound.to_plain()
        for name, value in _scalars(bound).items():
            stack.log(f"{stage}/{name}", value)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_figure("likelihood", likelihood_figure(self.result["curve"]))


def _total(trainer: L.Trainer, part: Tensor) -> Tensor:
    reduced = trainer.strategy.reduce(part, reduce_op="sum")
    assert isinstance(reduced, Tensor)
    return reduced


def _scalars(bound: Bound) -> dict[str, float]:
    scalars = {
        "nats": bound.nats,
        "nats_standard_error": bound.standard_error,
        "nats_prior": bound.prior,
        "nats_reconstruction": bound.reconstruction,
    }
    return scalars | {f"nats_block_{index}": block.nats for index, block in enumerate(bound.blocks)}
