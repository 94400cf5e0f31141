"""Quality of an assembled network against the number of sampler steps."""

from dataclasses import replace
from itertools import count, takewhile
from typing import Any, Literal

import torch

from dbl.data import ImageData
from dbl.evaluation.callbacks.image_quality import ImageQuality
from dbl.inference.stack import BlockStack


def step_numbers(num_blocks: int, num_steps: int) -> list[int]:
    """1, B, 2B, 4B and so on, up to the sampler's own number of steps and at least up to 4B."""
    most = max(num_steps, 4 * num_blocks)
    doublings = takewhile(lambda steps: steps <= most, (num_blocks * 2**power for power in count()))
    return sorted({1, *doublings})


def quality_by_steps(
    stack: BlockStack,
    data: ImageData,
    judge: ImageQuality,
    numbers: list[int],
    split: Literal["validation", "test"] = "test",
    draw: int = 0,
) -> list[dict[str, Any]]:
    """Sample with each number of steps and judge the result.

    Args:
        stack: stack on the device that it is to run on; its other sampler settings are kept.
        data: data whose images are classified, or whose real images generated ones are compared with.
        judge: judge of images; without features nothing is measured for images.
        numbers: numbers of steps.
        split: split whose images a classifier is given; the judge has a split of its own.
        draw: number of the draw of start noise.

    Returns:
        For each number of steps: `steps` and `metrics` (name -> value): the accuracy of a classifier, or the image
        metrics.
    """
    own = stack.inference
    rows = []
    try:
        for steps in numbers:
            stack.inference = replace(own, sampler=replace(own.sampler, num_steps=steps))
            if stack.target.generates == "images":
                metrics = {name: values[0] for name, values in judge.evaluate(stack, data, draws=[draw]).items()}
            else:
                metrics = {"accuracy": _accuracy(stack, data, split, draw)}
            rows.append({"steps": steps, "metrics": metrics})
    finally:
        stack.inference = own
    return [row for row in rows if row["metrics"]]


@torch.no_grad()
def _accuracy(stack: BlockStack, data: ImageData, split: Literal["validation", "test"], draw: int) -> float:
    right = total = 0
    loader: Any = data.val_dataloader() if split == "validation" else data.test_dataloader()
    for batch in loader:
        on_device = {key: value.to(stack.device) for key, value in batch.items() if isinstance(value, torch.Tensor)}
        clean = stack.space.encode(on_device)
        found = stack.sample_classes(clean.cond, on_device["index"], draw).argmax(dim=-1)
        right += int((found == clean.labels).sum())
        total += len(found)
    return right / total
