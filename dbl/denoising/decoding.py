"""How the next token is drawn from what a network says: temperature, top-k, top-p.

In a chain of blocks the last logits are nearly one-hot, and to change them there would change nothing. So these act on
what a network says of the context, before the evidence of the noisy vector is added (see `TableReadout`).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dbl.utils.errors import UserError
from dbl.utils.seeding import SampleDraws


@dataclass(frozen=True)
class Decoding:
    """How tokens are drawn: a change of logits [..., C] by temperature, top-k and top-p.

    Args:
        temperature: logits are divided by it; 1 draws from the model's distribution, less is bolder.
        top_k: only the k most probable tokens remain; null for all.
        top_p: only the most probable tokens that together have this probability remain; 1 for all.

    Example:
        >>> import dbl, torch
        >>> dbl.Decoding(top_k=2)(torch.tensor([3.0, 1.0, 2.0]))
        tensor([3., -inf, 2.])
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise UserError(f"decoding.temperature ({self.temperature}) must be positive; top_k=1 takes the best token")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"decoding.top_k ({self.top_k}) must be at least 1, or null for all tokens")
        if not 0 < self.top_p <= 1:
            raise UserError(f"decoding.top_p ({self.top_p}) must lie in (0, 1]")

    def __call__(self, logits: Tensor) -> Tensor:
        """Changed logits [..., C]; -inf for tokens that are out."""
        logits = logits / self.temperature
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            least = logits.topk(self.top_k, dim=-1).values[..., -1:]
            logits = logits.masked_fill(logits < least, -math.inf)
        return logits if self.top_p == 1 else self._nucleus(logits)

    def _nucleus(self, logits: Tensor) -> Tensor:
        ordered, order = logits.sort(dim=-1, descending=True)
        probabilities = ordered.softmax(dim=-1)
        # Those before which less than top_p is gathered stay: the first one always.
        out = probabilities.cumsum(dim=-1) - probabilities >= self.top_p
        return logits.masked_fill(out.gather(-1, order.argsort(dim=-1)), -math.inf)


def draw_tokens(logits: Tensor, draws: SampleDraws) -> Tensor:
    """One token for each distribution, a function of the draws: [N, ...] from logits [N, ..., C], by Gumbel noise."""
    # On the CPU, where the draws are made and every machine has float64.
    wide = logits.cpu().double()
    uniform = torch.special.ndtr(draws.normal(wide)).clamp(1e-12, 1 - 1e-12)
    return (wide - (-uniform.log()).log()).argmax(dim=-1).to(logits.device)
