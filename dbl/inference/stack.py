"""The assembled network: one block a call, chosen by the noise level."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Self

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from dbl.data.spec import TextSpec
from dbl.denoising.decoding import Decoding
from dbl.denoising.denoiser import Denoiser
from dbl.denoising.sampling import Denoise, guided, state_dtype
from dbl.denoising.targets import Batch, ClassTarget, Clean, PixelTarget, image_spec
from dbl.diffusion.noise import even_fractions
from dbl.inference.ensemble import Ensemble
from dbl.inference.generation import TextGenerator, stack_generator
from dbl.inference.grid import image_grid
from dbl.inference.settings import InferenceConfig
from dbl.run.contract import Contract
from dbl.run.hub import find_model
from dbl.run.model_folder import ModelFolder, Weights, require_blocks
from dbl.utils.errors import UserError
from dbl.utils.seeding import SampleDraws, generator_for


class BlockStack(L.LightningModule):
    """All blocks of a run as one denoiser, for validate, test and predict.

    Args:
        contract: what the blocks agree on.
        load: gives the denoiser of a block, ready for inference.
        inference: how to sample.
        weights: what `load` gives, for reports: `ema` or `live`.
        available: blocks that `load` can give; None: all. A stack that lacks blocks refuses their levels.

    Raises:
        UserError: if `inference` does not fit the contract, or asks all blocks of a stack that lacks some.

    Example:
        >>> import dbl, torch
        >>> data = dbl.Digits(batch_size=64, eval_batch_size=64)
        >>> contract = dbl.ContractConfig(dbl.DiT(3, width=32, num_heads=2), dbl.PixelTarget()).build(data.spec)
        >>> blocks = [dbl.DiffusionBlock(contract, block) for block in range(3)]  # not trained here
        >>> sampler = dbl.Sampler(num_steps=6)
        >>> stack = dbl.BlockStack(contract, lambda block: blocks[block].denoiser.eval(), dbl.InferenceConfig(sampler))
        >>> stack.generate(labels=torch.tensor([3, 7]), indices=torch.arange(2)).shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self,
        contract: Contract,
        load: Callable[[int], Denoiser],
        inference: InferenceConfig | None = None,
        weights: Weights = "live",
        available: Iterable[int] | None = None,
    ) -> None:
        super().__init__()
        self.weights = weights
        self.contract = contract
        self.inference = inference or InferenceConfig()
        self.inference.check(contract)
        self.space = contract.space()
        self._load = load
        num_blocks = contract.partition.num_blocks
        self.available = tuple(range(num_blocks) if available is None else available)
        if self.inference.ensemble:
            self.require_all("inference.ensemble")
        kept = self.available if self.inference.keep_in_memory == "all" else ()
        self.blocks = nn.ModuleDict({str(block): load(block) for block in kept})
        self._active: tuple[int, Denoiser] | None = None
        members = list(self.blocks.values())
        self.ensemble = Ensemble(members) if self.inference.ensemble else None  # type: ignore[arg-type]
        self.grid: Tensor | None = None
        self.block_losses = nn.ModuleList(MeanMetric() for _ in range(num_blocks))
        self.total_loss = MeanMetric()
        num_accuracies = self.inference.draws if self.classifies else 0
        self.accuracies = nn.ModuleList(
            MulticlassAccuracy(contract.data.num_classes, average="micro") for _ in range(num_accuracies)
        )

    @classmethod
    def from_pretrained(
        cls, name_or_folder: str | Path, inference: InferenceConfig | None = None, revision: str | None = None
    ) -> Self:
        """The stack in a model folder written by `dbl assemble`, or in a copy of one on the Hugging Face hub.

        Args:
            name_or_folder: a folder; if there is none, a string `owner/name` is looked up on the hub.
            inference: how to sample.
            revision: branch, tag or commit on the hub; by default its main branch.

        Raises:
            UserError: if there is no such model, it is damaged, or its parts do not belong together.
        """
        model = ModelFolder(find_model(name_or_folder, revision))
        return cls(model.contract, model.denoiser, inference, model.config["weights"], model.available)

    @property
    def makes_images(self) -> bool:
        """Whether the targets are images."""
        return isinstance(self.contract.config.target, PixelTarget)

    @property
    def writes_text(self) -> bool:
        """Whether the targets are tokens of text."""
        return isinstance(self.contract.data, TextSpec)

    @property
    def classifies(self) -> bool:
        """Whether the targets stand for the class of an image."""
        return isinstance(self.contract.config.target, ClassTarget)

    def require_all(self, purpose: str) -> None:
        """Refuse what needs every block, if one is lacking; UserError names `purpose` and the blocks."""
        partition = self.contract.partition
        require_blocks(partition, self.available, range(partition.num_blocks), purpose)

    def setup(self, stage: str) -> None:
        """Refuse, before the first batch, a test or validation without all blocks, and a prediction that visits one."""
        if stage == "predict":
            self._require_schedule()
        else:
            self.require_all(f"dbl {stage}")

    def _require_schedule(self) -> None:
        partition, sampler = self.contract.partition, self.inference.sampler
        visited = partition.block_for(sampler.levels(self.contract.noise)[:-1]).tolist()
        purpose = f"sampling with {sampler.num_steps} {sampler.schedule} steps"
        require_blocks(partition, self.available, visited, purpose)

    def denoiser(self, block: int) -> Denoiser:
        """The denoiser of one block, on the stack's device; with `keep_in_memory: one` it replaces the last one.

        Raises:
            UserError: if the stack lacks this block.
        """
        require_blocks(self.contract.partition, self.available, [block], "this noise level")
        if self.inference.keep_in_memory == "all":
            found = self.blocks[str(block)]
            assert isinstance(found, Denoiser)
            return found
        if self._active is None or self._active[0] != block:
            self._active = None  # free the last block before the next is loaded
            self._active = (block, self._load(block))
        return self._active[1].to(self.device)

    def denoiser_for(self, block: int) -> Denoiser:
        """What answers the levels of a block: the block itself, or the ensemble of all."""
        return self.denoiser(block) if self.ensemble is None else self.ensemble

    @torch.no_grad()
    def forward(self, noisy: Tensor, sigma: Tensor, cond: Tensor) -> Tensor:
        """Denoise a batch that is at one level, with the block that owns it.

        Args:
            noisy: [N, *target_shape], of any float type, which the result has too.
            sigma: the level, a scalar.
            cond: labels [N], images [N, channels, height, width] or tokens [N, T].

        Raises:
            UserError: if the stack lacks the block of this level.
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

        Raises:
            UserError: if the stack lacks a block that the schedule visits.
        """
        self._require_schedule()
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
        shape = self.contract.config.target.shape(self.contract.data)
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

        Raises:
            UserError: if the stack lacks a block: each reads the text.
        """
        self.require_all("writing text")
        sampler = self.inference.sampler
        sampler = sampler if num_steps is None else replace(sampler, num_steps=num_steps)
        partition = self.contract.partition if self.ensemble is None else self.contract.partition.merged()
        return stack_generator(self.contract, self.denoiser_for, partition, sampler, decoding, seed)

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
