"""Tokens of text as targets: each one the row of a frozen table, with the tokens before it as the condition.

Position i of a sequence stands for the token that follows token i of the condition.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from dbl.data.spec import DataSpec, TextSpec, kind_of
from dbl.denoising.readout import Clean
from dbl.denoising.targets.base import Batch
from dbl.denoising.targets.gaussian import TARGET
from dbl.denoising.targets.tables import ReadoutKind, TableReadout, TableSpace, TableTarget
from dbl.utils.checks import Number, check_numbers
from dbl.utils.errors import UserError


def text_spec(data: DataSpec, target: str) -> TextSpec:
    """The facts about text; raises UserError if the data are something else."""
    if not isinstance(data, TextSpec):
        raise UserError(
            f"contract.target {target} is for text, but data {data.name} is {kind_of(data)}: use dbl.ClassTarget"
            + (" or dbl.PixelTarget" if kind_of(data) == "image" else "")
        )
    return data


class TokenSpace(TableSpace):
    """One row of a frozen table for each token; the condition is the tokens before it."""

    @override
    def encode(self, batch: Batch) -> Clean:
        """Rows [N, T, D] of the tokens that follow, from `tokens` [N, T + 1]."""
        labels = batch["tokens"][:, 1:]
        return Clean(self.table[labels.clamp(min=0)], batch["tokens"][:, :-1].clamp(min=0), labels)


@dataclass(frozen=True)
class TokenTarget(TableTarget):
    """Denoise the row of the token that follows; other arguments are those of `TableTarget`.

    The default readout is the posterior: only the token's own vector is noisy, and Bayes' rule gives its evidence.

    Args:
        context_share: share of the loss, from 0 to 1, on the cross-entropy of the network's own logits, without the
            evidence of the noisy vector. By Bayes' rule both have the same optimum, but at low noise the evidence
            leaves little to learn. For the posterior readout only.

    Example:
        >>> import dbl
        >>> data = dbl.PyDoc(seq_len=64, tokenizer=dbl.Characters(), batch_size=8, eval_batch_size=8)
        >>> dbl.TokenTarget(dim=128).shape(data.spec)  # one vector for each token of a sequence
        (64, 128)
    """

    generates: ClassVar = "text"
    kind: ReadoutKind = "posterior"
    context_share: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(TARGET, self, context_share=Number(at_least=0, at_most=1))
        if self.context_share and self.kind != "posterior":
            raise UserError(f"{TARGET}.context_share needs kind posterior, not {self.kind}: it omits evidence")

    @override
    def shape(self, data: DataSpec) -> tuple[int, ...]:
        return (text_spec(data, "TokenTarget").seq_len, self.dim)

    @override
    def space(self, data: DataSpec, table: Tensor | None) -> TokenSpace:
        assert table is not None
        text_spec(data, "TokenTarget")
        return TokenSpace(table)

    @override
    def readout(self, table: Tensor | None) -> TableReadout:
        assert table is not None
        return TableReadout(table, self.kind, self.context_share)
