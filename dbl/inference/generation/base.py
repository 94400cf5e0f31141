"""What all text generators have in common: their interface, and the blocks that a text is written with.

Axes: N samples, S tokens that are read at once, D of a target vector, C vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import torch
from torch import Tensor
from typing_extensions import override

from dbl.denoising.decoding import Decoding, draw_tokens
from dbl.denoising.denoiser import Denoiser, GaussianDenoiser, Level
from dbl.denoising.readout import Prediction
from dbl.denoising.sampling import Sampler, per_sample
from dbl.denoising.targets import TableReadout
from dbl.diffusion.noise import NoiseDistribution
from dbl.diffusion.partition import Partition
from dbl.utils.seeding import SampleDraws


class TextGenerator(ABC):
    """Continues prompts; the tokens are a function of (seed, index of the sample), for any batch size."""

    @abstractmethod
    def generate(self, prompts: Tensor, num_tokens: int, indices: Tensor, stop: int | None = None) -> Tensor:
        """Continue prompts. Raises UserError if the model cannot hold so many tokens.

        Args:
            prompts: [N, P] tokens, P at least 1.
            num_tokens: number of tokens to write.
            indices: [N] numbers of the samples.
            stop: token that ends a text; whatever follows it is this token too.

        Returns:
            [N, num_tokens] int64 on the device of the prompts.
        """


def stopped(tokens: Tensor, stop: int | None) -> Tensor:
    """Tokens [N, T] with everything after the first `stop` replaced by it."""
    return tokens if stop is None else tokens.masked_fill((tokens == stop).cumsum(dim=1) > 0, stop)


class Reader(ABC):
    """Reads a text token by token and draws the next one."""

    @abstractmethod
    def restart(self) -> None:
        """Forget everything that was read."""

    @abstractmethod
    def read(self, tokens: Tensor) -> None:
        """Read further tokens [N, S]."""

    @abstractmethod
    def draw(self, draws: SampleDraws) -> Tensor:
        """[N] the next token of each text."""


class WholeText(Reader):
    """A reader that keeps the text itself.

    Attributes:
        tokens: [N, S] all that was read.
    """

    def __init__(self) -> None:
        self.restart()

    @override
    def restart(self) -> None:
        self.tokens = torch.empty(0, 0)

    @override
    def read(self, tokens: Tensor) -> None:
        self.tokens = torch.cat([self.tokens, tokens], dim=1) if self.tokens.numel() else tokens


@dataclass(frozen=True)
class BlockSampling:
    """The blocks that a text is written with, and how they are sampled.

    Args:
        denoiser: function that gives the denoiser of a block, ready for inference.
        noise: distribution of the levels.
        partition: map from a level to the block that owns it.
        sampler: method and levels, for each token; for masked text, for all tokens together.
        decoding: change of each network's own logits.
    """

    denoiser: Callable[[int], Denoiser]
    noise: NoiseDistribution
    partition: Partition
    sampler: Sampler
    decoding: Decoding

    @property
    def table(self) -> Tensor:
        """[C, D] vectors of the tokens, which all blocks share."""
        return cast(TableReadout, cast(GaussianDenoiser, self.denoiser(0)).readout).table

    @cached_property
    def levels(self) -> Tensor:
        """[K+1] levels of the sampler, the last of which is 0; on the CPU."""
        return self.sampler.levels(self.noise)

    def next_token(
        self, predict: Callable[[Tensor, Tensor], Prediction], unit_noise: Tensor, draws: SampleDraws
    ) -> Tensor:
        """[N] next tokens: noise is carried to level 0, and the last prediction's distribution is drawn from.

        Drawing from it is exact, since the vector that the sampler has reached by then is one draw itself.

        Args:
            predict: prediction for a noisy vector [N, 1, D] at a level, a scalar; its last position counts.
            unit_noise: [N, 1, D] standard normal noise.
            draws: random numbers of the token.
        """
        last: Prediction | None = None

        def denoise(noisy: Tensor, sigma: Tensor) -> Tensor:
            nonlocal last
            last = predict(noisy, sigma)
            return last.denoised[:, -1:].to(noisy.dtype)

        self.sampler.sample(denoise, unit_noise, self.noise, self.levels)
        assert last is not None
        assert last.logits is not None
        return draw_tokens(last.logits[:, -1], draws)


class Levels:
    """The levels that a text is written at, with what depends on them alone; for one batch.

    Args:
        blocks: blocks and how they are sampled.
    """

    def __init__(self, blocks: BlockSampling) -> None:
        self._blocks = blocks
        self._owners: dict[float, int] = {}
        self._levels: dict[float, Tensor | Level] = {}

    def owner(self, sigma: Tensor) -> int:
        """The block that owns a level, a scalar."""
        key = float(sigma)
        if key not in self._owners:
            self._owners[key] = int(self._blocks.partition.block_for(sigma))
        return self._owners[key]

    def at(self, sigma: Tensor, noisy: Tensor) -> Tensor | Level:
        """What the denoiser of its block can use in place of a level, for noisy [N, ...]."""
        key = float(sigma)
        if key not in self._levels:
            self._levels[key] = self._blocks.denoiser(self.owner(sigma)).at_level(per_sample(sigma, noisy))
        return self._levels[key]
