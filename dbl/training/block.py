"""One block as a LightningModule."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import override

from dbl.denoising.denoiser import Denoiser
from dbl.denoising.targets import Clean, MaskTarget, PixelTarget
from dbl.networks.adapters import beside_adapters
from dbl.run.contract import Contract
from dbl.run.model_folder import load_into
from dbl.training.config import TrainingConfig
from dbl.training.module import Losses, TrainingModule
from dbl.utils.errors import UserError


class NoisyBatch(NamedTuple):
    """A batch of clean and noisy targets, made by `NoisyData`."""

    clean: Clean
    noisy: Tensor  # [N, *target_shape] targets corrupted at level sigma, the paper's z_sigma
    sigma: Tensor  # [N] noise levels, float32


class DiffusionBlock(TrainingModule):
    """A block: a denoiser for its own interval of noise levels, trained without any other block.

    It builds its own stem, its L/B layers and its head, and nothing of other blocks. Raises UserError if the contract
    has no such block, or `recipe.lora` has nothing to adapt: its weights are random at first, or no layer is meant.

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
        contract.partition.check_block(block)
        # Networks that were trained before the blocks have used the first of the random streams.
        super().__init__(f"block_{block}", contract.config.start.num_parts + block, contract, recipe)
        self.index = block
        self.denoiser = contract.denoiser(block)
        self.space = contract.space()
        self.interval = contract.partition.training_interval(block)
        self.layer_passes = contract.config.network.layer_passes(contract.partition.layers[block])
        self._teacher: tuple[Denoiser, ...] = ()
        self._has_start = contract.config.start.num_blocks == 0  # random weights need nothing more
        if self.recipe.lora is not None:
            if self._has_start:
                raise UserError(
                    "model.recipe.lora adapts trained weights, and those of this run are random at first: set it to "
                    "null, or make a run with dbl convert"
                )
            self.adapt(self.recipe.lora)

    def start_from(self, weights: dict[str, Tensor], path: Path) -> None:
        """Start from the weights of a trained network. Raises UserError if they do not fit.

        Args:
            weights: weights of the denoiser by name.
            path: their file, for messages.
        """
        load_into(self.denoiser, beside_adapters(weights, self.denoiser), path)
        self._has_start = True

    def learn_from(self, teacher: Denoiser) -> None:
        """Set the network whose predictions `recipe.distillation` compares with: one for all levels.

        Raises UserError if the target is neither images nor masked text.
        """
        if not isinstance(self.contract.config.target, PixelTarget | MaskTarget):
            name = type(self.contract.config.target).__name__
            raise UserError(f"model.recipe.distillation is for images and masked text, not for {name}: set it to 0")
        # In a tuple: it is no part of this module, its checkpoints, its average or its optimizer.
        self._teacher = (teacher.eval().requires_grad_(False),)

    @override
    def on_fit_start(self) -> None:
        """Refuse to train without the network that the recipe learns from."""
        if self.recipe.distillation and not self._teacher:
            raise UserError(
                "model.recipe.distillation needs the network from which the blocks start: make the run with dbl "
                "convert, or set it to 0"
            )
        for teacher in self._teacher:
            teacher.to(self.device)
        super().on_fit_start()

    @override
    def on_train_start(self) -> None:
        """Refuse to train random weights where the contract says that they come from a trained network."""
        # Not earlier: sharded weights are read from a checkpoint only now.
        if not self._has_start and self.batches_seen == 0:
            raise UserError(f"{self.part} starts from a trained network: train it with dbl train or dbl fit")

    @property
    @override
    def backbone(self) -> nn.Module:
        return self.denoiser.network

    @override
    def losses(self, batch: NoisyBatch) -> Losses:
        """Weighted denoising loss of each sample (paper, Eq. 5)."""
        clean, noisy, sigma = batch
        return Losses(self._losses(clean, noisy, sigma), sigma, self.contract.sample_weights(clean.labels))

    def _losses(self, clean: Clean, noisy: Tensor, sigma: Tensor) -> Tensor:
        share = self.recipe.distillation
        if not (share and self.training):  # validation compares with the data alone
            return self.denoiser.loss(clean, noisy, sigma)
        teacher = self._teacher[0]
        with torch.no_grad():
            # It sees all labels: where the block's is hidden, the mean of its answers is the one without a label.
            taught = teacher.predict(noisy, sigma, clean.cond)
        return self.denoiser.distilled_loss(clean, noisy, sigma, taught, share)


def check_adapters(contract: Contract, recipe: TrainingConfig) -> None:
    """Raise UserError if the blocks of a contract cannot be trained by the adapters of a recipe."""
    # Without memory: a block may need all that there is. A network of the user's own may need real tensors to be built.
    is_ours = type(contract.config.network).__module__.startswith("dbl.")
    with torch.device("meta" if is_ours else "cpu"):
        DiffusionBlock(contract, recipe=recipe)
