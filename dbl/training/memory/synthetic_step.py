"""A training step outside of a trainer, for planning and for timing."""

from typing import Any

import torch
from torch import Tensor, nn

from dbl.data.spec import DataSpec, ImageSpec, TextSpec
from dbl.training.block import DiffusionBlock, NoisyBatch
from dbl.training.memory.tracker import MemoryTracker
from dbl.training.module import TrainingModule


class SyntheticStep:
    """What `TrainingModule.training_step` does, on made-up data; the optimizer has its state already.

    Args:
        part: that is trained, on its device.
        data: shape of the samples and number of classes.
        batch_size: samples in a batch.
        precision: of the trainer, `32-true` or `bf16-mixed`.
    """

    def __init__(self, part: TrainingModule, data: DataSpec, batch_size: int, precision: str = "32-true") -> None:
        self.part = part.train()
        self.part.prepare_network()
        self.part.stands_for_all_steps = True
        self.in_bf16 = precision == "bf16-mixed"
        self.optimizer = part.recipe.optimizer(part.trained.parameters())
        for parameter in part.trained.parameters():
            parameter.grad = torch.zeros_like(parameter)
        self._end_step()
        self.batch = _batch(part, data, batch_size)

    def __call__(self) -> None:
        """Forward, backward and optimizer; of accumulated batches two, the second of which meets earlier gradients."""
        accumulate = self.part.recipe.accumulate
        for _ in range(min(accumulate, 2)):
            with torch.autocast(_device(self.part), torch.bfloat16, enabled=self.in_bf16):
                loss = self.part.losses(self.batch).per_sample.mean()
            (loss / accumulate).backward()
        nn.utils.clip_grad_norm_(self.part.trained.parameters(), self.part.recipe.clip_norm or torch.inf)
        self._end_step()

    def peak(self) -> dict[str, int]:
        """Category -> bytes at the peak of one step, with a moving average of the weights beside them."""
        average = [torch.empty_like(tensor) for tensor in (*self.part.parameters(), *self.part.buffers())]
        tracker = MemoryTracker()
        tracker.watch(self.part, self.optimizer, average, self.batch)
        with tracker:
            self()
        return tracker.peak

    def _end_step(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()


def _device(part: TrainingModule) -> str:
    return next(part.trained.parameters()).device.type


def _batch(part: TrainingModule, data: DataSpec, size: int) -> Any:
    """What a part is given in training."""
    batch = samples(data, size)
    if not isinstance(part, DiffusionBlock):
        return batch
    clean, sigma = part.space.encode(batch), torch.ones(size)
    return NoisyBatch(clean, part.space.corrupt(clean.clean, torch.zeros(clean.clean.shape), sigma), sigma)


def samples(data: DataSpec, size: int) -> dict[str, Tensor]:
    """A batch of made-up data as a loader gives it."""
    index = torch.arange(size)
    if isinstance(data, TextSpec):
        return {"tokens": torch.zeros(size, data.seq_len + 1, dtype=torch.int64), "index": index}
    assert isinstance(data, ImageSpec)
    images = torch.zeros(size, *data.shape, dtype=torch.uint8 if data.shape[0] in (1, 3) else torch.float32)
    return {"image": images, "label": index % data.num_classes, "index": index}
