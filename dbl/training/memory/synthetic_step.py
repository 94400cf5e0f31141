"""A training step on made-up data without a trainer, for planning memory and for timing."""

from typing import Any

import torch
from torch import Tensor, nn

from dbl.data.spec import DataSpec, ImageSpec, TextSpec, VectorSpec
from dbl.training.block import DiffusionBlock, NoisyBatch
from dbl.training.memory.tracker import MemoryTracker
from dbl.training.module import TrainingModule


class SyntheticStep:
    """The work of `TrainingModule.training_step` on made-up data, with an optimizer that already has its state.

    The part is on its device already; `precision` is the trainer's, `32-true` or `bf16-mixed`.
    """

    def __init__(self, part: TrainingModule, data: DataSpec, batch_size: int, precision: str = "32-true") -> None:
        self.part = part.train()
        self.part.prepare_network()
        self.part.use_expected_cost = True
        self.in_bf16 = precision == "bf16-mixed"
        # Two of an accumulation have the memory of all of them, since the second adds to gradients.
        self.num_batches = min(part.recipe.accumulate, 2)
        self.optimizer = part.recipe.make_optimizer(part)
        for parameter in filter(_is_trained, part.parameters()):
            parameter.grad = torch.zeros_like(parameter)
        self._end_step()
        self.batch = _batch(part, data, batch_size)

    def __call__(self) -> None:
        """Run forward and backward pass for `num_batches` batches, then the optimizer."""
        accumulate, device = self.part.recipe.accumulate, next(self.part.parameters()).device.type
        for _ in range(self.num_batches):
            with torch.autocast(device, torch.bfloat16, enabled=self.in_bf16):
                loss = self.part.losses(self.batch).mean()
            (loss / accumulate).backward()
        nn.utils.clip_grad_norm_(self.part.parameters(), self.part.recipe.clip_norm or torch.inf)
        self._end_step()

    def peak(self) -> dict[str, int]:
        """Measure one step: category -> bytes at the peak, including a moving average of the weights."""
        averaged = [
            parameter for parameter in self.part.parameters() if self.part.lora is None or _is_trained(parameter)
        ]
        average = [torch.empty_like(tensor) for tensor in (*averaged, *self.part.buffers())]
        tracker = MemoryTracker()
        tracker.watch(self.part, self.optimizer, average, self.batch)
        with tracker:
            self()
        return tracker.peak

    def _end_step(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()


def _is_trained(parameter: nn.Parameter) -> bool:
    return parameter.requires_grad


def _batch(part: TrainingModule, data: DataSpec, size: int) -> Any:
    """Make a batch as the part sees it in training."""
    batch = samples(data, size)
    if not isinstance(part, DiffusionBlock):
        return batch
    clean, sigma = part.space.encode(batch), torch.ones(size)
    return NoisyBatch(clean, part.space.corrupt(clean.clean, torch.zeros(clean.clean.shape), sigma), sigma)


def samples(data: DataSpec, size: int) -> dict[str, Tensor]:
    """Make a batch of constant data in the format of a data loader."""
    index = torch.arange(size)
    if isinstance(data, TextSpec):
        return {"tokens": torch.zeros(size, data.seq_len + 1, dtype=torch.int64), "index": index}
    labelled = {"label": index % data.num_classes, "index": index}
    if isinstance(data, VectorSpec):
        return {"vector": torch.zeros(size, data.num_features), **labelled}
    assert isinstance(data, ImageSpec)
    images = torch.zeros(size, *data.shape, dtype=torch.uint8 if data.shape[0] in (1, 3) else torch.float32)
    return {"image": images, **labelled}
