"""Writing text: from a prompt, or a template with gaps, to texts. `dbl sample` and `BlockStack.write` share it."""

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor

from dbl.data.text.tokenizer import Tokenizer
from dbl.inference.generation import CausalGenerator, MaskedGenerator, TextGenerator
from dbl.utils.errors import UserError

NUM_TOKENS = 200  # where nobody says how many


class Writer:
    """A text generator that reads and writes text in place of tokens.

    Args:
        generator: generator.
        tokenizer: tokenizer of its network.
        device: device of the network.
    """

    def __init__(self, generator: TextGenerator, tokenizer: Tokenizer, device: torch.device) -> None:
        self.generator = generator
        self.tokenizer = tokenizer
        self.device = device

    @property
    def streams(self) -> bool:
        """Whether text is written from left to right, so that it can be shown while it is written."""
        return isinstance(self.generator, CausalGenerator)

    def texts(self, prompt: str, num_tokens: int | None, num_texts: int, stop: str = "") -> list[str]:
        """The prompt and what is written after it, once for each text; text i is the same for any number of them.

        Raises UserError if the tokenizer cannot express the prompt or the stop, or the network cannot hold the text.

        Args:
            prompt: text to continue; if empty, the beginning of a document.
            num_tokens: number of tokens to write; None: 200, of masked text at most what a sequence holds.
            num_texts: number of texts.
            stop: one token that ends a text; if empty, the end of a document, where the tokenizer has one.
        """
        start, end = self.prompt(prompt), self._stop(stop)
        prompts, indices = start.expand(num_texts, -1), torch.arange(num_texts, device=self.device)
        written = self.generator.generate(prompts, self._length(start, num_tokens), indices, end)
        rows = torch.cat([prompts, written], dim=1)
        return [self.tokenizer.decode(_up_to_stop(row, start.shape[1], end)) for row in rows]

    def pieces(self, prompt: str, num_tokens: int | None, stop: str = "") -> Iterator[str]:
        """Text 0 of `texts`, piece by piece as it is written; needs `streams`. A piece is whole characters."""
        start, end = self.prompt(prompt), self._stop(stop)
        generator = cast(CausalGenerator, self.generator)
        tokens = generator.stream(start, self._length(start, num_tokens), torch.arange(1, device=self.device), end)
        so_far, shown = start[0].tolist(), ""
        for token in tokens:
            so_far.append(int(token))
            text = self.tokenizer.decode(so_far)
            if not text.endswith("\N{REPLACEMENT CHARACTER}"):
                yield text[len(shown) :]
                shown = text
            if so_far[-1] == end:  # an accelerator repeats it a few times
                break
        yield self.tokenizer.decode(so_far)[len(shown) :]

    def filled(self, template: str, hidden: str, num_texts: int) -> list[str]:
        """A template with its hidden tokens filled in, once for each text.

        Raises UserError if the network is not for masked text, nothing is hidden, or it is too long.

        Args:
            template: text with gaps; every `hidden` in it stands for one hidden token.
            hidden: character that stands for a hidden token.
            num_texts: number of texts.
        """
        if not isinstance(self.generator, MaskedGenerator):
            raise UserError("template is for masked text; this network writes from left to right: use a prompt")
        if len(hidden) != 1 or hidden not in template:
            raise UserError(
                f"template must contain the character of `hidden` ({hidden!r}), once for each token to find"
            )
        first, *others = (self.tokenizer.encode(part) for part in template.split(hidden))
        mask = torch.tensor([self.generator.mask])
        row = torch.cat([first, *(piece for part in others for piece in (mask, part))]).to(self.device)
        indices = torch.arange(num_texts, device=self.device)
        return [self.tokenizer.decode(one) for one in self.generator.infill(row.expand(num_texts, -1), indices)]

    def context_of(self, prompt: str) -> int | None:
        """Number of last tokens of a prompt that are read, if it has more; None if all are."""
        generator = self.generator
        is_cut = isinstance(generator, CausalGenerator) and self.prompt(prompt).shape[1] > generator.seq_len
        return cast(CausalGenerator, generator).seq_len if is_cut else None

    def prompt(self, text: str) -> Tensor:
        """[1, P] tokens of a prompt; for an empty one, the token that begins a document, or a new line."""
        if not text and self.tokenizer.end_id is not None:
            return torch.tensor([[self.tokenizer.end_id]], device=self.device)
        try:
            tokens = self.tokenizer.encode(text or "\n")
        except UserError as error:
            raise UserError(f"prompt: {error if text else 'give one, this text has no lines to begin'}") from None
        if not len(tokens):
            raise UserError(f"prompt {text!r} has no token: give another one, or leave it out")
        return tokens.unsqueeze(0).to(self.device)

    def _stop(self, text: str) -> int | None:
        if not text:
            return self.tokenizer.end_id
        tokens = self.tokenizer.encode(text)
        if len(tokens) != 1:
            raise UserError(f"stop {text!r} is {len(tokens)} tokens: it must be one")
        return int(tokens[0])

    def _length(self, prompt: Tensor, num_tokens: int | None) -> int:
        if num_tokens is not None:
            return num_tokens
        generator = self.generator
        room = generator.seq_len - prompt.shape[1] if isinstance(generator, MaskedGenerator) else NUM_TOKENS
        return max(min(NUM_TOKENS, room), 1)


def _up_to_stop(row: Tensor, start: int, stop: int | None) -> Tensor:
    """A text [P + num_tokens], cut behind the first stop token that follows its prompt."""
    if stop is None or not (row[start:] == stop).any():
        return row
    return row[: start + int((row[start:] == stop).nonzero()[0]) + 1]
