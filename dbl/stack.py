"""The assembled network: one block a call, chosen by the noise level."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal, Self

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from dbl.assembly import ModelFolder, Weights
from dbl.committee import Committee
from dbl.contract import Contract
from dbl.data_spec import TextSpec
from dbl.decoding import Decoding
from dbl.denoiser import Denoiser
from dbl.errors import UserError
from dbl.figures import image_grid
from dbl.generation import TextGenerator, stack_generator
from dbl.networks import CausalLM
from dbl.noise import even_fractions
from dbl.sampling import Denoise, Sampler, guided, state_dtype
from dbl.seeding import SampleDraws, generator_for
from dbl.targets import Batch, ClassTarget, Clean, MaskTarget, PixelTarget, TokenTarget, image_spec


@dataclass(frozen=True)
class Inference:
    """How an assembled network is used.

    Args:
        sampler: method, levels and guidance.
        resident: `all` keeps every block in memory, `one` only the active block; the output is the same.
        draws: start noises for each test image of a classifier; the accuracy of each draw is reported.
        num_images: images in a sample grid.
        committee: let all blocks together answer each noise level, for causal language models with the clean stream
            alone; see `dbl.committee`.
        seed: of the start noise.
    """

    sampler: Sampler = field(default_factory=Sampler)
    resident: Literal["all", "one"] = "all"
    draws: int = 3
    num_images: int = 100
    committee: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("draws", "num_images"):
            if getattr(self, name) < 1:
                raise UserError(f"inference.{name} ({getattr(self, name)}) must be at least 1")

    def check(self, contract: Contract) -> None:
        """Refuse what a network of this contract cannot do.

        Raises:
            UserError: if guidance is asked for where no condition was dropped in training, or the sampler is for
                another kind of target.
        """
        drops = (
            isinstance(contract.terms.target, PixelTarget) and getattr(contract.terms.network, "cond_dropout", 0) > 0
        )
        if self.sampler.guidance_scale != 1 and not drops:
            raise UserError(
                f"inference.sampler.guidance_scale ({self.sampler.guidance_scale}) must be 1: guidance needs a network "
                "for images that was trained with cond_dropout above 0"
            )
        if self.committee and not _reads_context_alone(contract):
            raise UserError(
                "inference.committee needs contract.network CausalLM with streams=clean and contract.target.kind "
                "posterior: other blocks know their own noise levels only"
            )
        if self.committee and self.resident != "all":
            raise UserError("inference.committee asks all blocks at once: set inference.resident=all")
        is_masked = isinstance(contract.terms.target, MaskTarget)
        if (self.sampler.method == "ancestral") != is_masked:
            raise UserError(
                f"inference.sampler.method ({self.sampler.method}) does not fit: `ancestral` is for masked text, and "
                "masked text has no other"
            )
        if is_masked and self.sampler.schedule != "quantile":
            raise UserError("inference.sampler.schedule must be quantile for masked text: even steps of time")


def _reads_context_alone(contract: Contract) -> bool:
    network, target = contract.terms.network, contract.terms.target
    is_clean = isinstance(network, CausalLM) and network.streams == "clean"
    return is_clean and isinstance(target, TokenTarget) and target.kind == "posterior"


class BlockStack(L.LightningModule):
    """All blocks of a run as one denoiser, for validate, test and predict.

    Args:
        contract: what the blocks agree on.
        load: gives the denoiser of a block, ready for inference.
        inference: how to sample.
        weights: what `load` gives, for reports: `ema` or `live`.
    """

    def __init__(
        self,
        contract: Contract,
        load: Callable[[int], Denoiser],
        inference: Inference | None = None,
        weights: Weights = "live",
    ) -> None:
        super().__init__()
        self.weights = weights
        self.contract = contract
        self.inference = inference or Inference()
        self.inference.check(contract)
        self.space = contract.space()
        self._load = load
        num_blocks = contract.partition.num_blocks
        self.blocks = nn.ModuleList(map(load, range(num_blocks)) if self.inference.resident == "all" else [])
        self._active: tuple[int, Denoiser] | None = None
        self.committee = Committee(list(self.blocks)) if self.inference.committee else None  # type: ignore[arg-type]
        self.grid: Tensor | None = None
        self.block_losses = nn.ModuleList(MeanMetric() for _ in range(num_blocks))
        self.total_loss = MeanMetric()
        num_accuracies = self.inference.draws if self.classifies else 0
        self.accuracies = nn.ModuleList(
            MulticlassAccuracy(contract.data.num_classes, average="micro") for _ in range(num_accuracies)
        )

    @classmethod
    def from_pretrained(cls, folder: str | Path, inference: Inference | None = None) -> Self:
        """The stack in a model folder written by `dbl assemble`.

        Raises:
            UserError: if the folder is not one, or its parts do not belong together.
        """
        model = ModelFolder(folder)
        return cls(model.contract, model.denoiser, inference, model.config["weights"])

    @property
    def makes_images(self) -> bool:
        """Whether the targets are images."""
        return isinstance(self.contract.terms.target, PixelTarget)

    @property
    def writes_text(self) -> bool:
        """Whether the targets are tokens of text."""
        return isinstance(self.contract.data, TextSpec)

    @property
    def classifies(self) -> bool:
        """Whether the targets stand for the class of an image."""
        return isinstance(self.contract.terms.target, ClassTarget)

    def denoiser(self, block: int) -> Denoiser:
        """The denoiser of one block, on the stack's device; with `resident: one` it takes the place of the last one."""
        if self.inference.resident == "all":
            found = self.blocks[block]
            assert isinstance(found, Denoiser)
            return found
        if self._active is None or self._active[0] != block:
            self._active = None  # free the last block before the next is loaded
            self._active = (block, self._load(block))
        return self._active[1].to(self.device)

    def answering(self, block: int) -> Denoiser:
        """What answers the levels of a block: the block itself, or the committee of all."""
        return self.denoiser(block) if self.committee is None else self.committee

    @torch.no_grad()
    def forward(self, noisy: Tensor, sigma: Tensor, cond: Tensor) -> Tensor:
        """Denoise a batch that is at one level, with the block that owns it.

        Args:
            noisy: [N, *target_shape], of any float type, which the result has too.
            sigma: the level, a scalar.
            cond: labels [N], images [N, channels, height, width] or tokens [N, T].
        """
        denoiser = self.denoiser(int(self.contract.partition.block_for(sigma)))
        levels = sigma.to(noisy.device, torch.float32).expand(len(noisy))
        denoised: Tensor = denoiser(noisy, levels, cond)
        return denoised.to(noisy.dtype)

    def sample(self, cond: Tensor, indices: Tensor, draw: int = 0) -> Tensor:
        """Carry noise to clean targets.

        The noise of a sample is a function of (seed, draw, its index), so any batch size gives the same samples.

        Args:
            cond: labels [N] or images [N, channels, height, width].
            indices: [N] number of each sample.
            draw: number of the repetition.

        Returns:
            [N, *target_shape].
        """
        sampler, noise = self.inference.sampler, self.contract.noise
        start = sampler.temperature * noise.sigma_max * self._unit_noise(indices, draw)
        denoise: Denoise = partial(self._denoise, cond=cond)
        if sampler.guidance_scale != 1:
            denoise = guided(denoise, partial(self._denoise, cond=self._no_class(cond)), sampler.guidance_scale)
        return sampler.run(denoise, start, sampler.levels(noise))

    def _denoise(self, noisy: Tensor, sigma: Tensor, cond: Tensor) -> Tensor:
        return self(noisy, sigma, cond)

    def _no_class(self, cond: Tensor) -> Tensor:
        return torch.full_like(cond, self.contract.data.num_classes)

    def _unit_noise(self, indices: Tensor, draw: int) -> Tensor:
        """[N, *target_shape] float64 (float32 where the device has no float64)."""
        shape = self.contract.terms.target.shape(self.contract.data)
        like = torch.empty(len(indices), *shape, device=self.device, dtype=state_dtype(self.device))
        return SampleDraws(self.inference.seed, ("start", draw), indices).normal(like)

    def generate(self, labels: Tensor, indices: Tensor, draw: int = 0) -> Tensor:
        """Images [N, channels, height, width] of the classes `labels` [N], in raw units (uint8 sets: 0 to 255)."""
        return self.space.decode(self.sample(labels, indices, draw))

    def classify(self, images: Tensor, indices: Tensor, draw: int = 0) -> Tensor:
        """Labels [N] of standardised images [N, channels, height, width]."""
        return self.space.decode(self.sample(images, indices, draw))

    def text_generator(self, decoding: Decoding, num_steps: int | None = None, seed: int = 0) -> TextGenerator:
        """A writer, if the targets are tokens.

        Args:
            decoding: how tokens are drawn.
            num_steps: of the sampler, for each token (of masked text for all of them); None: as in `inference`.
            seed: of all draws.
        """
        sampler = self.inference.sampler
        sampler = sampler if num_steps is None else replace(sampler, num_steps=num_steps)
        partition = self.contract.partition if self.committee is None else self.contract.partition.merged()
        return stack_generator(self.contract, self.answering, partition, sampler, decoding, seed)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss over all levels; accuracy if the stack is a classifier."""
        self._evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss over all levels; accuracy if the stack is a classifier."""
        self._evaluate(batch, "test")

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """A generated image for each label of the batch, or a label for each image."""
        clean = self.space.encode(batch)
        if self.makes_images:
            return self.generate(clean.labels, batch["index"])
        if self.classifies:
            return self.classify(clean.cond, batch["index"])
        raise UserError("dbl predict is for images and classes: use dbl sample for text")

    def _evaluate(self, batch: Batch, stage: str) -> None:
        clean, num = self.space.encode(batch), len(batch["index"])
        self._add_losses(clean, batch)
        self.log(f"{stage}/loss", self.total_loss, batch_size=num)
        for block, metric in enumerate(self.block_losses):
            assert isinstance(metric, MeanMetric)
            self.log(f"{stage}/loss_block_{block}", metric, batch_size=num)
        for draw, accuracy in enumerate(self.accuracies):
            assert isinstance(accuracy, MulticlassAccuracy)
            accuracy(self.classify(clean.cond, batch["index"], draw), clean.labels)
            self.log(f"{stage}/accuracy_draw_{draw}", accuracy, batch_size=num)

    @torch.no_grad()
    def _add_losses(self, clean: Clean, batch: Batch) -> None:
        """Weighted losses at fixed levels that cover the whole range, each with the block that owns its level."""
        levels = self.contract.noise.quantile(even_fractions(batch["index"].cpu()))
        owners = self.contract.partition.block_for(levels)
        sigma = levels.to(clean.clean.device, torch.float32)
        generator = generator_for(self.inference.seed, "test noise", int(batch["position"]), device=clean.clean.device)
        noise = torch.randn(clean.clean.shape, generator=generator, device=clean.clean.device)
        noisy = self.space.corrupt(clean.clean, noise, sigma)
        for block in owners.unique().tolist():
            rows = (owners == block).to(clean.clean.device)
            part = Clean(*(tensor[rows] for tensor in clean))
            losses = self.denoiser(block).loss(part, noisy[rows], sigma[rows])
            self.block_losses[block](losses)
            self.total_loss(losses)

    def on_test_end(self) -> None:
        """Draw the sample grid if the stack makes images, while it is on its device, and log it."""
        if not self.makes_images:
            return
        self.grid = self._sample_grid()
        for logger in self.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("samples", self.grid)

    def _sample_grid(self) -> Tensor:
        """`inference.num_images` images, one class a column (ten columns at most), as `image_grid` makes it."""
        data = image_spec(self.contract.data, "PixelTarget")
        columns = min(data.num_classes, 10)
        indices = torch.arange(self.inference.num_images, device=self.device)
        images = torch.cat([self.generate(part % columns, part) for part in indices.split(64)])
        return image_grid(images, data, columns)
