"""Adds noise to clean batches: draws sigma and the noise for one block."""

from collections.abc import Callable
from typing import Any, cast

import lightning as L
import torch
from torch import Tensor
from typing_extensions import override

from dbl.data.module import ResumableDataModule
from dbl.denoising.targets import Batch
from dbl.diffusion.noise import Interval, even_fractions
from dbl.run.contract import Contract
from dbl.training.block import DiffusionBlock, NoisyBatch
from dbl.utils.seeding import SampleDraws, generator_for


class NoisyData(L.LightningDataModule):
    """Wraps a clean DataModule for the training of one block.

    Noise is made on the device, after the batch was moved there. In training it is a function of (seed, block,
    position, rank); in validation each sample has the same level and noise every time, on any number of ranks.

    Args:
        data: the clean DataModule.
        block: block to train; gives the target space and the interval of noise levels.

    Example:
        >>> import dbl
        >>> import lightning as L
        >>> data = dbl.Digits(batch_size=64, eval_batch_size=64)
        >>> contract = dbl.ContractConfig(dbl.DiT(3, width=32, num_heads=2), dbl.PixelTarget()).build(data.spec)
        >>> block = dbl.DiffusionBlock(contract, block=2)
        >>> trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
        >>> (losses,) = trainer.validate(block, dbl.NoisyData(data, block), verbose=False)
        >>> losses["val/loss"] > 0
        True
    """

    def __init__(self, data: ResumableDataModule, block: DiffusionBlock) -> None:
        super().__init__()
        self.data = data
        self.block = block

    def bind(self, block: int, start: Callable[[], int]) -> None:
        """Set what the training batches depend on; see `ResumableDataModule.bind`."""
        self.data.bind(block, start)

    @override
    def prepare_data(self) -> None:
        self.data.prepare_data()

    @override
    def setup(self, stage: str) -> None:
        """Set the clean DataModule up, with the trainer that tells it rank and world size."""
        self.data.trainer = self.trainer
        self.data.setup(stage)

    @override
    def train_dataloader(self) -> Any:
        return self.data.train_dataloader()

    @override
    def val_dataloader(self) -> Any:
        return self.data.val_dataloader()

    @override
    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        # One that is there already is not walked through.
        on_device = batch if device.type == "cpu" else super().transfer_batch_to_device(batch, device, dataloader_idx)
        return cast(Batch, on_device)

    @override
    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> NoisyBatch:
        """Draw noise levels and noise for a batch that is on the device, and corrupt it."""
        clean = self.block.space.encode(batch)
        assert self.trainer is not None
        contract, interval, stream = self.block.contract, self.block.interval, self.block.stream
        if self.trainer.training:
            counters = stream, int(batch["position"]), self.trainer.global_rank
            sigma, noise = random_draws(contract, interval, clean.clean, *counters)
        else:
            sigma, noise = fixed_draws(contract, interval, clean.clean, batch["index"], stream)
        return NoisyBatch(clean, self.block.space.corrupt(clean.clean, noise, sigma), sigma)


def random_draws(contract: Contract, interval: Interval, clean: Tensor, *counters: str | int) -> tuple[Tensor, Tensor]:
    """Noise levels [N] in an interval, and unit noise like clean [N, ...], as a function of the seed and counters."""
    like, purpose = _float32_like(clean), ("noise", *counters)
    # Drawn on the CPU in float64, so that every device trains the same levels.
    levels = generator_for(contract.config.seed, "levels", *purpose)
    sigma = contract.noise.sample(interval, len(like), levels)
    generator = generator_for(contract.config.seed, *purpose, device=like.device)
    return _moved(sigma, like.device), torch.randn(like.shape, generator=generator, device=like.device)


def fixed_draws(
    contract: Contract, interval: Interval, clean: Tensor, indices: Tensor, stream: int
) -> tuple[Tensor, Tensor]:
    """The same draws for a sample each time, however samples are spread over batches and ranks.

    Args:
        contract: contract of the run.
        interval: levels to spread them over.
        clean: [N, ...] targets, whose shape and device the noise has.
        indices: [N] indices of the samples in their split.
        stream: number of the random stream of what is validated.
    """
    like, index = _float32_like(clean), indices.cpu()
    sigma = contract.noise.quantile_within(interval, even_fractions(index))
    draws = SampleDraws(contract.config.seed, ("validation noise", stream), index)
    return _moved(sigma, like.device), draws.normal(like)


def _float32_like(clean: Tensor) -> Tensor:
    return clean.new_empty(clean.shape, dtype=torch.float32)


def _moved(sigma: Tensor, device: torch.device) -> Tensor:
    """Levels in float32 on a device."""
    sigma = sigma.float()
    if device.type == "cuda":
        sigma = sigma.pin_memory()  # else the host would wait for the copy
    return sigma.to(device, non_blocking=True)
