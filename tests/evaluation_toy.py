"""Toy stacks that no one trained, and a Trainer to test them with."""

from pathlib import Path

import lightning as L
import torch
from event_files import events_in
from lightning.pytorch.loggers import TensorBoardLogger
from toy import DIT, VIT, Stripes

from dbl.denoising.denoiser import Denoiser
from dbl.denoising.sampling import Sampler
from dbl.denoising.targets import ClassTarget, PixelTarget
from dbl.diffusion.information import InformationNoise
from dbl.diffusion.partition import PartitionConfig
from dbl.inference.stack import BlockStack
from dbl.run.contract import Contract, ContractConfig
from dbl.run.inference import InferenceConfig
from dbl.utils.seeding import generator_for

_TERMS = {
    "dit": ContractConfig(network=DIT, target=PixelTarget(), partition=PartitionConfig(num_blocks=3)),
    "vit": ContractConfig(
        network=VIT, target=ClassTarget(dim=8), noise=InformationNoise(), partition=PartitionConfig(num_blocks=3)
    ),
}


def toy_contract(kind: str) -> Contract:
    """The contract of a DiT for images (`dit`) or a ViT for classes (`vit`) on `Stripes`, in three blocks."""
    return _TERMS[kind].build(Stripes().spec)


def random_denoiser(contract: Contract, block: int) -> Denoiser:
    """A block with random weights: as built, the last layers are zeros, and the block ignores what it is given."""
    denoiser = contract.denoiser(block)
    generator = generator_for(0, "toy weights", block)
    for parameter in denoiser.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return denoiser.eval().requires_grad_(False)


def toy_stack(kind: str, **options: object) -> BlockStack:
    """A stack of such blocks, with a sampler of six steps."""
    contract = toy_contract(kind)
    inference = InferenceConfig(sampler=Sampler(num_steps=6, schedule="quantile"), num_images=4, **options)  # type: ignore[arg-type]
    return BlockStack(contract, lambda block: random_denoiser(contract, block), inference).eval()


def evaluation(folder: Path, *callbacks: L.Callback) -> L.Trainer:
    """A Trainer for `test` and `validate` that logs to TensorBoard files in a folder."""
    return L.Trainer(
        accelerator="cpu",
        logger=TensorBoardLogger(str(folder), name="", version=""),
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
    )


def logged_tags(folder: Path, kind: str) -> set[str]:
    """Tags of one kind (`images`, `scalars`) in the TensorBoard files of a folder."""
    return set(events_in(folder).Tags()[kind])
