"""The assembled network: at each noise level, the block that owns it denoises."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Self, cast

import torch
from torch import Tensor, nn

from dbl.denoising.decoding import Decoding
from dbl.denoising.denoiser import Denoiser
from dbl.denoising.sampling import Denoise, guided, per_sample, state_dtype
from dbl.inference.ensemble import Ensemble
from dbl.inference.generation import BlockSampling, TextGenerator, stack_generator
from dbl.run.contract import Contract
from dbl.run.hub import find_model
from dbl.run.inference import InferenceConfig, default_inference
from dbl.run.model_config import Weights
from dbl.run.model_folder import ModelFolder, require_blocks
from dbl.utils.seeding import SampleDraws


class BlockStack(nn.Module):
    """All blocks of a run as one denoiser that samples, classifies and writes text.

    To evaluate it with a Lightning Trainer, wrap it in `dbl.StackEvaluation`. Raises UserError if `inference` does not
    fit the contract, or needs all blocks of a stack that lacks some.

    Args:
        contract: contract of the blocks.
        load: function that gives the denoiser of a block, ready for inference.
        inference: how it is used; None: `default_inference`, the sampler of the contract's target.
        weights: kind of weights that `load` gives, for reports: `ema` or `live`.
        available: blocks that `load` can give; None: all. A stack that lacks blocks refuses their levels.

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
        self.target = contract.config.target
        self.inference = inference or default_inference(contract)
        self.inference.check(contract)
        self.space = contract.space()
        self.available = tuple(range(contract.partition.num_blocks) if available is None else available)
        if self.inference.ensemble:
            self.require_all("inference.ensemble")
        self.blocks = Blocks(load, kept=self.available if self.inference.keep_in_memory == "all" else ())
        members = list(self.blocks.values())
        self.ensemble = Ensemble(members) if self.inference.ensemble else None  # type: ignore[arg-type]

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | Path,
        inference: InferenceConfig | None = None,
        revision: str | None = None,
        trusted: Collection[str] = (),
    ) -> Self:
        """The stack of a run that is assembled, of a model folder, or of a copy of one on the Hugging Face hub.

        It is in evaluation mode, on the CPU, and samples as the report of its run did.

        A model is data: no code of its choice is run, and no file outside its folder is read. Its classes are those of
        `dbl`, and those of yours that are already imported or whose package you trust.

        Raises UserError if there is no such model, the run is not assembled, the model is damaged, its parts do not
        belong together, or it names a class of a module that is neither imported nor trusted.

        Args:
            name_or_folder: run folder, such as runs/digits_dit, or model folder; if there is none, a string
                `owner/name` is looked up on the hub.
            inference: how it is used; None: as was chosen when it was assembled, hence as its report used it. Models of
                earlier versions do not say: of them, None means the sampler of their target.
            revision: branch, tag or commit on the hub; by default its main branch.
            trusted: packages with classes of your own that the model may import, e.g. ["my_package"]: this one and the
                modules inside it. Their code is run.
        """
        model = ModelFolder(find_model(name_or_folder, revision), trusted)
        inference = model.inference if inference is None else inference
        return cls(model.contract, model.denoiser, inference, model.config["weights"], model.available).eval()

    @property
    def device(self) -> torch.device:
        """The device of the stack, and of every block it loads."""
        return self.blocks.device

    def require_all(self, purpose: str) -> None:
        """Raise UserError, which names `purpose` and the missing blocks, unless every block is available."""
        self._require(range(self.contract.partition.num_blocks), purpose)

    def require_schedule(self) -> None:
        """Raise UserError unless every block that the sampler visits is available."""
        sampler = self.inference.sampler
        visited = self.contract.partition.block_for(sampler.levels(self.contract.noise)[:-1]).tolist()
        self._require(visited, f"sampling with {sampler.num_steps} {sampler.schedule} steps")

    def _require(self, blocks: Iterable[int], purpose: str) -> None:
        require_blocks(self.contract.partition, self.available, blocks, purpose)

    def denoiser(self, block: int) -> Denoiser:
        """The denoiser of one block, on the stack's device; with `keep_in_memory: one` it replaces the last one.

        Raises UserError if the stack lacks this block.
        """
        self._require([block], "this noise level")
        return self.blocks.denoiser(block)

    def denoiser_for(self, block: int) -> Denoiser:
        """The denoiser at the levels of a block: the block itself, or the ensemble of all."""
        return self.denoiser(block) if self.ensemble is None else self.ensemble

    @torch.no_grad()
    def forward(self, noisy: Tensor, sigma: Tensor, cond: Tensor) -> Tensor:
        """Denoise a batch that is at one level, with the block that owns it.

        Raises UserError if the stack lacks the block of this level.

        Args:
            noisy: [N, *target_shape], of any float type, which the result has too.
            sigma: level, a scalar.
            cond: labels [N], images [N, channels, height, width] or tokens [N, T].
        """
        denoiser = self.denoiser(int(self.contract.partition.block_for(sigma)))
        denoised: Tensor = denoiser(noisy, per_sample(sigma, noisy), cond)
        return denoised.to(noisy.dtype)

    def sample(self, cond: Tensor, indices: Tensor, draw: int = 0) -> Tensor:
        """Carry noise to clean targets.

        The noise of a sample is a function of (seed, draw, its index), so any batch size gives the same samples. Raises
        UserError if the stack lacks a block that the schedule visits.

        Args:
            cond: labels [N] or images [N, channels, height, width].
            indices: [N] number of each sample.
            draw: number of the repetition.

        Returns:
            [N, *target_shape].
        """
        self.require_schedule()

        def conditioned(cond: Tensor) -> Denoise:
            return lambda noisy, sigma: self(noisy, sigma, cond)

        sampler, denoise = self.inference.sampler, conditioned(cond)
        if sampler.guidance_scale != 1:
            no_class = torch.full_like(cond, self.contract.data.num_classes)
            denoise = guided(denoise, conditioned(no_class), sampler.guidance_scale)
        shape = self.target.shape(self.contract.data)
        like = torch.empty(len(indices), *shape, device=self.device, dtype=state_dtype(self.device))
        unit_noise = SampleDraws(self.inference.seed, ("start", draw), indices).normal(like)
        return sampler.sample(denoise, unit_noise, self.contract.noise)

    def generate(self, labels: Tensor, indices: Tensor, draw: int = 0) -> Tensor:
        """Images [N, channels, height, width] of the classes `labels` [N], in raw units (uint8 sets: 0 to 255)."""
        return self.space.decode(self.sample(labels, indices, draw))

    def classify(self, images: Tensor, indices: Tensor, draw: int = 0) -> Tensor:
        """Labels [N] of standardised images [N, channels, height, width]."""
        return self.space.decode(self.sample(images, indices, draw))

    def text_generator(self, decoding: Decoding, num_steps: int | None = None, seed: int = 0) -> TextGenerator:
        """A text generator, if the targets are tokens.

        Raises UserError if the stack lacks a block: each reads the text.

        Args:
            decoding: temperature, top-k and top-p.
            num_steps: steps of the sampler for each token (of masked text for all of them); None: as in `inference`.
            seed: random seed.
        """
        self.require_all("writing text")
        sampler = self.inference.sampler
        sampler = sampler if num_steps is None else replace(sampler, num_steps=num_steps)
        partition = self.contract.partition if self.ensemble is None else self.contract.partition.merged()
        blocks = BlockSampling(self.denoiser_for, self.contract.noise, partition, sampler, decoding)
        return stack_generator(self.contract, blocks, seed)


