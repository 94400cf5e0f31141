"""An assembled network as programs that run without `dbl`: one for each block, and the whole chain as one.

`torch.export` records what a block computes, with its weights; `torch.export.load` runs it where torch is. The manifest
says which block is called at which level, and what becomes of the last state.

Axes: N samples, C channels (or classes, where the stack classifies), H rows, W columns.
"""

from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dbl.data.spec import ImageSpec, kind_of, white_value
from dbl.denoising.denoiser import Denoiser
from dbl.denoising.sampling import Denoise, guided
from dbl.denoising.targets.pixels import ImageScale, PixelTarget, image_spec
from dbl.inference.pixels import to_unit
from dbl.inference.stack import BlockStack
from dbl.run.model_folder import file_hash
from dbl.utils.errors import UserError, reason_of
from dbl.utils.files import temporary_folder, write_json
from dbl.utils.folders import replace_folder

MANIFEST, CHAIN = "manifest.json", "chain.pt2"
VERSION = 1  # of the manifest
_BATCH = torch.export.Dim("batch", min=1, max=2**20)


class BlockProgram(nn.Module):
    """One block as a function of a noisy target, its level and what the stack is given.

    Args:
        denoiser: denoiser of the block.
        data: facts about the images.
        reads_images: whether the condition is the image, as for a classifier, rather than a label.
    """

    def __init__(self, denoiser: Denoiser, data: ImageSpec, reads_images: bool) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.scale = ImageScale(data) if reads_images else None
        self.white = white_value(data) or 1.0

    def forward(self, noisy: Tensor, sigma: Tensor, condition: Tensor) -> tuple[Tensor, ...]:
        """Denoise.

        Args:
            noisy: [N, *target_shape] float32.
            sigma: level, a scalar of float32.
            condition: labels [N] int64, or images [N,C,H,W] float32 from 0 to 1.

        Returns:
            The denoised target [N, *target_shape]; of a classifier the probabilities [N, C] too.
        """
        cond = condition if self.scale is None else self.scale(condition * self.white)
        prediction = self.denoiser.predict(noisy, sigma.expand(noisy.shape[0]), cond)
        if prediction.logits is None:
            return (prediction.denoised,)
        return prediction.denoised, prediction.logits.softmax(dim=-1)


class ChainProgram(nn.Module):
    """All blocks along the levels of the sampler, as one function.

    Args:
        stack: assembled network of images or classes, with all of its blocks.
    """

    def __init__(self, stack: BlockStack) -> None:
        super().__init__()
        contract, self.sampler = stack.contract, stack.inference.sampler
        self.data, self.noise = image_spec(contract.data, "a chain"), contract.noise
        self.classifies = stack.target.generates == "classes"
        self.space = stack.space
        self.blocks = nn.ModuleList(block_programs(stack))
        self.levels: list[float] = self.sampler.levels(self.noise).tolist()
        self.owners: list[int] = contract.partition.block_for(self.sampler.called_levels(self.noise)).tolist()

    def forward(self, noise: Tensor, condition: Tensor) -> Tensor:
        """Carry noise to answers.

        Args:
            noise: [N, *target_shape] float32, standard normal.
            condition: labels [N] int64, or images [N,C,H,W] float32 from 0 to 1.

        Returns:
            Images [N,C,H,W] from 0 to 1 (of data that are no pixels, raw), or probabilities [N, C] of the classes.
        """
        owners, outputs = iter(self.owners), [noise]

        def denoise(noisy: Tensor, sigma: Tensor) -> Tensor:
            block, scale = self.blocks[next(owners)], self.sampler.guidance_scale

            def given(condition: Tensor) -> Denoise:
                def call(noisy: Tensor, sigma: Tensor) -> Tensor:
                    outputs[:] = block(noisy.float(), sigma.float(), condition)
                    return outputs[0].to(noisy.dtype)

                return call

            if scale == 1:
                return given(condition)(noisy, sigma)
            without = torch.full_like(condition, self.data.num_classes)
            return guided(given(condition), given(without), scale)(noisy, sigma)

        # Made here, a number at a time: an export then knows their values.
        levels = [torch.tensor(level, dtype=torch.float64) for level in self.levels]
        sample = self.sampler.sample(denoise, noise.double(), self.noise, levels)
        return outputs[-1] if self.classifies else to_unit(self.space.decode(sample), self.data)


def block_programs(stack: BlockStack) -> list[BlockProgram]:
    """The program of each block."""
    data, classifies = image_spec(stack.contract.data, "a program"), stack.target.generates == "classes"
    return [BlockProgram(stack.denoiser(block), data, classifies) for block in stack.available]


