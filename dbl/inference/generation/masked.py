"""Writing masked text: hidden tokens are shown step by step, in any order, around those that are given."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from dbl.denoising.decoding import Decoding, draw_tokens
from dbl.denoising.denoiser import Denoiser
from dbl.denoising.sampling import Sampler
from dbl.diffusion.masking import unmask
from dbl.diffusion.noise import NoiseDistribution
from dbl.diffusion.partition import Partition
from dbl.inference.generation.causal import TextGenerator, stopped
from dbl.utils.errors import UserError
from dbl.utils.seeding import SampleDraws


class MaskedGenerator(TextGenerator):
    """The ancestral sampler of masked diffusion (MD4, arXiv 2406.04329), one block a step.

    Args:
        denoiser: gives the denoiser of a block.
        noise: distribution of the masking probability.
        partition: which block owns which masking probability.
        sampler: number of steps.
        decoding: acts on the logits of hidden tokens.
        seq_len: T of the network.
        mask: the token that means hidden.
        seed: of all draws.
    """

    def __init__(
        self,
        denoiser: Callable[[int], Denoiser],
        noise: NoiseDistribution,
        partition: Partition,
        sampler: Sampler,
        decoding: Decoding,
        seq_len: int,
        mask: int,
        seed: int = 0,
    ) -> None:
        self.denoiser = denoiser
        self.partition = partition
        self.levels = sampler.levels(noise)
        self.decoding = decoding
        self.seq_len = seq_len
        self.mask = mask
        self.seed = seed

    def generate(self, prompts: Tensor, num_tokens: int, indices: Tensor, stop: int | None = None) -> Tensor:
        """See `TextGenerator.generate`."""
        length = prompts.shape[1]
        hidden = torch.full((len(prompts), num_tokens), self.mask, device=prompts.device)
        return stopped(self.infill(torch.cat([prompts, hidden], dim=1), indices)[:, length:], stop)

    @torch.no_grad()
    def infill(self, template: Tensor, indices: Tensor) -> Tensor:
        """Fill the hidden tokens of templates and leave the others.

        The network is always given T tokens, as in training: what a template is short of is hidden behind it.

        Args:
            template: [N, S] tokens and masks, S at most T.
            indices: [N] numbers of the samples.

        Returns:
            [N, S] int64.

        Raises:
            UserError: if a template is longer than the network's sequences.
        """
        length = template.shape[1]
        if length > self.seq_len:
            raise UserError(
                f"{length} tokens of prompt and answer do not fit the {self.seq_len} of this network: ask for fewer"
            )
        noisy = nn.functional.pad(template, (0, self.seq_len - length), value=self.mask)
        for step, (level, next_level) in enumerate(pairwise(self.levels.tolist())):
            block = int(self.partition.block_for(torch.tensor(level, dtype=torch.float64)))
            sigma = torch.full((len(noisy),), level, device=noisy.device)
            logits = self.denoiser(block).predict(noisy, sigma, noisy[:, :0], self.decoding).logits
            assert logits is not None
            drawn = draw_tokens(logits, SampleDraws(self.seed, ("token", step), indices))
            normal = SampleDraws(self.seed, ("show", step), indices).normal(noisy.float())
            noisy = unmask(noisy, drawn, torch.special.ndtr(normal), level, next_level, self.mask)
        return noisy[:, :length]
