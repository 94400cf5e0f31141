"""Writing text with a trained network: one loop for all that write from left to right, one for masked text."""

from dbl.inference.generation.base import (
    BlockSampling as BlockSampling,
    Reader as Reader,
    TextGenerator as TextGenerator,
)
from dbl.inference.generation.causal import (
    BlockDecoder as BlockDecoder,
    CausalGenerator as CausalGenerator,
    LanguageModel as LanguageModel,
)
from dbl.inference.generation.factory import stack_generator as stack_generator
from dbl.inference.generation.masked import MaskedGenerator as MaskedGenerator
from dbl.inference.generation.recurrent import (
    RecurrentChain as RecurrentChain,
    RecurrentIterations as RecurrentIterations,
)
