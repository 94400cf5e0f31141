"""The blocks along the noise levels: which of them denoises at a level, and sampling with all of them."""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Self

import torch
from torch import Tensor, nn
from typing_extensions import override

from dbl.denoising.decoding import Decoding
from dbl.denoising.denoiser import Denoiser
from dbl.denoising.readout import Prediction
from dbl.denoising.sampling import Denoise, Sampler, guided, per_sample, state_dtype
from dbl.inference.blocks import Blocks
from dbl.inference.ensemble import Ensemble
from dbl.inference.generation import BlockSampling, TextGenerator, stack_generator
from dbl.inference.precision import computing_in, parameters_alone, type_after
from dbl.run.contract import Contract
from dbl.run.inference import InferenceConfig, default_inference
from dbl.run.model_folder import require_blocks
from dbl.utils.seeding import SampleDraws


class BlockChain(nn.Module):
    """All blocks of a run as one denoiser, and the samples that it makes; `BlockStack` adds what users ask of it.

    Raises UserError if `inference` does not fit the contract, or needs all blocks of a chain that lacks some.

    Args:
        contract: contract of the blocks.
        load: function that gives the denoiser of a block, ready for inference.
        inference: settings of its use; None: `default_inference`, the sampler of the contract's target.
        available: blocks that `load` can give; None: all. A chain that lacks blocks refuses their levels.
    """

    def __init__(
        self,
        contract: Contract,
        load: Callable[[int], Denoiser],
        inference: InferenceConfig | None = None,
        available: Iterable[int] | None = None,
    ) -> None:
        super().__init__()
        self._predictions = deque[Prediction](maxlen=1)  # the last one, of which a sample has the target alone
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

    @property
    def device(self) -> torch.device:
        """The device of the stack, and of every block it loads."""
        return self.blocks.device

    def require_all(self, purpose: str) -> None:
        """Raise UserError, which names `purpose` and the missing blocks, unless every block is available."""
        self._require(range(self.contract.partition.num_blocks), purpose)

    def require_schedule(self, num_steps: int | None = None) -> None:
        """Raise UserError unless every block that the sampler visits in so many steps is available."""
        sampler = self._sampler(num_steps)
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

    def predict(self, noisy: Tensor, sigma: Tensor, cond: Tensor) -> Prediction:
        """What the block that owns a level predicts for a batch at that level; arguments as in `forward`."""
        denoiser = self.denoiser(int(self.contract.partition.block_for(sigma)))
        with computing_in(self.blocks.dtype, self.device):
            return denoiser.predict(noisy, per_sample(sigma, noisy), cond)

    @torch.no_grad()
    def forward(self, noisy: Tensor, sigma: Tensor, cond: Tensor) -> Tensor:
        """Denoise a batch that is at one level, with the block that owns it.

        Raises UserError if the stack lacks the block of this level.

        Args:
            noisy: [N, *target_shape], of any float type, which the result has too.
            sigma: level, a scalar.
            cond: labels [N], images [N, channels, height, width] or tokens [N, T].
        """
        prediction = self.predict(noisy, sigma, cond)
        self._predictions.append(prediction)
        return prediction.denoised.to(noisy.dtype)

    def _sampler(self, num_steps: int | None = None) -> Sampler:
        """The sampler of `inference`, with another number of steps unless it is None."""
        own = self.inference.sampler
        return own if num_steps is None else replace(own, num_steps=num_steps)

    def sample(
        self, cond: Tensor, indices: Tensor, draw: int = 0, seed: int | None = None, num_steps: int | None = None
    ) -> Tensor:
        """Carry noise to clean targets.

        The noise of a sample is a function of (seed, draw, its index), so any batch size gives the same samples. Raises
        UserError if the stack lacks a block that the schedule visits.

        Args:
            cond: labels [N] or images [N, channels, height, width].
            indices: [N] number of each sample.
            draw: number of the repetition.
            seed: random seed of the start noise; None: that of `inference`.
            num_steps: steps of the sampler; None: as in `inference`.

        Returns:
            [N, *target_shape].
        """
        return self._carried(cond, indices, draw, seed, num_steps)[0]

    def sample_images(
        self, labels: Tensor, indices: Tensor, draw: int = 0, seed: int | None = None, num_steps: int | None = None
    ) -> Tensor:
        """Images [N, channels, height, width] of the classes `labels` [N], in raw units (uint8 sets: 0 to 255)."""
        return self.space.decode(self.sample(labels, indices, draw, seed, num_steps))

    def sample_classes(
        self, images: Tensor, indices: Tensor, draw: int = 0, seed: int | None = None, num_steps: int | None = None
    ) -> Tensor:
        """Probabilities [N, C] of the classes of standardised images [N, channels, height, width].

        They are those of the last prediction, whose expected row the sample is.
        """
        sample, last = self._carried(images, indices, draw, seed, num_steps)
        if last.logits is None:  # a target of your own may answer without
            return nn.functional.one_hot(self.space.decode(sample), self.contract.data.num_classes).float()
        return last.logits.float().softmax(dim=-1)

    @torch.no_grad()
    def _carried(
        self, cond: Tensor, indices: Tensor, draw: int, seed: int | None, num_steps: int | None
    ) -> tuple[Tensor, Prediction]:
        """Samples, and the prediction at the last level."""
        self.require_schedule(num_steps)

        def conditioned(cond: Tensor) -> Denoise:
            return lambda noisy, sigma: self(noisy, sigma, cond)  # by `__call__`: diagnostics hook into it

        denoise = conditioned(cond)
        scale = self.inference.sampler.guidance_scale
        if scale != 1:
            no_class = torch.full_like(cond, self.contract.data.num_classes)
            denoise = guided(denoise, conditioned(no_class), scale)
        sample = self._sampler(num_steps).sample(denoise, self.start_noise(indices, draw, seed), self.contract.noise)
        return sample, self._predictions.pop()

    def start_noise(self, indices: Tensor, draw: int = 0, seed: int | None = None) -> Tensor:
        """Standard normal noise [N, *target_shape] that samples start from; arguments as in `sample`."""
        shape = self.target.shape(self.contract.data)
        like = torch.empty(len(indices), *shape, device=self.device, dtype=state_dtype(self.device))
        seed = self.inference.seed if seed is None else seed
        return SampleDraws(seed, ("start", draw), indices).normal(like)

    def text_generator(self, decoding: Decoding, num_steps: int | None = None, seed: int = 0) -> TextGenerator:
        """A text generator, if the targets are tokens.

        Raises UserError if the stack lacks a block: each reads the text.

        Args:
            decoding: temperature, top-k and top-p.
            num_steps: steps of the sampler for each token (of masked text for all of them); None: as in `inference`.
            seed: random seed.
        """
        self.require_all("writing text")
        partition = self.contract.partition if self.ensemble is None else self.contract.partition.merged()
        blocks = BlockSampling(self.denoiser_for, self.contract.noise, partition, self._sampler(num_steps), decoding)
        return stack_generator(self.contract, blocks, seed)

    @override
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move, or convert parameters alone: what surrounds the networks stays in float32."""
        type_after(fn, self.blocks.dtype)  # refuses before anything is changed
        return super()._apply(parameters_alone(fn), recurse)
