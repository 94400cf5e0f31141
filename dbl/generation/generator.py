"""What every writer of text offers."""

from abc import ABC, abstractmethod

from torch import Tensor


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