class Blocks(nn.ModuleDict):
    """The denoisers of a stack: some kept in memory, others loaded when needed, one at a time.

    Args:
        load: function that gives the denoiser of a block, ready for inference.
        kept: blocks that are loaded at once and kept.
    """

    def __init__(self, load: Callable[[int], Denoiser], kept: Iterable[int]) -> None:
        super().__init__({str(block): load(block) for block in kept})
        self._load = load
        self._active: tuple[int, Denoiser] | None = None  # in a tuple, so that it is no submodule
        # Follows `.to(device)`, also where no block is kept and the target space has no tensor.
        self._anchor: Tensor
        self.register_buffer("_anchor", torch.empty(0), persistent=False)

    @property
    def device(self) -> torch.device:
        """The device that blocks are on, or are moved to."""
        return self._anchor.device

    def denoiser(self, block: int) -> Denoiser:
        """The denoiser of one block; one that is not kept replaces the last such one."""
        if str(block) in self:
            return cast(Denoiser, self[str(block)])
        # Texts are written in inference mode: parameters that are made in it serve nothing else.
        with torch.inference_mode(False):
            if self._active is None or self._active[0] != block:
                self._active = None  # free the last block before the next is loaded
                self._active = (block, self._load(block))
            return self._active[1].to(self.device)
