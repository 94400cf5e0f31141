"""The noise wrapper of a DataModule: from clean batches to `(z_sigma, sigma)` for one block."""

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from torch import Tensor

from dbl.block import DiffusionBlock, NoisyBatch
from dbl.data.ordered import OrderedData
from dbl.noise import even_fractions
from dbl.seeding import generator_for
from dbl.targets import Batch


class NoisyData(L.LightningDataModule):
    """Wraps a clean DataModule for the training of one block.

    Noise is made on the device, after the batch was moved there. In training it is a function of (seed, block,
    position, rank); in validation the same levels and noise are drawn every time.

    Args:
        data: the clean DataModule.
        block: the block to train; gives the target space, the interval of levels and the position.
    """

    def __init__(self, data: OrderedData, block: DiffusionBlock) -> None:
        super().__init__()
        self.data = data
        self.block = block

    def bind(self, block: int, start: Callable[[], int]) -> None:
        """Pass on; see `OrderedData.bind`."""
        self.data.bind(block, start)

    def prepare_data(self) -> None:
        """Pass on."""
        self.data.prepare_data()

    def setup(self, stage: str) -> None:
        """Pass on, with the trainer, from which the clean DataModule learns rank and world size."""
        self.data.trainer = self.trainer
        self.data.setup(stage)

    def train_dataloader(self) -> Any:
        """Clean training batches."""
        return self.data.train_dataloader()

    def val_dataloader(self) -> Any:
        """Clean validation batches."""
        return self.data.val_dataloader()

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> NoisyBatch:
        """Draw levels and noise for a batch that is on the device, and corrupt it."""
        clean = self.block.space.encode(batch)
        assert self.trainer is not None
        position = int(batch["position"])
        if self.trainer.training:
            purpose: tuple[str | int, ...] = ("noise", self.block.index, position, self.trainer.global_rank)
            sigma = self._random_levels(len(clean.clean), purpose)
        else:
            purpose = ("validation noise", self.block.index, position)
            sigma = self._fixed_levels(batch["index"])
        sigma = sigma.to(clean.clean.device, torch.float32)
        generator = generator_for(self.block.seed, *purpose, device=clean.clean.device)
        noise = torch.randn(clean.clean.shape, generator=generator, device=clean.clean.device)
        return NoisyBatch(clean, self.block.space.corrupt(clean.clean, noise, sigma), sigma)

    def _random_levels(self, num: int, purpose: tuple[str | int, ...]) -> Tensor:
        # Drawn on the CPU in float64, so that every device trains the same levels.
        generator = generator_for(self.block.seed, "levels", *purpose)
        return self.block.contract.noise.sample(self.block.interval, num, generator)

    def _fixed_levels(self, index: Tensor) -> Tensor:
        return self.block.contract.noise.quantile_within(self.block.interval, even_fractions(index.cpu()))
