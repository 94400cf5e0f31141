"""Writing text with a trained network: one loop for all that write from left to right, one for masked text."""

from dbl.inference.generation.base import BlockSampling, Reader, TextGenerator
from dbl.inference.generation.causal import BlockDecoder, CausalGenerator, LanguageModel
from dbl.inference.generation.factory import stack_generator
from dbl.inference.generation.masked import MaskedGenerator
from dbl.inference.generation.recurrent import RecurrentChain, RecurrentIterations

__all__ = [
    "BlockDecoder",
    "BlockSampling",
    "CausalGenerator",
    "LanguageModel",
    "MaskedGenerator",
    "Reader",
    "RecurrentChain",
    "RecurrentIterations",
    "TextGenerator",
    "stack_generator",
]
