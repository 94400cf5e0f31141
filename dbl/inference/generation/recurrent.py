"""Writing with a recurrent-depth network: all positions pass through the core together, again for each token.

States depend on the step, so no keys and values are kept.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from typing_extensions import override

from dbl.denoising.decoding import Decoding, draw_tokens
from dbl.denoising.readout import Prediction
from dbl.denoising.sampling import per_sample, state_dtype
from dbl.diffusion.gaussian import corrupt
from dbl.inference.generation.base import BlockSampling, WholeText
from dbl.utils.seeding import SampleDraws


class RecurrentChain(WholeText):
    """The denoiser of a recurrent-depth network, iterated.

    Positions whose next token is known carry its vector with noise of the level, as in training.

    Args:
        blocks: the only block; the number of sampler steps is the number of iterations.
    """

    def __init__(self, blocks: BlockSampling) -> None:
        super().__init__()
        self.blocks = blocks

    @override
    def draw(self, draws: SampleDraws) -> Tensor:
        dtype, table, denoiser = state_dtype(self.tokens.device), self.blocks.table, self.blocks.denoiser(0)
        known = table[self.tokens[:, 1:]].to(dtype)
        like = torch.empty(*self.tokens.shape, table.shape[1], dtype=dtype, device=self.tokens.device)
        noise = draws.normal(like)

        def predict(noisy: Tensor, sigma: Tensor) -> Prediction:
            levels = per_sample(sigma, noisy)
            whole = torch.cat([corrupt(known, noise[:, :-1], levels.to(dtype)), noisy], dim=1)
            return denoiser.predict(whole, levels, self.tokens, self.blocks.decoding)

        return self.blocks.next_token(predict, noise[:, -1:], draws)


class RecurrentIterations(WholeText):
    """A recurrent-depth network that was trained through its iterations.

    Args:
        network: module from tokens [N, T], a state of noise and a number of iterations to logits [N, T, C].
        iterations: number of passes through the core.
        decoding: change of the logits.
        start: function that makes the first state [N, T, W] from tokens and draws.
    """

    def __init__(
        self, network: nn.Module, iterations: int, decoding: Decoding, start: Callable[[Tensor, SampleDraws], Tensor]
    ) -> None:
        super().__init__()
        self.network = network
        self.iterations = iterations
        self.decoding = decoding
        self.start = start

    @override
    def draw(self, draws: SampleDraws) -> Tensor:
        logits = self.network(self.tokens, self.start(self.tokens, draws), self.iterations)[:, -1]
        return draw_tokens(self.decoding(logits), draws)
