"""Writing masked text: hidden tokens are revealed step by step, in any order, around those that are given."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from typing_extensions import override

from dbl.denoising.decoding import draw_tokens
from dbl.diffusion.masking import unmask
from dbl.inference.generation.base import BlockSampling, TextGenerator, stopped
from dbl.utils.errors import UserError
from dbl.utils.seeding import SampleDraws


class MaskedGenerator(TextGenerator):
    """The ancestral sampler of masked diffusion (MD4, arXiv 2406.04329), one block a step.

    Args:
        blocks: blocks, whose levels are masking probabilities; of the sampler only the number of steps matters.
        seq_len: length T of the network's sequences.
        mask: token that means hidden.
        end: token behind which everything was hidden in training; see `TextSpec`.
        seed: random seed.
    """

    def __init__(self, blocks: BlockSampling, seq_len: int, mask: int, end: int | None = None, seed: int = 0) -> None:
        self.blocks = blocks
        self.seq_len = seq_len
        self.mask = mask
        self.end = end
        self.seed = seed

    @override
    def generate(self, prompts: Tensor, num_tokens: int, indices: Tensor, stop: int | None = None) -> Tensor:
        length = prompts.shape[1]
        hidden = torch.full((len(prompts), num_tokens), self.mask, device=prompts.device)
        return stopped(self.infill(torch.cat([prompts, hidden], dim=1), indices)[:, length:], stop)

    @torch.no_grad()
    def infill(self, template: Tensor, indices: Tensor) -> Tensor:
        """Fill in the hidden tokens of templates and leave the others.

        The network always sees T tokens, as in training: a shorter template is extended by hidden ones, and what stands
        behind a drawn end is hidden again after each step. Raises UserError if a template is longer than the network's
        sequences.

        Args:
            template: [N, S] tokens and masks, S at most T.
            indices: [N] numbers of the samples.

        Returns:
            [N, S] int64; behind a drawn end, ends.
        """
        length = template.shape[1]
        if length > self.seq_len:
            raise UserError(
                f"{length} tokens of prompt and answer do not fit the {self.seq_len} of this network: ask for fewer"
            )
        noisy = nn.functional.pad(template, (0, self.seq_len - length), value=self.mask)
        given, levels = noisy != self.mask, self.blocks.sampler.levels(self.blocks.noise)
        for step, (level, next_level) in enumerate(pairwise(levels.tolist())):
            block = int(self.blocks.partition.block_for(torch.tensor(level, dtype=torch.float64)))
            sigma = torch.full((len(noisy),), level, device=noisy.device)
            logits = self.blocks.denoiser(block).predict(noisy, sigma, noisy[:, :0], self.blocks.decoding).logits
            assert logits is not None
            # Two independent draws for each position: its token, and whether that is revealed in this step.
            drawn = draw_tokens(logits, SampleDraws(self.seed, ("token", step), indices))
            normal = SampleDraws(self.seed, ("show", step), indices).normal(noisy.float())
            noisy = unmask(noisy, drawn, torch.special.ndtr(normal), level, next_level, self.mask)
            noisy = self._with_rest(noisy, given, self.mask)
        return self._with_rest(noisy, given, self.end)[:, :length]

    def _with_rest(self, noisy: Tensor, given: Tensor, rest: int | None) -> Tensor:
        """Tokens [N, T] with `rest` in place of all that are behind the first drawn end, but for the given ones."""
        if self.end is None or rest is None:
            return noisy
        ends = (noisy == self.end) & ~given
        behind = (ends.cumsum(dim=1) - ends.long() > 0) & ~given
        return noisy.masked_fill(behind, rest)
