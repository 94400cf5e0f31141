"""Masked text as a target: some tokens are hidden, and all that are hidden are to be found (MD4, arXiv 2406.04329)."""

from dataclasses import dataclass

from torch import Tensor

from dbl.data.spec import IGNORED, DataSpec
from dbl.denoising.targets.base import Batch, Clean, Target, TargetSpace
from dbl.denoising.targets.tokens import text_spec
from dbl.diffusion.masking import MaskingNoise, mask_tokens
from dbl.diffusion.noise import NoiseDistribution
from dbl.utils.errors import UserError


class MaskSpace(TargetSpace):
    """Sequences of tokens, with one token more for "hidden"; the level of noise is the probability of hiding.

    Args:
        num_tokens: C of the vocabulary; the mask is token C.
    """

    def __init__(self, num_tokens: int) -> None:
        super().__init__()
        self.mask = num_tokens

    def encode(self, batch: Batch) -> Clean:
        """Tokens [N, T], the last T of `tokens` [N, T + 1], so that every architecture is scored on the same ones.

        Positions that are not scored are hidden always. There is no condition: what is not hidden is it.
        """
        labels = batch["tokens"][:, 1:]
        return Clean(labels.masked_fill(labels == IGNORED, self.mask), labels[:, :0], labels)

    def corrupt(self, clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """Hide each token [N, T] with probability sigma [N]; see `dbl.diffusion.masking.mask_tokens`."""
        return mask_tokens(clean, noise, sigma, self.mask)

    def decode(self, denoised: Tensor) -> Tensor:
        """Tokens are their own answer."""
        return denoised


@dataclass(frozen=True)
class MaskTarget(Target):
    """Find the hidden tokens of a sequence, of which each is hidden with the same probability.

    Example:
        >>> import dbl
        >>> data = dbl.PyDoc(seq_len=64, tokenizer=dbl.Characters(), batch_size=8, eval_batch_size=8)
        >>> dbl.MaskTarget().shape(data.spec)  # of one sequence: token ids
        (64,)
    """

    def shape(self, data: DataSpec) -> tuple[int, ...]:
        """See `Target.shape`."""
        return (text_spec(data, "MaskTarget").seq_len,)

    def check(self, noise: NoiseDistribution) -> None:
        """See `Target.check`."""
        if not isinstance(noise, MaskingNoise):
            raise UserError(
                f"contract.target MaskTarget needs contract.noise dbl.MaskingNoise, not {type(noise).__name__}"
            )
        if noise.sigma_max != 1:
            raise UserError(f"noise.sigma_max ({noise.sigma_max}) must be 1 for MaskTarget: text starts wholly hidden")

    def make_table(self, data: DataSpec, seed: int) -> None:
        """Masks need no table."""

    def space(self, data: DataSpec, table: Tensor | None) -> MaskSpace:
        """See `Target.space`."""
        return MaskSpace(text_spec(data, "MaskTarget").num_classes)
