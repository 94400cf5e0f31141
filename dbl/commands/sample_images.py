"""`dbl sample` for a run of images."""

from pathlib import Path
from typing import Literal

import torch

from dbl.commands.outputs import check_output
from dbl.commands.spelling import whole_numbers
from dbl.data.spec import white_value
from dbl.denoising.sampling import Sampler
from dbl.denoising.targets import image_spec
from dbl.inference.grid import image_grid, save_picture
from dbl.inference.labels import labels_in_turn
from dbl.inference.stack import BlockStack
from dbl.run.folder import RunFolder
from dbl.run.inference import InferenceConfig
from dbl.utils.errors import UserError
from dbl.utils.files import write_tensors


def sample_images(
    run: Path,
    sampler: Sampler = Sampler(),  # noqa: B008 - frozen
    classes: list[int] | str | None = None,
    num_images: int = 64,
    seed: int = 0,
    batch_size: int = 64,
    keep_in_memory: Literal["all", "one"] = "all",
    output: Path | None = None,
    device: str | None = None,
) -> None:
    """Draw images and save them as one picture.

    Args:
        run: run folder, such as runs/digits_dit, with an assembled model.
        sampler: method, levels and guidance; by default those of the run's model.
        classes: classes to draw, in turn, such as 3,7; by default all.
        num_images: number of images.
        seed: random seed of the start noise; image i is the same for any number of images and any batch size.
        batch_size: number of images drawn together.
        keep_in_memory: number of blocks in memory: all, or one at a time.
        output: PNG file; by default samples.png in the run folder. Latents are also saved as safetensors beside it.
        device: device name, such as cpu or cuda:0; by default an accelerator if there is one.
    """
    for name, number in (("num_images", num_images), ("batch_size", batch_size)):
        if number < 1:
            raise UserError(f"--{name} ({number}) must be at least 1")
    chosen = None if classes is None else whole_numbers("--classes", classes, "class numbers such as 3,7")
    folder = RunFolder.at(run)
    path = check_output(output or folder.path / "samples.png", ".png")
    stack = BlockStack.from_pretrained(
        folder.model, InferenceConfig(sampler=sampler, keep_in_memory=keep_in_memory, seed=seed)
    )
    if stack.target.generates != "images":
        raise UserError(f"{run} gives classes and draws no images: use dbl test or dbl predict")
    stack.to(device_of(device))
    calls = sampler.calls_per_block(stack.contract.noise, stack.contract.partition)
    print(f"calls of blocks 0 to {len(calls) - 1} in one sample: {', '.join(map(str, calls))}")
    data = image_spec(stack.contract.data, "PixelTarget")
    labels = labels_in_turn(chosen, data.num_classes, num_images, "--classes")
    images = stack.generate(labels, batch_size=batch_size).cpu()
    is_pixels = white_value(data) is not None
    columns = min(len(labels.unique()), 16)
    save_picture(image_grid(images, None if is_pixels else data, columns), path)
    if images.shape[1] not in (1, 3):
        write_tensors(path.with_suffix(".safetensors"), {"latents": images, "labels": labels})
    print(f"samples: {path}")


def device_of(name: str | None) -> torch.device:
    """The device of that name, or by default an accelerator if there is one; UserError if it is not there."""
    if name is None:
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError):
        raise UserError(f"--device {name} is not there: choose cpu, or leave it out") from None
