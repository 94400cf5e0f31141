# The public names of dbl, sorted by module. Type checkers read this file; `__init__.py` imports each name on first use.
from dbl.commands.main import main as main
from dbl.commands.run_data import load_data as load_data
from dbl.data import (
    Bytes as Bytes,
    Characters as Characters,
    Digits as Digits,
    HorizontalFlip as HorizontalFlip,
    HubImages as HubImages,
    HubText as HubText,
    ImageData as ImageData,
    ImageFolder as ImageFolder,
    ImageSet as ImageSet,
    Latents as Latents,
    PaddedCrop as PaddedCrop,
    PyDoc as PyDoc,
    RandAugment as RandAugment,
    TextData as TextData,
    TextFiles as TextFiles,
    TokenizerFile as TokenizerFile,
    VectorData as VectorData,
    VectorFiles as VectorFiles,
    VectorSet as VectorSet,
    Wine as Wine,
    load_tokenizer as load_tokenizer,
)
from dbl.data.spec import ImageSpec as ImageSpec, TextSpec as TextSpec, VectorSpec as VectorSpec
from dbl.denoising.decoding import Decoding as Decoding
from dbl.denoising.sampling import Sampler as Sampler
from dbl.denoising.targets import (
    ClassTarget as ClassTarget,
    MaskTarget as MaskTarget,
    PixelTarget as PixelTarget,
    TokenTarget as TokenTarget,
)
from dbl.diffusion.information import InformationNoise as InformationNoise
from dbl.diffusion.masking import MaskingNoise as MaskingNoise
from dbl.diffusion.noise import (
    LogNormalNoise as LogNormalNoise,
    LogUniformNoise as LogUniformNoise,
    TabulatedNoise as TabulatedNoise,
    UniformNoise as UniformNoise,
)
from dbl.diffusion.partition import Partition as Partition, PartitionConfig as PartitionConfig
from dbl.diffusion.preconditioning import EDM as EDM, VP as VP, Flow as Flow
from dbl.evaluation.diagnostics import diagnose as diagnose
from dbl.evaluation.report.reader import Report as Report
from dbl.evaluation.stack_evaluation import StackEvaluation as StackEvaluation
from dbl.inference.export import export_stack as export_stack
from dbl.inference.grid import image_grid as image_grid
from dbl.inference.pipeline import export_pipeline as export_pipeline
from dbl.inference.stack import BlockStack as BlockStack
from dbl.networks import (
    Architecture as Architecture,
    CausalLM as CausalLM,
    DiffusersDiT as DiffusersDiT,
    DiT as DiT,
    LabelCNN as LabelCNN,
    MaskedLM as MaskedLM,
    RecurrentLM as RecurrentLM,
    ResidualMLP as ResidualMLP,
    ViT as ViT,
)
from dbl.networks.adapters import LoRA as LoRA
from dbl.run.contract import Contract as Contract, ContractConfig as ContractConfig
from dbl.run.hub.library import push_to_hub as push_to_hub
from dbl.run.inference import InferenceConfig as InferenceConfig
from dbl.run.start import Ancestor as Ancestor, Pretrained as Pretrained, RandomStart as RandomStart
from dbl.training.block import DiffusionBlock as DiffusionBlock
from dbl.training.config import TrainingConfig as TrainingConfig
from dbl.training.noisy_data import NoisyData as NoisyData
from dbl.utils.controls import interact as interact
from dbl.utils.errors import UserError as UserError
