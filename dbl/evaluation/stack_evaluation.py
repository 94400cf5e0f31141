"""The assembled network under a Lightning Trainer: losses by block, accuracies, samples."""

from typing import TYPE_CHECKING

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from dbl.data import ImageData
from dbl.denoising.targets import Batch, Clean, image_spec
from dbl.diffusion.noise import even_fractions
from dbl.evaluation.figures import samples_figure
from dbl.inference.stack import BlockStack
from dbl.utils.errors import UserError
from dbl.utils.seeding import SampleDraws

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class StackEvaluation(L.LightningModule):
    """A stack for `validate`, `test` and `predict` of a Lightning Trainer.

    Args:
        stack: assembled network.

    Attributes:
        samples: picture of samples below real test images, if the stack makes images; None before a test.

    Example:
        >>> import dbl
        >>> import lightning as L
        >>> data = dbl.Digits(batch_size=64, eval_batch_size=64)
        >>> contract = dbl.ContractConfig(dbl.DiT(3, width=32, num_heads=2), dbl.PixelTarget()).build(data.spec)
        >>> blocks = [dbl.DiffusionBlock(contract, block) for block in range(3)]  # not trained here
        >>> inference = dbl.InferenceConfig(dbl.Sampler(num_steps=6), num_images=4)
        >>> stack = dbl.BlockStack(contract, lambda block: blocks[block].denoiser.eval(), inference)
        >>> quiet = dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar"], False)
        >>> trainer = L.Trainer(accelerator="cpu", enable_model_summary=False, limit_test_batches=1, **quiet)
        >>> sorted(trainer.test(dbl.StackEvaluation(stack), data, verbose=False)[0])
        ['test/loss', 'test/loss_block_0', 'test/loss_block_1', 'test/loss_block_2']
    """

    def __init__(self, stack: BlockStack) -> None:
        super().__init__()
        self.stack = stack
        self.samples: Figure | None = None
        self.block_losses = nn.ModuleList(MeanMetric() for _ in range(stack.contract.partition.num_blocks))
        self.total_loss = MeanMetric()
        num_accuracies = stack.inference.draws if stack.target.generates == "classes" else 0
        self.accuracies = nn.ModuleList(
            MulticlassAccuracy(stack.contract.data.num_classes, average="micro") for _ in range(num_accuracies)
        )

    def setup(self, stage: str) -> None:
        """Refuse, before the first batch, a stack that lacks blocks which the evaluation calls."""
        if stage == "predict":
            self.stack.require_schedule()
        else:
            self.stack.require_all(f"dbl {stage}")

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss over all levels; accuracy if the stack is a classifier."""
        self._evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss over all levels; accuracy if the stack is a classifier."""
        self._evaluate(batch, "test")

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """A generated image for each label of the batch, or a label for each image."""
        if self.stack.target.generates == "text":
            raise UserError("dbl predict is for images and classes: use dbl sample for text")
        cond, indices = self.stack.space.encode(batch).cond, batch["index"]
        if self.stack.target.generates == "classes":
            return self.stack.sample_classes(cond, indices).argmax(dim=-1)
        return self.stack.space.decode(self.stack.sample(cond, indices))

    def _evaluate(self, batch: Batch, stage: str) -> None:
        clean, num = self.stack.space.encode(batch), len(batch["index"])
        self._add_losses(clean, batch)
        self.log(f"{stage}/loss", self.total_loss, batch_size=num)
        for block, metric in enumerate(self.block_losses):
            assert isinstance(metric, MeanMetric)
            self.log(f"{stage}/loss_block_{block}", metric, batch_size=num)
        for draw, accuracy in enumerate(self.accuracies):
            assert isinstance(accuracy, MulticlassAccuracy)
            accuracy(self.stack.sample_classes(clean.cond, batch["index"], draw).argmax(dim=-1), clean.labels)
            self.log(f"{stage}/accuracy_draw_{draw}", accuracy, batch_size=num)

    @torch.no_grad()
    def _add_losses(self, clean: Clean, batch: Batch) -> None:
        """Weighted losses at fixed levels that cover the whole range, each with the block that owns its level.

        Level and noise belong to the sample, so the losses do not depend on how samples are spread over batches.
        """
        contract, device, index = self.stack.contract, clean.clean.device, batch["index"].cpu()
        levels = contract.noise.quantile(even_fractions(index))
        owners = contract.partition.block_for(levels)
        sigma = levels.to(device, torch.float32)
        like = clean.clean.new_empty(clean.clean.shape, dtype=torch.float32)
        noise = SampleDraws(self.stack.inference.seed, ("test noise",), index).normal(like)
        noisy = self.stack.space.corrupt(clean.clean, noise, sigma)
        for block in owners.unique().tolist():  # block by block: a stack may keep only one in memory
            rows = (owners == block).to(device)
            part = Clean(*(tensor[rows] for tensor in clean))
            losses = self.stack.denoiser(block).loss(part, noisy[rows], sigma[rows])
            weights = contract.sample_weights(part.labels)
            for metric in (self.block_losses[block], self.total_loss):
                metric(losses, 1.0 if weights is None else weights)

    def on_test_end(self) -> None:
        """Draw and log samples while the stack is on its device, if it makes images."""
        if self.stack.target.generates != "images":
            return
        self.samples = self._draw_samples()
        for logger in self.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_figure("whole_network/samples", self.samples, close=False)

    def _draw_samples(self) -> "Figure":
        """`inference.num_images` images, one class a column (ten columns at most), below a row of real images."""
        data = image_spec(self.stack.contract.data, "PixelTarget")
        columns = min(data.num_classes, 10)
        indices = torch.arange(self.stack.inference.num_images, device=self.device)
        images = torch.cat([self.stack.sample_images(part % columns, part) for part in indices.split(64)])
        return samples_figure(images.cpu(), data, columns, self._real_images(columns))

    def _real_images(self, num_classes: int) -> Tensor | None:
        """The first test image of each of the first classes; None if the test has no such data, or lacks a class."""
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, ImageData):
            return None
        test = data.split("test")
        found = [(test.labels == label).nonzero().flatten()[:1] for label in range(num_classes)]
        return test.images[torch.cat(found)].float() if all(map(len, found)) else None
