"""The writer that fits an assembled network."""

from collections.abc import Callable
from typing import cast

from dbl.denoising.decoding import Decoding
from dbl.denoising.denoiser import Denoiser, GaussianDenoiser
from dbl.denoising.sampling import Sampler
from dbl.denoising.targets import MaskTarget, text_spec
from dbl.diffusion.partition import Partition
from dbl.inference.generation.causal import BlockDecoder, CausalGenerator, Reader, TextGenerator
from dbl.inference.generation.masked import MaskedGenerator
from dbl.inference.generation.recurrent import RecurrentChain
from dbl.networks import RecurrentLM
from dbl.run.contract import Contract
from dbl.utils.errors import UserError


def stack_generator(
    contract: Contract,
    denoiser: Callable[[int], Denoiser],
    partition: Partition,
    sampler: Sampler,
    decoding: Decoding,
    seed: int,
) -> TextGenerator:
    """A generator for the blocks of a run.

    Args:
        contract: of the run.
        denoiser: gives the denoiser of a block of `partition`, ready for inference.
        partition: of the run; one block for a ensemble, which answers all levels.
        sampler: steps for each token; of masked text for all of them.
        decoding: how tokens are drawn.
        seed: of all draws.

    Raises:
        UserError: if the run is not one of text.
    """
    text = text_spec(contract.data, type(contract.config.target).__name__)
    noise = contract.noise
    if isinstance(contract.config.target, MaskTarget):
        return MaskedGenerator(
            denoiser, noise, partition, sampler, decoding, text.seq_len, mask=text.num_classes, seed=seed
        )
    if isinstance(contract.config.network, RecurrentLM):
        reader: Reader = RecurrentChain(cast(GaussianDenoiser, denoiser(0)), noise, sampler, decoding)
    elif hasattr(denoiser(0).network, "extend"):
        reader = BlockDecoder(denoiser, noise, partition, sampler, decoding)
    else:
        raise UserError(
            f"{type(contract.config.network).__name__} cannot write text: its blocks need a method `extend`, as "
            "dbl.networks.causal_lm.CausalNetwork has it"
        )
    return CausalGenerator(reader, text.seq_len, seed)
