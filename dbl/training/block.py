"""One block as a LightningModule."""

from typing import NamedTuple

from torch import Tensor, nn
from typing_extensions import override

from dbl.denoising.targets import Clean
from dbl.run.contract import Contract
from dbl.training.config import TrainingConfig
from dbl.training.module import Losses, TrainingModule


class NoisyBatch(NamedTuple):
    """A batch of clean and noisy targets, made by `NoisyData`."""

    clean: Clean
    noisy: Tensor  # [N, *target_shape] targets corrupted at level sigma, the paper's z_sigma
    sigma: Tensor  # [N] noise levels, float32


class DiffusionBlock(TrainingModule):
    """A block: a denoiser for its own interval of noise levels, trained without any other block.

    It builds its own stem, its L/B layers and its head, and nothing of other blocks. Raises UserError if the contract
    has no such block.

    Args:
        contract: contract of the run.
        block: index of this block; 0 has the highest noise.
        recipe: training configuration.

    Example:
        >>> import dbl
        >>> import lightning as L
        >>> data = dbl.Digits(batch_size=64, eval_batch_size=64)
        >>> contract = dbl.ContractConfig(dbl.DiT(3, width=32, num_heads=2), dbl.PixelTarget()).build(data.spec)
        >>> block = dbl.DiffusionBlock(contract, block=1)
        >>> quiet = dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar"], False)
        >>> trainer = L.Trainer(max_steps=2, max_epochs=-1, accelerator="cpu", enable_model_summary=False, **quiet)
        >>> trainer.fit(block, dbl.NoisyData(data, block))
        >>> trainer.global_step
        2
    """

    def __init__(self, contract: Contract, block: int = 0, recipe: TrainingConfig | None = None) -> None:
        super().__init__(f"block_{block}", block, contract, recipe)
        self.denoiser = contract.denoiser(block)
        self.space = contract.space()
        self.interval = contract.partition.training_interval(block)
        self.layer_passes = contract.config.network.layer_passes(contract.partition.layers[block])

    @property
    @override
    def backbone(self) -> nn.Module:
        return self.denoiser.network

    @override
    def losses(self, batch: NoisyBatch) -> Losses:
        """Weighted denoising loss of each sample (paper, Eq. 5)."""
        return Losses(self.denoiser.loss(batch.clean, batch.noisy, batch.sigma), batch.sigma)
