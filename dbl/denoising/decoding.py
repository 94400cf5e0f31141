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

_FEW_LOGITS = 2**14  # up to here float64 takes less time than finding out where it is needed
# Relative; far more than the rounding of a sum in float32.
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
    if place.type == "cpu" and rows.numel() > _FEW_LOGITS:
        tokens = _largest_sums(rows.flatten(0, -2), normal.flatten(0, -2)).reshape(rows.shape[:-1])
    else:
        tokens = (rows.double() + _gumbel(normal.double())).argmax(dim=-1)
    return tokens.to(logits.device)


def _gumbel(normal: Tensor) -> Tensor:
    """Gumbel noise from normal noise, in float64."""
    uniform = torch.special.ndtr(normal).clamp(1e-12, 1 - 1e-12)
    return -(-uniform.log()).log()


def gumbel_bound(normal: Tensor) -> Tensor:
    """A number that is at least the Gumbel noise made of the same normal noise, and at most 1 more from 0 to 5."""
    # A parabola, since -log(-log Phi(z)) is about z^2 / 2 + log z for large z.
    return (0.42 * normal).add_(1).mul_(normal).add_(0.45)


def _largest_sums(logits: Tensor, normal: Tensor) -> Tensor:
    """[R] first tokens with the largest sum of logits [R, C] and Gumbel noise from normal noise [R, C].

    A bound of the noise that is cheap to compute first leaves the few tokens that can have the largest sum.
    """
    bounds = gumbel_bound(normal).add_(logits)
    likely = bounds.argmax(dim=-1, keepdim=True)
    least = logits.gather(1, likely).double() + _gumbel(normal.gather(1, likely).double())  # R, 1: of some token
    least = (least - _MARGIN * (1 + least.abs())).to(bounds.dtype)
    rows, tokens = (bounds >= least).nonzero(as_tuple=True)
    exact = logits[rows, tokens].double() + _gumbel(normal[rows, tokens].double())
    largest = exact.new_full((len(logits),), -math.inf).scatter_reduce(0, rows, exact, "amax")
    won = exact == largest[rows]
    return rows.new_zeros(len(logits)).scatter_reduce(0, rows[won], tokens[won], "amin", include_self=False)
