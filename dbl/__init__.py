"""Block-wise training of neural networks by diffusion (DiffusionBlocks, arXiv 2506.14202).

Names are imported when they are first used, so that `import dbl` is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dbl.block import DiffusionBlock
    from dbl.cli import main
    from dbl.contract import Contract, Terms
    from dbl.data import (
        Bytes,
        Characters,
        Digits,
        HubImages,
        ImageData,
        ImageSet,
        PyDoc,
        TextData,
        TextFiles,
        load_tokenizer,
    )
    from dbl.data.noisy import NoisyData
    from dbl.decoding import Decoding
    from dbl.diagnostics import diagnose
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
    "Bytes": "dbl.data",
    "CausalLM": "dbl.networks",
    "Characters": "dbl.data",
    "ClassTarget": "dbl.targets",
    "Contract": "dbl.contract",
    "Cut": "dbl.partition",
    "Decoding": "dbl.decoding",
    "DiT": "dbl.networks",
    "DiffusionBlock": "dbl.block",
    "Digits": "dbl.data",
    "HubImages": "dbl.data",
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
    "TextFiles": "dbl.data",
    "TokenTarget": "dbl.targets",
    "UniformNoise": "dbl.noise",
    "UserError": "dbl.errors",
    "ViT": "dbl.networks",
    "diagnose": "dbl.diagnostics",
    "load_tokenizer": "dbl.data",
    "main": "dbl.cli",
    "push_to_hub": "dbl.hub",
}

__all__ = [
    "Architecture",
    "BlockStack",
    "Bytes",
    "CausalLM",
    "Characters",
    "ClassTarget",
    "Contract",
    "Cut",
    "Decoding",
    "DiT",
    "DiffusionBlock",
    "Digits",
    "HubImages",
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
    "TextFiles",
    "TokenTarget",
    "UniformNoise",
    "UserError",
    "ViT",
    "diagnose",
    "load_tokenizer",
    "main",
    "push_to_hub",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dbl' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """Names that are not imported yet too, for those who press Tab."""
    return sorted({*globals(), *__all__})
