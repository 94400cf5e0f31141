"""`dbl sample`: draw images from an assembled network."""

from pathlib import Path
from typing import Literal

import torch
from jsonargparse import auto_cli

from dbl.commands.evaluate import save_picture
from dbl.errors import UserError
from dbl.figures import image_grid
from dbl.run_folder import RunFolder
from dbl.sampling import Sampler
from dbl.stack import BlockStack, Inference


def main(arguments: list[str]) -> None:
    """Parse the command line and sample."""
    auto_cli(sample_run, args=arguments[1:], as_positional=True)


def sample_run(
    run: Path,
    sampler: Sampler = Sampler(),  # noqa: B008 - frozen
    classes: list[int] | None = None,
    num_images: int = 64,
    seed: int = 0,
    batch_size: int = 64,
    resident: Literal["all", "one"] = "all",
    output: Path | None = None,
    device: str | None = None,
) -> None:
    """Draw images and save them as one picture.

    Args:
        run: run folder, such as runs/digits_dit, with an assembled model.
        sampler: method, levels and guidance.
        classes: classes to draw, in turn; by default all.
        num_images: how many.
        seed: of the start noise; image i is the same for any number of images and any batch size.
        batch_size: images drawn together.
        resident: keep all blocks in memory, or one at a time.
        output: PNG file; by default samples.png in the report folder of the run.
        device: such as cpu or cuda:0; by default an accelerator if there is one.
    """
    folder = RunFolder.at(run)
    stack = BlockStack.from_pretrained(folder.model, Inference(sampler=sampler, resident=resident, seed=seed))
    if not stack.makes_images:
        raise UserError(f"{run} classifies images and draws none: use dbl test or dbl predict")
    stack.to(device or torch.accelerator.current_accelerator(check_available=True) or "cpu").eval()
    calls = sampler.calls_per_block(stack.contract.noise, stack.contract.partition)
    print(f"calls of blocks 0 to {len(calls) - 1} in one sample: {', '.join(map(str, calls))}")
    labels = _labels(classes, stack.contract.data.num_classes, num_images).to(stack.device)
    indices = torch.arange(num_images, device=stack.device)
    parts = zip(labels.split(batch_size), indices.split(batch_size), strict=True)
    images = torch.cat([stack.generate(part, numbers).cpu() for part, numbers in parts])
    columns = min(len(set(labels.tolist())), 16) if num_images > 16 else num_images
    path = output or folder.report / "samples.png"
    save_picture(image_grid(images, num_columns=max(columns, 4)), path)
    print(f"samples: {path}")


def _labels(classes: list[int] | None, num_classes: int, num_images: int) -> torch.Tensor:
    """[num_images] the classes in turn."""
    chosen = list(range(num_classes)) if classes is None else classes
    wrong = [label for label in chosen if not 0 <= label < num_classes]
    if wrong or not chosen:
        raise UserError(f"--classes {chosen}: there are classes 0 to {num_classes - 1}")
    return torch.tensor(chosen)[torch.arange(num_images) % len(chosen)]
