"""Writing with a recurrent-depth network: all positions pass through the core together, again for each token."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from dbl.denoising.decoding import Decoding, draw_tokens
from dbl.denoising.denoiser import GaussianDenoiser
from dbl.denoising.sampling import Sampler, state_dtype
from dbl.denoising.targets import TableReadout
from dbl.diffusion.gaussian import corrupt
from dbl.diffusion.noise import NoiseDistribution
from dbl.inference.generation.causal import Reader
from dbl.utils.seeding import SampleDraws


class _WholeText(Reader):
    """Keeps the text itself: states depend on the step, so no keys and values are kept."""

    def __init__(self, decoding: Decoding) -> None:
        self.decoding = decoding
        self.restart()

    def restart(self) -> None:
        """See `Reader.restart`."""
        self.tokens = torch.empty(0, 0)

    def read(self, tokens: Tensor) -> None:
        """See `Reader.read`."""
        self.tokens = tokens if not self.tokens.numel() else torch.cat([self.tokens, tokens], dim=1)


class RecurrentChain(_WholeText):
    """The denoiser of a recurrent-depth network, iterated.

    Positions whose next token is known carry its vector with noise of the level, as in training.

    Args:
        denoiser: of the only block.
        noise: distribution of the levels.
        sampler: its number of steps is the number of iterations.
        decoding: acts on what the network says of the context.
    """

    def __init__(
        self, denoiser: GaussianDenoiser, noise: NoiseDistribution, sampler: Sampler, decoding: Decoding
    ) -> None:
        super().__init__(decoding)
        self.denoiser = denoiser
        self.table = cast(TableReadout, denoiser.readout).table
        self.noise = noise
        self.sampler = sampler

    def draw(self, draws: SampleDraws) -> Tensor:
        """See `Reader.draw`."""
        dtype, last = state_dtype(self.tokens.device), torch.empty(0)
        known = self.table[self.tokens[:, 1:]].to(dtype)
        like = torch.empty(*self.tokens.shape, self.table.shape[1], dtype=dtype, device=self.tokens.device)
        noise = draws.normal(like)

        def denoise(noisy: Tensor, sigma: Tensor) -> Tensor:
            nonlocal last
            levels = sigma.to(noisy.device, torch.float32).expand(len(noisy))
            whole = torch.cat([corrupt(known, noise[:, :-1], levels.to(dtype)), noisy], dim=1)
            prediction = self.denoiser.predict(whole, levels, self.tokens, self.decoding)
            assert prediction.logits is not None
            last = prediction.logits[:, -1]
            return prediction.denoised[:, -1:].to(noisy.dtype)

        start = self.sampler.temperature * self.noise.sigma_max * noise[:, -1:]
        self.sampler.run(denoise, start, self.sampler.levels(self.noise))
        return draw_tokens(last, draws)


class RecurrentIterations(_WholeText):
    """A recurrent-depth network that was trained through its iterations.

    Args:
        network: from tokens [N, T], a state of noise and a number of iterations to logits [N, T, C].
        iterations: passes through the core.
        decoding: acts on the logits.
        start: makes the first state [N, T, W] of tokens from draws.
    """

    def __init__(
        self,
        network: nn.Module,
        iterations: int,
        decoding: Decoding,
        start: Callable[[Tensor, SampleDraws], Tensor],
    ) -> None:
        super().__init__(decoding)
        self.network = network
        self.iterations = iterations
        self.start = start

    def draw(self, draws: SampleDraws) -> Tensor:
        """See `Reader.draw`."""
        logits = self.network(self.tokens, self.start(self.tokens, draws), self.iterations)[:, -1]
        return draw_tokens(self.decoding(logits), draws)
