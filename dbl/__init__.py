"""Block-wise training of neural networks by diffusion (DiffusionBlocks, arXiv 2506.14202).

Names are imported when they are first used, so that `import dbl` is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dbl.block import DiffusionBlock
    from dbl.contract import Contract, Terms
    from dbl.data import Digits, ImageData, ImageSet, PyDoc, TextData
    from dbl.data.noisy import NoisyData
    from dbl.decoding import Decoding
    from dbl.errors import UserError
    from dbl.hub import push_to_hub
    from dbl.inference import Inference
    from dbl.information import InformationNoise
    from dbl.masking import MaskingNoise
    from dbl.networks import Architecture, CausalLM, DiT, MaskedLM, RecurrentLM, ViT
    from dbl.noise import LogNormalNoise, LogUniformNoise, UniformNoise
    from dbl.partition import Cut, Partition
    from dbl.sampling import Sampler
    from dbl.stack import BlockStack
    from dbl.targets import ClassTarget, MaskTarget, PixelTarget, TokenTarget
    from dbl.training import Recipe

_HOMES = {
    "Architecture": "dbl.networks",
    "BlockStack": "dbl.stack",
    "CausalLM": "dbl.networks",
    "ClassTarget": "dbl.targets",
    "Contract": "dbl.contract",
    "Cut": "dbl.partition",
    "Decoding": "dbl.decoding",
    "DiT": "dbl.networks",
    "DiffusionBlock": "dbl.block",
    "Digits": "dbl.data",
    "ImageData": "dbl.data",
    "ImageSet": "dbl.data",
    "Inference": "dbl.inference",
    "InformationNoise": "dbl.information",
    "LogNormalNoise": "dbl.noise",
    "LogUniformNoise": "dbl.noise",
    "MaskTarget": "dbl.targets",
    "MaskedLM": "dbl.networks",
    "MaskingNoise": "dbl.masking",
    "NoisyData": "dbl.data.noisy",
    "Partition": "dbl.partition",
    "PixelTarget": "dbl.targets",
    "PyDoc": "dbl.data",
    "Recipe": "dbl.training",
    "RecurrentLM": "dbl.networks",
    "Sampler": "dbl.sampling",
    "Terms": "dbl.contract",
    "TextData": "dbl.data",
    "TokenTarget": "dbl.targets",
    "UniformNoise": "dbl.noise",
    "UserError": "dbl.errors",
    "ViT": "dbl.networks",
    "push_to_hub": "dbl.hub",
}

__all__ = [
    "Architecture",
    "BlockStack",
    "CausalLM",
    "ClassTarget",
    "Contract",
    "Cut",
    "Decoding",
    "DiT",
    "DiffusionBlock",
    "Digits",
    "ImageData",
    "ImageSet",
    "Inference",
    "InformationNoise",
    "LogNormalNoise",
    "LogUniformNoise",
    "MaskTarget",
    "MaskedLM",
    "MaskingNoise",
    "NoisyData",
    "Partition",
    "PixelTarget",
    "PyDoc",
    "Recipe",
    "RecurrentLM",
    "Sampler",
    "Terms",
    "TextData",
    "TokenTarget",
    "UniformNoise",
    "UserError",
    "ViT",
    "push_to_hub",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dbl' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
