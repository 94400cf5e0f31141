"""Writing from left to right: a loop over tokens, and the two readers that keep keys and values.

Axes: N samples, S tokens that are read at once, D of a target vector, C vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from dbl.denoising.decoding import Decoding, draw_tokens
from dbl.denoising.denoiser import Denoiser, GaussianDenoiser
from dbl.denoising.sampling import Sampler, state_dtype
from dbl.denoising.targets import Prediction, TableReadout
from dbl.diffusion.noise import NoiseDistribution
from dbl.diffusion.partition import Partition
from dbl.networks.causal_lm import Context
from dbl.utils.errors import UserError
from dbl.utils.seeding import SampleDraws


class TextGenerator(ABC):
    """Continues prompts; what is drawn is a function of (seed, index of the sample), for any batch size."""

    @abstractmethod
    def generate(self, prompts: Tensor, num_tokens: int, indices: Tensor, stop: int | None = None) -> Tensor:
        """Continue prompts.

        Args:
            prompts: [N, P] tokens, P at least 1.
            num_tokens: to write.
            indices: [N] numbers of the samples.
            stop: token that ends a text; whatever follows it is this token too.

        Returns:
            [N, num_tokens] int64 on the device of the prompts.

        Raises:
            UserError: if the model cannot hold so many tokens.
        """


def stopped(tokens: Tensor, stop: int | None) -> Tensor:
    """Tokens [N, T] with everything behind the first `stop` replaced by it."""
    if stop is None:
        return tokens
    ended = (tokens == stop).cumsum(dim=1) > 0
    return tokens.masked_fill(ended, stop)


class Reader(ABC):
    """Reads a text token by token and draws what follows."""

    @abstractmethod
    def restart(self) -> None:
        """Forget everything that was read."""

    @abstractmethod
    def read(self, tokens: Tensor) -> None:
        """Read further tokens [N, S]."""

    @abstractmethod
    def draw(self, draws: SampleDraws) -> Tensor:
        """[N] the next token of each text."""


class CausalGenerator(TextGenerator):
    """The loop over tokens. A text that outgrows the model's length goes on from its last half.

    Args:
        reader: the network.
        seq_len: most tokens that the network was trained to read.
        seed: of all draws.
    """

    def __init__(self, reader: Reader, seq_len: int, seed: int = 0) -> None:
        self.reader = reader
        self.seq_len = seq_len
        self.seed = seed

    def generate(self, prompts: Tensor, num_tokens: int, indices: Tensor, stop: int | None = None) -> Tensor:
        """See `TextGenerator.generate`."""
        tokens = torch.stack(list(self.stream(prompts, num_tokens, indices, stop)), dim=1)
        missing = num_tokens - tokens.shape[1]
        return tokens if stop is None else nn.functional.pad(tokens, (0, missing), value=stop)

    @torch.no_grad()
    def stream(self, prompts: Tensor, num_tokens: int, indices: Tensor, stop: int | None = None) -> Iterator[Tensor]:
        """The same token by token: at most `num_tokens` tensors [N], fewer if all texts have stopped."""
        if prompts.shape[1] < 1:
            raise UserError("a prompt must have at least one token: give --prompt")
        text = prompts[:, -self.seq_len :]
        unread, written = text, prompts[:, :0]
        self.reader.restart()
        for position in range(num_tokens):
            self.reader.read(unread)
            token = self.reader.draw(SampleDraws(self.seed, ("text", position), indices))
            written = stopped(torch.cat([written, token.unsqueeze(1)], dim=1), stop)
            yield written[:, -1]
            if stop is not None and (written[:, -1] == stop).all():
                return
            unread = written[:, -1:]
            text = torch.cat([text, unread], dim=1)
            if text.shape[1] > self.seq_len:
                self.reader.restart()
                text = unread = text[:, -max(self.seq_len // 2, 1) :]


class BlockDecoder(Reader):
    """Blocks of a causal language model: noise is carried to the next token, beside what each block has read.

    Args:
        denoiser: gives the denoiser of a block, whose network has `extend`.
        noise: distribution of the levels.
        partition: which block owns which level.
        sampler: levels and method.
        decoding: acts on what each block says of the context.
        cached: keep keys and values of what was read; otherwise all is read again for each token (for comparison).
    """

    def __init__(
        self,
        denoiser: Callable[[int], Denoiser],
        noise: NoiseDistribution,
        partition: Partition,
        sampler: Sampler,
        decoding: Decoding,
        cached: bool = True,
    ) -> None:
        self.denoiser = denoiser
        self.noise = noise
        self.partition = partition
        self.sampler = sampler
        self.decoding = decoding
        self.cached = cached
        self.restart()

    def restart(self) -> None:
        """See `Reader.restart`."""
        self._contexts: dict[int, Any] = {}
        self._tokens: Tensor | None = None

    def read(self, tokens: Tensor) -> None:
        """See `Reader.read`."""
        self._tokens = tokens if self._tokens is None else torch.cat([self._tokens, tokens], dim=1)
        if self.cached:
            for block in range(self.partition.num_blocks):
                self._contexts[block] = _extended(self.denoiser(block), tokens, self._contexts.get(block))

    def draw(self, draws: SampleDraws) -> Tensor:
        """See `Reader.draw`: the last call's distribution given where the chain has come to, which is one draw."""
        assert self._tokens is not None
        last: Prediction | None = None

        def denoise(noisy: Tensor, sigma: Tensor) -> Tensor:
            nonlocal last
            last = self._predict(noisy, sigma)
            return last.denoised.to(noisy.dtype)

        table = cast(TableReadout, cast(GaussianDenoiser, self.denoiser(0)).readout).table
        device = self._tokens.device
        like = torch.empty(len(self._tokens), 1, table.shape[1], device=device, dtype=state_dtype(device))
        start = self.sampler.temperature * self.noise.sigma_max * draws.normal(like)
        self.sampler.run(denoise, start, self.sampler.levels(self.noise))
        assert last is not None
        assert last.logits is not None
        return draw_tokens(last.logits[:, -1], draws)

    def _predict(self, noisy: Tensor, sigma: Tensor) -> Prediction:
        """What the block of a level says about the next token, from noisy [N, 1, D]."""
        assert self._tokens is not None
        block = int(self.partition.block_for(sigma))
        denoiser = self.denoiser(block)
        context = self._contexts[block] if self.cached else _extended(denoiser, self._tokens, None)
        levels = sigma.to(noisy.device, torch.float32).expand(len(noisy))
        return denoiser.predict(noisy, levels, context, self.decoding)


def _extended(denoiser: Denoiser, tokens: Tensor, context: Any) -> Any:
    """What the network of a denoiser has read, with further tokens [N, S]."""
    return denoiser.network.extend(tokens, context)  # type: ignore[operator]


class LanguageModel(Reader):
    """An ordinary language model.

    Args:
        network: with `extend(tokens, context) -> Context` and `last_logits(context) -> [N, C]`.
        decoding: acts on the logits.
    """

    def __init__(self, network: nn.Module, decoding: Decoding) -> None:
        self.network = network
        self.decoding = decoding
        self.restart()

    def restart(self) -> None:
        """See `Reader.restart`."""
        self._context: Context | None = None

    def read(self, tokens: Tensor) -> None:
        """See `Reader.read`."""
        self._context = self.network.extend(tokens, self._context)  # type: ignore[operator]

    def draw(self, draws: SampleDraws) -> Tensor:
        """See `Reader.draw`."""
        logits: Tensor = self.network.last_logits(self._context)  # type: ignore[operator]
        return draw_tokens(self.decoding(logits), draws)
