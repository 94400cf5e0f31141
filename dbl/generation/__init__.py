"""Writing text with a trained network: one loop for all that write from left to right, one for masked text."""

from dbl.generation.causal import BlockChain, CausalGenerator, LanguageModel, Reader
from dbl.generation.generator import TextGenerator
from dbl.generation.masked import MaskedGenerator
from dbl.generation.of_stack import stack_generator
from dbl.generation.recurrent import RecurrentChain, RecurrentIterations

__all__ = [
    "BlockChain",
    "CausalGenerator",
    "LanguageModel",
    "MaskedGenerator",
    "Reader",
    "RecurrentChain",
    "RecurrentIterations",
    "TextGenerator",
    "stack_generator",
]
