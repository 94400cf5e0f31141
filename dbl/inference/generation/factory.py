"""The text generator that fits an assembled network."""

from dbl.denoising.targets import text_spec
from dbl.inference.generation.base import BlockSampling, Reader, TextGenerator
from dbl.inference.generation.causal import BlockDecoder, CausalGenerator
from dbl.inference.generation.masked import MaskedGenerator
from dbl.inference.generation.recurrent import RecurrentChain
from dbl.run.contract import Contract
from dbl.utils.errors import UserError


def stack_generator(contract: Contract, blocks: BlockSampling, seed: int) -> TextGenerator:
    """A text generator for the blocks of a run. Raises UserError if the run is not one of text.

    Args:
        contract: contract of the run.
        blocks: blocks and how they are sampled; its partition has one block for an ensemble, which has all levels.
        seed: random seed.
    """
    network, target = contract.config.network, contract.config.target
    text = text_spec(contract.data, type(target).__name__)
    if target.in_any_order:
        return MaskedGenerator(blocks, text.seq_len, mask=text.num_classes, end=text.end, seed=seed)
    if network.rereads_text:
        reader: Reader = RecurrentChain(blocks)
    elif hasattr(blocks.denoiser(0).network, "extend"):
        reader = BlockDecoder(blocks)
    else:
        raise UserError(
            f"{type(network).__name__} cannot write text: its blocks need a method `extend`, as "
            "dbl.networks.causal_lm.CausalNetwork has it"
        )
    return CausalGenerator(reader, text.seq_len, seed)
