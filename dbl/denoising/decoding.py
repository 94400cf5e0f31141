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

# Relative; a thousand times the rounding of a sum in float32.
_MARGIN = 1e-4


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
    """[N, ...] tokens drawn from logits [N, ..., C] by Gumbel noise, a function of the draws alone.

    The noise is made of normal draws in float64, which decides between tokens that are almost equal.
    """
    # Not on devices without float64. On others the result stays there: the next token needs no round trip.
    place = torch.device("cpu") if logits.device.type == "mps" else logits.device
    rows = logits.to(place)
    normal = draws.normal(torch.empty(rows.shape, dtype=torch.float32, device=place))
    if place.type == "cpu":
        tokens = _largest_sums(rows.flatten(0, -2), normal.flatten(0, -2)).reshape(rows.shape[:-1])
    else:
        tokens = (rows.double() + _gumbel(normal.double())).argmax(dim=-1)
    return tokens.to(logits.device)


def _gumbel(normal: Tensor) -> Tensor:
    """Gumbel noise from normal noise, in float64."""
    uniform = torch.special.ndtr(normal).clamp(1e-12, 1 - 1e-12)
    return -(-uniform.log()).log()


def _largest_sums(logits: Tensor, normal: Tensor) -> Tensor:
    """[R] first tokens with the largest sum of logits [R, C] and Gumbel noise from normal noise [R, C].

    Float64 is slow on a CPU, so float32 first finds the few tokens that can be the largest.
    """
    # The smaller tail of the normal distribution keeps its digits in float32, and with it the double logarithm.
    tail = torch.special.ndtr(-normal.abs())
    minus_log = torch.where(normal > 0, torch.log1p(-tail), tail.log()).neg_()
    sums = logits.float() - minus_log.log_()
    top = sums.amax(dim=-1, keepdim=True)
    rows, tokens = (sums >= top - _MARGIN * (1 + top.abs())).nonzero(as_tuple=True)
    exact = logits[rows, tokens].double() + _gumbel(normal[rows, tokens].double())
    largest = exact.new_full((len(logits),), -math.inf).scatter_reduce(0, rows, exact, "amax")
    won = exact == largest[rows]
    return rows.new_zeros(len(logits)).scatter_reduce(0, rows[won], tokens[won], "amin", include_self=False)
