# The public names of dbl, once: type checkers read this file, and `__init__.py` imports a name from here on first use.
from dbl.block import DiffusionBlock as DiffusionBlock
from dbl.cli import main as main
from dbl.contract import Contract as Contract, Terms as Terms
from dbl.data import (
    Bytes as Bytes,
    Characters as Characters,
    Digits as Digits,
    HorizontalFlip as HorizontalFlip,
    HubImages as HubImages,
    HubText as HubText,
    ImageData as ImageData,
    ImageSet as ImageSet,
    Latents as Latents,
    PaddedCrop as PaddedCrop,
    PyDoc as PyDoc,
    RandAugment as RandAugment,
    TextData as TextData,
    TextFiles as TextFiles,
    TokenizerFile as TokenizerFile,
    load_tokenizer as load_tokenizer,
)
from dbl.data.noisy import NoisyData as NoisyData
from dbl.data_spec import ImageSpec as ImageSpec, TextSpec as TextSpec
from dbl.decoding import Decoding as Decoding
from dbl.diagnostics import diagnose as diagnose
from dbl.errors import UserError as UserError
from dbl.hub import push_to_hub as push_to_hub
from dbl.inference import Inference as Inference
from dbl.information import InformationNoise as InformationNoise
from dbl.masking import MaskingNoise as MaskingNoise
from dbl.networks import (
    Architecture as Architecture,
    CausalLM as CausalLM,
    DiT as DiT,
    MaskedLM as MaskedLM,
    RecurrentLM as RecurrentLM,
    ViT as ViT,
)
from dbl.noise import (
    LogNormalNoise as LogNormalNoise,
    LogUniformNoise as LogUniformNoise,
    TabulatedNoise as TabulatedNoise,
    UniformNoise as UniformNoise,
)
from dbl.partition import Cut as Cut, Partition as Partition
from dbl.sampling import Sampler as Sampler
from dbl.stack import BlockStack as BlockStack
from dbl.targets import (
    ClassTarget as ClassTarget,
    MaskTarget as MaskTarget,
    PixelTarget as PixelTarget,
    TokenTarget as TokenTarget,
)
from dbl.training import Recipe as Recipe
