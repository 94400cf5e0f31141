"""How tokens are drawn from logits: temperature, top-k, top-p.

The logits of the last sampling step are nearly one-hot, so changing them would change nothing. Decoding therefore acts
on the network's own logits, before the evidence of the noisy vector is added (see `TableReadout`).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dbl.utils.checks import Number, check_numbers, whole
from dbl.utils.seeding import SampleDraws

# What the settings of `Decoding` may be.
DECODING = {
    "temperature": Number(at_least=1e-6, at_most=1e6, remedy="top_k=1 takes the best token"),
    "top_k": whole(1, 2**31, optional=True),
    "top_p": Number(above=0, at_most=1),
}


@dataclass(frozen=True)
class Decoding:
    """Temperature, top-k and top-p: a change of logits [..., C] before tokens are drawn.

    Args:
        temperature: divisor of the logits; 1 draws from the model's distribution, less is bolder.
        top_k: number of most probable tokens that are kept; null for all.
        top_p: probability that the most probable tokens, which are kept, have together; 1 for all.

    Example:
        >>> import dbl, torch
        >>> dbl.Decoding(top_k=2)(torch.tensor([3.0, 1.0, 2.0]))
        tensor([3., -inf, 2.])
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0

    def __post_init__(self) -> None:
        check_numbers("decoding", self, **DECODING)

    def __call__(self, logits: Tensor) -> Tensor:
        """Changed logits [..., C]; -inf for excluded tokens."""
        logits = logits / self.temperature
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            least = logits.topk(self.top_k, dim=-1).values[..., -1:]
            logits = logits.masked_fill(logits < least, -math.inf)
        return logits if self.top_p == 1 else self._nucleus(logits)

    def _nucleus(self, logits: Tensor) -> Tensor:
        ordered, order = logits.sort(dim=-1, descending=True)
        probabilities = ordered.softmax(dim=-1)
        # A token stays if those before it add up to less than top_p: the first one always does.
        out = probabilities.cumsum(dim=-1) - probabilities >= self.top_p
        return logits.masked_fill(out.gather(-1, order.argsort(dim=-1)), -math.inf)


def draw_tokens(logits: Tensor, draws: SampleDraws) -> Tensor:
    """[N, ...] tokens drawn from logits [N, ..., C] by Gumbel noise, a function of the draws alone."""
    # On the CPU: draws are made there, and every machine has float64 there.
    wide = logits.cpu().double()
    uniform = torch.special.ndtr(draws.normal(wide)).clamp(1e-12, 1 - 1e-12)
    return (wide - (-uniform.log()).log()).argmax(dim=-1).to(logits.device)
