"""Masked text as a target: some tokens are hidden, and the network predicts them all (MD4, arXiv 2406.04329)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from typing_extensions import override

from dbl.data.spec import IGNORED, DataSpec
from dbl.denoising.channels import MaskingChannel
from dbl.denoising.denoiser import MaskedDenoiser
from dbl.denoising.readout import Clean
from dbl.denoising.sampling import Sampler
from dbl.denoising.targets.base import Batch, Target, TargetSpace, wrong_method
from dbl.denoising.targets.tokens import text_spec
from dbl.diffusion.masking import MaskingNoise, mask_tokens
from dbl.diffusion.noise import NOISE, NoiseDistribution
from dbl.utils.errors import UserError


class MaskSpace(TargetSpace):
    """Sequences of tokens, with one extra token for "hidden"; the level of noise is the probability of hiding.

    Args:
        num_tokens: size C of the vocabulary; the mask is token C.
    """

    def __init__(self, num_tokens: int) -> None:
        super().__init__()
        self.mask = num_tokens

    @override
    def encode(self, batch: Batch) -> Clean:
        """Tokens [N, T], the last T of `tokens` [N, T + 1], so that every architecture is scored on the same ones.

        Positions that are not scored are always hidden. There is no condition but the visible tokens.
        """
        labels = batch["tokens"][:, 1:]
        return Clean(labels.masked_fill(labels == IGNORED, self.mask), labels[:, :0], labels)

    @override
    def corrupt(self, clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """Hide each token [N, T] with probability sigma [N]; see `dbl.diffusion.masking.mask_tokens`."""
        return mask_tokens(clean, noise, sigma, self.mask)

    @override
    def decode(self, denoised: Tensor) -> Tensor:
        return denoised  # tokens are their own answer


@dataclass(frozen=True)
class MaskTarget(Target):
    """Predict the hidden tokens of a sequence; each token is hidden with the same probability.

    Example:
        >>> import dbl
        >>> data = dbl.PyDoc(seq_len=64, tokenizer=dbl.Characters(), batch_size=8, eval_batch_size=8)
        >>> dbl.MaskTarget().shape(data.spec)  # of one sequence: token ids
        (64,)
    """

    generates: ClassVar = "text"
    has_condition: ClassVar = False
    in_any_order: ClassVar = True
    level_name: ClassVar = "the masking probability"
    default_sampler: ClassVar = Sampler(method="ancestral", schedule="quantile")

    @override
    def shape(self, data: DataSpec) -> tuple[int, ...]:
        return (text_spec(data, "MaskTarget").seq_len,)

    @override
    def check(self, noise: NoiseDistribution) -> None:
        if not isinstance(noise, MaskingNoise):
            raise UserError(
                f"contract.target MaskTarget needs contract.noise dbl.MaskingNoise, not {type(noise).__name__}"
            )
        if noise.sigma_max != 1:
            raise UserError(
                f"{NOISE}.sigma_max ({noise.sigma_max}) must be 1 for MaskTarget: text starts wholly hidden"
            )

    @override
    def space(self, data: DataSpec, table: Tensor | None) -> MaskSpace:
        return MaskSpace(text_spec(data, "MaskTarget").num_classes)

    @override
    def make_denoiser(
        self, network: nn.Module, table: Tensor | None, noise: NoiseDistribution, num_classes: int
    ) -> MaskedDenoiser:
        assert isinstance(noise, MaskingNoise)  # `check` refuses others
        return MaskedDenoiser(network, noise.weight, mask=num_classes)

    @override
    def check_sampler(self, sampler: Sampler) -> None:
        if sampler.method != "ancestral":
            raise wrong_method(sampler)
        if sampler.schedule != "quantile":
            raise UserError("inference.sampler.schedule must be quantile for masked text: even steps of time")

    @override
    def channel(self, data: DataSpec, table: Tensor | None) -> MaskingChannel:
        return MaskingChannel(mask=data.num_classes)