def export_stack(stack: BlockStack, folder: str | Path, chain: bool = True) -> Path:
    """Write an assembled network as programs that `torch.export.load` runs without `dbl`.

    The folder is new and appears whole: `block_<b>.pt2`, one program for each block; `chain.pt2`, all of them along the
    levels of the sampler; and `manifest.json`, which says what they take and give, the level and block of each step,
    and the SHA-256 of each file. Programs compute in float32, on the CPU, for any batch size.

    Raises UserError if the folder exists, the stack writes text, lacks a block or is not in float32 on the CPU, or its
    network is of a kind that `torch.export` cannot record.

    Args:
        stack: assembled network of images or classes.
        folder: folder to make.
        chain: whether to write `chain.pt2`, whose size grows with the number of steps.

    Returns:
        The folder.

    Example:
        >>> import dbl, torch
        >>> data = dbl.Digits(batch_size=64, eval_batch_size=64)
        >>> contract = dbl.ContractConfig(dbl.DiT(3, width=16, num_heads=2, patch_size=4), dbl.PixelTarget())
        >>> contract = contract.build(data.spec)
        >>> blocks = [dbl.DiffusionBlock(contract, block) for block in range(3)]  # not trained here
        >>> inference = dbl.InferenceConfig(dbl.Sampler(num_steps=3))
        >>> stack = dbl.BlockStack(contract, lambda block: blocks[block].denoiser.eval(), inference).eval()
        >>> folder = dbl.export_stack(stack, "exported")
        >>> sorted(path.name for path in folder.iterdir())
        ['block_0.pt2', 'block_1.pt2', 'block_2.pt2', 'chain.pt2', 'manifest.json']
        >>> program = torch.export.load("exported/chain.pt2").module()
        >>> noise = torch.randn(4, 1, 8, 8)
        >>> program(noise, torch.tensor([3, 7, 3, 7])).shape  # images of these classes
        torch.Size([4, 1, 8, 8])
    """
    path = Path(folder)
    check_exportable(stack)
    if path.exists():
        raise UserError(f"{path} exists already: remove it, or export to another folder")
    with temporary_folder(path) as temporary:
        for block, program in enumerate(block_programs(stack)):
            _save(program, _example(stack, sigma=True), temporary / f"block_{block}.pt2")
        if chain:
            _save(ChainProgram(stack), _example(stack, sigma=False), temporary / CHAIN)
        files = {file.name: file_hash(file) for file in sorted(temporary.iterdir())}
        write_json(temporary / MANIFEST, manifest(stack) | {"files": files})
        replace_folder(path, temporary)
    return path


def check_exportable(stack: BlockStack) -> None:
    """Raise UserError unless the stack is of images or classes, whole, in float32 and on the CPU."""
    made, data = stack.target.generates, stack.contract.data
    if made == "classes" and not isinstance(data, ImageSpec):
        raise UserError(f"a stack for {kind_of(data)} data cannot be exported: programs are for images and classes")
    if made not in ("images", "classes"):
        raise UserError(
            f"a stack of {made} cannot be exported: programs have no cache; use dbl sample or stack.write()"
        )
    stack.require_all("an export")
    if stack.device.type != "cpu" or stack.blocks.dtype != torch.float32:
        raise UserError(f"an export needs a stack in float32 on the CPU, not {stack.blocks.dtype} on {stack.device}")


def _example(stack: BlockStack, sigma: bool) -> tuple[Tensor, ...]:
    """Inputs of a program, for two samples."""
    target, data = stack.target.shape(stack.contract.data), image_spec(stack.contract.data, "a program")
    is_image = stack.target.generates == "classes"
    condition = torch.zeros(2, *data.shape) if is_image else torch.zeros(2, dtype=torch.int64)
    noise = torch.zeros(2, *target)
    return (noise, torch.tensor(1.0), condition) if sigma else (noise, condition)


@torch.no_grad()
def _save(program: nn.Module, example: tuple[Tensor, ...], path: Path) -> None:
    shapes = tuple({0: _BATCH} if tensor.ndim else None for tensor in example)
    try:
        exported = torch.export.export(program.eval(), example, dynamic_shapes=shapes)
    except Exception as error:  # of an own network: whatever the tracer raises
        raise UserError(
            f"{path.name} cannot be made: torch.export cannot record this network ({reason_of(error)})"
        ) from error
    torch.export.save(exported, path)


def manifest(stack: BlockStack) -> dict[str, Any]:
    """What a program that calls the blocks must know, as JSON values.

    Returns:
        `version`; `contract`, its hash; `torch`, the version that made the programs; `makes`: `images` or `classes`;
        `num_classes`; `noise_shape` and `image_shape` of one sample; `condition`: `labels` or `images`; `method`,
        `guidance_scale` and `start_scale`, the factor on standard normal noise; `steps`: for each, `sigma`, the next
        level `sigma_next` (0 at last), `block`, and `block_next`, the owner of the next level, which `heun` calls
        too; `mean`, `std` and `sigma_data`, by which a denoised image becomes raw, and `white`, its raw value of 1
        (null where there are no pixels).
    """
    contract, sampler = stack.contract, stack.inference.sampler
    data, levels = image_spec(contract.data, "a manifest"), sampler.levels(contract.noise)
    owners = [*contract.partition.block_for(levels[:-1]).tolist(), None]
    steps = zip(pairwise(levels.tolist()), pairwise(owners), strict=True)
    classifies = stack.target.generates == "classes"
    scale = stack.target.scale(data) if isinstance(stack.target, PixelTarget) else data
    return {
        "version": VERSION,
        "contract": contract.hash,
        "torch": str(torch.__version__),
        "makes": stack.target.generates,
        "num_classes": data.num_classes,
        "noise_shape": list(stack.target.shape(data)),
        "image_shape": list(data.shape),
        "condition": "images" if classifies else "labels",
        "method": sampler.method,
        "guidance_scale": sampler.guidance_scale,
        "start_scale": sampler.temperature * contract.noise.sigma_max,
        "steps": [
            {"sigma": sigma, "sigma_next": sigma_next, "block": block, "block_next": block_next}
            for (sigma, sigma_next), (block, block_next) in steps
        ],
        "mean": list(scale.mean),
        "std": list(scale.std),
        "sigma_data": getattr(contract.config.target, "sigma_data", None),
        "white": white_value(data),
    }
