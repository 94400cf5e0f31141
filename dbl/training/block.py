"""One block as an ordinary LightningModule."""

from typing import NamedTuple

from torch import Tensor, nn

from dbl.denoising.targets import Clean
from dbl.run.contract import Contract
from dbl.training.module import Losses, TrainingConfig, TrainingModule


class NoisyBatch(NamedTuple):
    """What `NoisyData` makes of a raw batch.

    Attributes:
        clean: targets, conditions and labels.
        noisy: [N, *target_shape] targets with noise of level sigma added: the z_sigma of the paper.
        sigma: [N] noise levels, float32.
    """

    clean: Clean
    noisy: Tensor
    sigma: Tensor


class DiffusionBlock(TrainingModule):
    """A block: a denoiser for its own interval of noise levels, trained without any other block.

    It builds its own stem, its L/B layers and its head, and nothing of other blocks.

    Args:
        contract: what all blocks agree on.
        block: index of this block; 0 has the highest noise.
        recipe: how to train it.

    Raises:
        UserError: if there is no such block.

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

    @property
    def trained(self) -> nn.Module:
        """The denoiser."""
        return self.denoiser

    @property
    def raw_network(self) -> nn.Module:
        """The network inside the denoiser."""
        return self.denoiser.network

    @property
    def layer_passes(self) -> float:
        """See `TrainingModule.layer_passes`."""
        return self.contract.config.network.layer_passes(self.contract.partition.layers[self.index])

    def losses(self, batch: NoisyBatch) -> Losses:
        """Weighted denoising loss of each sample (paper, Eq. 5)."""
        return Losses(self.denoiser.loss(batch.clean, batch.noisy, batch.sigma), batch.sigma)
