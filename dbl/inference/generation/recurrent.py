"""Writing with a recurrent-depth network: a chain of denoising iterations, or the end-to-end baseline.

A place keeps the noise, or the start state, that it got when it was read. So what the core made of it at an iteration
stays true, and a further token passes through the network alone (see `dbl.networks.recurrent_cache`).

Axes: N samples, S tokens of a text, K iterations, D of a target vector, W of a state.
"""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from typing_extensions import override

from dbl.denoising.decoding import Decoding, draw_tokens
from dbl.denoising.denoiser import GaussianDenoiser, Level
from dbl.denoising.readout import Prediction
from dbl.denoising.sampling import per_sample, state_dtype
from dbl.diffusion.gaussian import corrupt
from dbl.inference.generation.base import BlockSampling, WholeText
from dbl.networks.level_modulations import LevelModulations
from dbl.networks.recurrent_cache import IterationContext, RecurrentContext
from dbl.networks.recurrent_lm import RecurrentNetwork
from dbl.utils.seeding import SampleDraws


class RecurrentChain(WholeText):
    """The denoiser of a recurrent-depth network, iterated.

    Places whose next token is known carry its vector with noise of the level, as in training. The noise of a place is
    independent of its token, hence not the noise that the token was made from.

    Args:
        blocks: the only block; the number of sampler steps is the number of iterations.
        cached: whether keys and values are kept; otherwise all is read again for each token (for comparison).
    """

    def __init__(self, blocks: BlockSampling, cached: bool = True) -> None:
        self.blocks = blocks
        self.cached = cached
        super().__init__()

    @override
    def restart(self) -> None:
        super().restart()
        self._noise: Tensor | None = None  # [N, S - 1, D] of the places whose next token is known
        self._chain: CachedChain | None = None

    @override
    def draw(self, draws: SampleDraws) -> Tensor:
        known = self.blocks.table[self.tokens[:, 1:]].to(state_dtype(self.tokens.device))  # N, S - 1, D
        num_before = 0 if self._noise is None else self._noise.shape[1]
        further = draws.normal(known.new_empty(len(known), known.shape[1] - num_before + 1, known.shape[2]))
        noise = further[:, :-1] if self._noise is None else torch.cat([self._noise, further[:, :-1]], dim=1)
        self._noise = noise
        if not self.cached:
            return self.blocks.next_token(self._predict_anew(known), further[:, -1:], draws)
        if self._chain is None:
            self._chain = CachedChain(self.blocks, len(known), known.device)
        self._chain.read(self.tokens[:, self._chain.length :])
        self._chain.settle(known[:, num_before:], noise[:, num_before:])
        return self.blocks.next_token(self._chain.predict, further[:, -1:], draws)

    def _predict_anew(self, known: Tensor) -> Callable[[Tensor, Tensor], Prediction]:
        """Prediction from noisy [N, 1, D], with nothing kept from other levels or tokens but the noise."""

        def predict(noisy: Tensor, sigma: Tensor) -> Prediction:
            levels = per_sample(sigma, noisy)
            assert self._noise is not None
            whole = torch.cat([corrupt(known, self._noise, levels.to(known.dtype)), noisy], dim=1)
            return self.blocks.denoiser(0).predict(whole, levels, self.tokens, self.blocks.decoding)

        return predict


class CachedChain:
    """What the only block has read, at each level of the sampler.

    Args:
        blocks: the block, and how it is sampled.
        num_samples: N.
        device: device of the text.

    Attributes:
        length: number of tokens that were read.
    """

    def __init__(self, blocks: BlockSampling, num_samples: int, device: torch.device) -> None:
        self.length = 0
        self._decoding = blocks.decoding
        self._denoiser = cast(GaussianDenoiser, blocks.denoiser(0))
        levels = blocks.levels[:-1]
        rows = levels.to(device, torch.float32).repeat_interleave(num_samples)  # K N
        self._all = self._denoiser.at_level(rows)
        starts = range(0, len(rows), num_samples)
        self._levels = [self._all.rows(start, start + num_samples) for start in starts]
        self._numbers = {level: number for number, level in enumerate(levels.tolist())}
        network, noise = cast(RecurrentNetwork, self._denoiser.network), cast(LevelModulations, self._all.noise)
        self._context = RecurrentContext(network, noise, len(levels))

    def read(self, tokens: Tensor) -> None:
        """Read further tokens [N, T], of which the last has no known next token."""
        self._context.read(tokens)
        self.length += tokens.shape[1]

    def settle(self, known: Tensor, noise: Tensor) -> None:
        """Read places whose next tokens are known, from their vectors and unit noise [N, T, D]."""
        if known.shape[1]:
            clean, noise = (tensor.repeat(len(self._levels), 1, 1) for tensor in (known, noise))  # K N, T, D
            noisy = corrupt(clean, noise, self._all.sigma.to(known.dtype)).float()
            self._context.settle(self._denoiser.scaled(noisy, self._all))

    def predict(self, noisy: Tensor, sigma: Tensor) -> Prediction:
        """Prediction of the next token from noisy [N, 1, D] at a level of the sampler."""
        number = self._numbers[float(sigma)]
        level: Level = self._levels[number]
        return self._denoiser.predict(noisy, level, self._context.next_place(number), self._decoding)


class RecurrentIterations(WholeText):
    """A recurrent-depth network that was trained through its iterations.

    Args:
        network: module from tokens [N, T], a state of noise and a number of iterations to logits [N, T, C]; with a
            cache, its `body` makes features, of which its `head` makes logits.
        iterations: number of passes through the core.
        decoding: change of the logits.
        start: function that makes the first states [N, T, W] of tokens [N, T] from draws.
        cached: whether keys and values are kept; otherwise all is read again for each token (for comparison).
    """

    def __init__(
        self,
        network: nn.Module,
        iterations: int,
        decoding: Decoding,
        start: Callable[[Tensor, SampleDraws], Tensor],
        cached: bool = True,
    ) -> None:
        self.network = network
        self.iterations = iterations
        self.decoding = decoding
        self.start = start
        self.cached = cached
        super().__init__()

    @override
    def restart(self) -> None:
        super().restart()
        self._states: Tensor | None = None  # [N, S, W] start states of what was read
        self._context: IterationContext | None = None

    @override
    def draw(self, draws: SampleDraws) -> Tensor:
        num_before = 0 if self._states is None else self._states.shape[1]
        unread = self.tokens[:, num_before:]
        states = self.start(unread, draws)
        self._states = states if self._states is None else torch.cat([self._states, states], dim=1)
        if not self.cached:
            logits = self.network(self.tokens, self._states, self.iterations)[:, -1]
            return draw_tokens(self.decoding(logits), draws)
        if self._context is None:
            self._context = IterationContext(self.network.body, self.iterations)  # type: ignore[arg-type]
        features = self._context.read(unread, states)[:, -1]
        return draw_tokens(self.decoding(self.network.head(features)), draws)  # type: ignore[operator]
