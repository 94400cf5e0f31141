"""Writing from left to right: a loop over tokens, and the two readers that keep keys and values.

Axes: N samples, S tokens that are read at once, D of a target vector, C vocabulary.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from dbl.denoising.decoding import Decoding, draw_tokens
from dbl.denoising.denoiser import Denoiser, Predict
from dbl.denoising.readout import Prediction
from dbl.denoising.sampling import per_sample, state_dtype
from dbl.inference.generation.base import BlockSampling, Levels, Reader, TextGenerator, WholeText
from dbl.networks.causal_lm import Context
from dbl.utils.errors import UserError
from dbl.utils.seeding import SampleDraws

_STOP_EVERY = 16  # tokens


class CausalGenerator(TextGenerator):
    """The loop over tokens. A text that outgrows the model's length goes on from its last half.

    Args:
        reader: reader around the network.
        seq_len: longest sequence the network was trained to read.
        seed: random seed.
    """

    def __init__(self, reader: Reader, seq_len: int, seed: int = 0) -> None:
        self.reader = reader
        self.seq_len = seq_len
        self.seed = seed

    @override
    def generate(self, prompts: Tensor, num_tokens: int, indices: Tensor, stop: int | None = None) -> Tensor:
        tokens = torch.stack(list(self.stream(prompts, num_tokens, indices, stop)), dim=1)
        missing = num_tokens - tokens.shape[1]
        return tokens if stop is None else nn.functional.pad(tokens, (0, missing), value=stop)

    def stream(self, prompts: Tensor, num_tokens: int, indices: Tensor, stop: int | None = None) -> Iterator[Tensor]:
        """The same token by token: at most `num_tokens` tensors [N], fewer if all texts have stopped.

        On an accelerator that is noticed up to 15 tokens late; these are the stop token too.
        """
        if prompts.shape[1] < 1:
            raise UserError("a prompt must have at least one token: give --prompt")
        for token in self._tokens(prompts, num_tokens, indices, stop):
            yield token.clone()  # an ordinary tensor, which the caller may change

    # Less work for each operation than `no_grad`: a sixth of the time of a small network.
    @torch.inference_mode()
    def _tokens(self, prompts: Tensor, num_tokens: int, indices: Tensor, stop: int | None) -> Iterator[Tensor]:
        text = prompts[:, -self.seq_len :]
        unread, stopped = text, torch.zeros(len(prompts), dtype=torch.bool, device=prompts.device)
        indices = indices.cpu()  # once: draws are made there
        self.reader.restart()
        for position in range(num_tokens):
            self.reader.read(unread)
            token = self.reader.draw(SampleDraws(self.seed, ("text", position), indices))
            if stop is not None:
                token = token.masked_fill(stopped, stop)
                stopped |= token == stop
            yield token
            # On an accelerator the host waits for the answer, so it asks rarely.
            asks = stop is not None and (token.device.type == "cpu" or position % _STOP_EVERY == _STOP_EVERY - 1)
            if asks and stopped.all():
                return
            unread = token.unsqueeze(1)
            text = torch.cat([text, unread], dim=1)
            if text.shape[1] > self.seq_len:
                # What was kept belongs to the old positions. Half, so that this happens once in many tokens.
                self.reader.restart()
                text = unread = text[:, -max(self.seq_len // 2, 1) :]


class BlockDecoder(WholeText):
    """Blocks of a causal language model: noise is carried to the next token, beside what each block has read.

    Args:
        blocks: blocks whose networks have `extend`.
        cached: whether keys and values are kept; otherwise all is read again for each token (for comparison).
    """

    def __init__(self, blocks: BlockSampling, cached: bool = True) -> None:
        self.blocks = blocks
        self.cached = cached
        super().__init__()

    @override
    def restart(self) -> None:
        super().restart()
        self._contexts: dict[int, Any] = {}
        self._levels = Levels(self.blocks)
        self._predictor: tuple[int, Predict] | None = None

    @override
    def read(self, tokens: Tensor) -> None:
        super().read(tokens)
        self._predictor = None
        if self.cached:
            for block in range(self.blocks.partition.num_blocks):
                self._contexts[block] = _extended(self.blocks.denoiser(block), tokens, self._contexts.get(block))

    @override
    def draw(self, draws: SampleDraws) -> Tensor:
        device = self.tokens.device
        like = torch.empty(len(self.tokens), 1, self.blocks.table.shape[1], device=device, dtype=state_dtype(device))
        predict = self._predict if self.cached else self._predict_anew
        return self.blocks.next_token(predict, draws.normal(like), draws)

    def _predict(self, noisy: Tensor, sigma: Tensor) -> Prediction:
        """Prediction of the next token from noisy [N, 1, D], by the block that owns the level."""
        block = self._levels.owner(sigma)
        if self._predictor is None or self._predictor[0] != block:
            self._predictor = None  # its block is free to go before the next one is loaded
            denoiser = self.blocks.denoiser(block)
            self._predictor = block, denoiser.predictor(self._contexts[block], self.blocks.decoding)
        return self._predictor[1](noisy, self._levels.at(sigma, noisy))

    def _predict_anew(self, noisy: Tensor, sigma: Tensor) -> Prediction:
        """The same, with nothing kept from other levels or tokens."""
        denoiser = self.blocks.denoiser(int(self.blocks.partition.block_for(sigma)))
        context = _extended(denoiser, self.tokens, None)
        return denoiser.predict(noisy, per_sample(sigma, noisy), context, self.blocks.decoding)


def _extended(denoiser: Denoiser, tokens: Tensor, context: Any) -> Any:
    """The context of a denoiser's network with further tokens [N, S]."""
    return denoiser.network.extend(tokens, context)  # type: ignore[operator]


class LanguageModel(Reader):
    """An ordinary language model.

    Args:
        network: module with `extend(tokens, context) -> Context` and `last_logits(context) -> [N, C]`.
        decoding: change of the logits.
    """

    def __init__(self, network: nn.Module, decoding: Decoding) -> None:
        self.network = network
        self.decoding = decoding
        self.restart()

    @override
    def restart(self) -> None:
        self._context: Context | None = None

    @override
    def read(self, tokens: Tensor) -> None:
        self._context = self.network.extend(tokens, self._context)  # type: ignore[operator]

    @override
    def draw(self, draws: SampleDraws) -> Tensor:
        logits: Tensor = self.network.last_logits(self._context)  # type: ignore[operator]
        return draw_tokens(self.decoding(logits), draws)
