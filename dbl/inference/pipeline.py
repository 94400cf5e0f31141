"""An assembled network of diffusers' own modules as a pipeline of diffusers."""

from pathlib import Path
from typing import Any

import torch

from dbl.data.spec import ImageSpec, white_value
from dbl.denoising.targets import PixelTarget, image_spec
from dbl.diffusion.partition import Partition
from dbl.diffusion.preconditioning import VP
from dbl.inference.stack import BlockStack
from dbl.networks import DiffusersDiT
from dbl.networks.diffusers_dit import transformer_class
from dbl.utils.errors import UserError
from dbl.utils.files import temporary_folder
from dbl.utils.folders import replace_folder


def export_pipeline(stack: BlockStack, folder: str | Path) -> Path:
    """Write an assembled network of `dbl.DiffusersDiT` as a `DiTPipeline`, with DDIM as its scheduler.

    `DiffusionPipeline.from_pretrained(folder)` loads it in a process that has imported
    `dbl.inference.routed_transformer`, whose transformer routes by level. A network of latents gets no autoencoder:
    give it as `vae`. The folder is new and appears whole.

    Raises UserError if the folder exists, the stack lacks a block, or its network, preconditioning or target is not one
    that such a pipeline has.

    Args:
        stack: assembled network.
        folder: folder to make.

    Returns:
        The folder.

    Example:
        >>> import dbl
        >>> data = dbl.Digits(batch_size=64, eval_batch_size=64)
        >>> network, vp = dbl.DiffusersDiT(4, 2, 8, num_embeds_ada_norm=10), dbl.VP()
        >>> target = dbl.PixelTarget(preconditioning=vp, standardise=False)
        >>> config = dbl.ContractConfig(network, target, dbl.LogNormalNoise(*vp.range), dbl.PartitionConfig(2))
        >>> contract = config.build(data.spec)
        >>> stack = dbl.BlockStack(contract, lambda block: contract.denoiser(block).eval())  # not trained here
        >>> folder = dbl.export_pipeline(stack, "pipeline")
        >>> sorted(path.name for path in folder.iterdir())
        ['model_index.json', 'scheduler', 'transformer', 'vae']
    """
    path, contract = Path(folder), stack.contract
    network, target = contract.config.network, contract.config.target
    if not isinstance(network, DiffusersDiT) or not isinstance(target, PixelTarget):
        raise UserError(
            f"contract.network {type(network).__name__} is not of diffusers: export it with --format programs"
        )
    if not isinstance(target.preconditioning, VP):
        raise UserError(
            f"a pipeline of diffusers for images of classes has no {type(target.preconditioning).__name__}: export "
            "with --format programs"
        )
    stack.require_all("an export")
    if path.exists():
        raise UserError(f"{path} exists already: remove it, or export to another folder")
    data = image_spec(contract.data, "a pipeline")
    transformer_class()  # refuses where diffusers is not installed
    with temporary_folder(path) as temporary:
        _pipeline(stack, network, target, data).save_pretrained(temporary)
        replace_folder(path, temporary)
    return path


def _pipeline(stack: BlockStack, network: DiffusersDiT, target: PixelTarget, data: ImageSpec) -> Any:
    from diffusers import DDIMScheduler, DiTPipeline

    vp, partition = target.preconditioning, stack.contract.partition
    assert isinstance(vp, VP)
    scheduler = DDIMScheduler(
        num_train_timesteps=vp.num_steps,
        beta_start=vp.beta_start,
        beta_end=vp.beta_end,
        beta_schedule=vp.schedule,
        prediction_type=vp.prediction,
        clip_sample=False,
    )
    decoder = _decoder(target, data)
    return DiTPipeline(_transformer(stack, network, data, last_steps(vp, partition)), decoder, scheduler)


def last_steps(vp: VP, partition: Partition) -> list[int]:
    """[B-1] highest step below each cut of a partition; -1 where there is none."""
    low, high = partition.boundaries[-1], partition.boundaries[0]
    owners = partition.block_for(torch.tensor(vp.levels(), dtype=torch.float64).clamp(low, high))
    return [int((owners > block).sum()) - 1 for block in range(partition.num_blocks - 1)]


def _transformer(stack: BlockStack, network: DiffusersDiT, data: ImageSpec, cuts: list[int]) -> Any:
    from dbl.inference.routed_transformer import RoutedTransformer

    sizes = network.arguments(data, 0)
    own = {name: sizes.pop(name) for name in ("in_channels", "out_channels", "sample_size", "num_embeds_ada_norm")}
    del sizes["num_layers"]
    layers = list(stack.contract.partition.layers)
    transformer = RoutedTransformer(layers=layers, last_steps=cuts, sizes=sizes, **own)
    for block, module in enumerate(transformer.blocks):
        module.load_state_dict(stack.denoiser(block).network.module.state_dict())  # type: ignore[union-attr]
    return transformer.eval()


def _decoder(target: PixelTarget, data: ImageSpec) -> Any:
    """What makes pixels from -1 to 1 of targets; None for latents, which need the autoencoder of the user."""
    from dbl.inference.routed_transformer import PixelDecoder

    white = white_value(data)
    if white is None:
        if target.standardise:
            raise UserError(
                "contract.target.init_args.standardise must be false: an autoencoder takes latents as they are"
            )
        return None
    scale = target.scale(data)
    mean = [2 * value / white - 1 for value in scale.mean]
    std = [2 * value / (white * target.sigma_data) for value in scale.std]
    return PixelDecoder(mean=mean, std=std)
