"""The optimization that blocks and end-to-end baselines share: manual, one optimizer, counted in optimizer steps."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import lightning as L
import torch
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from dbl.networks.layers import checkpoint_layers, layers_of
from dbl.run.contract import Contract
from dbl.training.distributed import ShardedStrategy, check_strategy, first_said, shard, whole
from dbl.utils.errors import UserError, check_choice
from dbl.utils.seeding import derive_seed

Decay = Literal["cosine", "constant"]
OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]


def check_precision(precision: object) -> None:
    """Raise UserError unless training can run in this precision of the trainer."""
    if precision not in ("32-true", "bf16-mixed"):
        raise UserError(f"trainer.precision={precision} is not supported: use bf16-mixed or 32-true")


@dataclass
class TrainingConfig:
    """How one part of a run is trained; blocks of one run may differ in it.

    Args:
        optimizer: makes the optimizer from the parameters.
        warmup_steps: optimizer steps in which the learning rate rises linearly from 0.
        decay: what follows; `cosine` falls to 0 at `trainer.max_steps`, `constant` stays.
        clip_norm: largest norm of the gradient; null does not clip.
        accumulate: batches whose gradients are averaged for one optimizer step.
        activation_checkpointing: keep only the input of each layer for the backward pass and compute the rest again:
            less memory for about a third more time, the same result.
        compile: compile the network with `torch.compile`.

    Example:
        >>> import dbl
        >>> from functools import partial
        >>> from torch.optim import AdamW
        >>> data = dbl.Digits(batch_size=64, eval_batch_size=64)
        >>> contract = dbl.ContractConfig(dbl.DiT(3, width=32, num_heads=2), dbl.PixelTarget()).build(data.spec)
        >>> recipe = dbl.TrainingConfig(optimizer=partial(AdamW, lr=2e-3), warmup_steps=50, clip_norm=None)
        >>> dbl.DiffusionBlock(contract, block=0, recipe=recipe).recipe.warmup_steps
        50
    """

    optimizer: OptimizerFactory = field(default=AdamW)
    warmup_steps: int = 0
    decay: Decay = "cosine"
    clip_norm: float | None = 1.0
    accumulate: int = 1
    activation_checkpointing: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        check_choice("model.recipe.decay", self.decay, get_args(Decay))
        if self.accumulate < 1:
            raise UserError(f"model.recipe.accumulate ({self.accumulate}) must be at least 1")
        if self.warmup_steps < 0:
            raise UserError(f"model.recipe.warmup_steps ({self.warmup_steps}) must be 0 or more")
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise UserError(f"model.recipe.clip_norm ({self.clip_norm}) must be positive, or null for no clipping")

    def learning_rate_factor(self, step: int, total: int) -> float:
        """Factor on the learning rate of optimizer step `step` (0 is the first) out of `total`."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        if self.decay == "constant":
            return 1.0
        progress = (step - self.warmup_steps) / max(total - self.warmup_steps, 1)
        return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


class Losses(NamedTuple):
    """Losses of a batch: [N] per sample, and [N] noise levels if there are any."""

    per_sample: Tensor
    sigma: Tensor | None = None


class TrainingModule(L.LightningModule, ABC):
    """A part of a run that is trained alone: a block, or a whole network end to end.

    Data order, noise and dropout are functions of (seed, part, batches_seen), which counts the batches that this part
    has consumed on each rank; it is stored in the checkpoint. So a resumed training continues as if it had
    never stopped. On another number of ranks it continues at the same batch of another order.

    Args:
        part: name of its folder in the run folder.
        index: of the block, or 0.
        contract: of the run; gives the seed, and its hash is what a checkpoint must carry to be loaded here.
        recipe: how to train.

    Attributes:
        stands_for_all_steps: whether a step is planned or timed as the typical one, so that what differs from step to
            step takes its mean.
    """

    def __init__(self, part: str, index: int, contract: Contract, recipe: TrainingConfig | None = None) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.part = part
        self.index = index
        self.contract = contract
        self.seed = contract.config.seed
        self.recipe = recipe or TrainingConfig()
        self.batches_seen = 0
        self.samples = 0  # consumed by all ranks together
        self.stands_for_all_steps = False

    @abstractmethod
    def losses(self, batch: Any) -> Losses:
        """Losses of one batch."""

    @property
    @abstractmethod
    def trained(self) -> nn.Module:
        """The module whose parameters are trained and stored."""

    @property
    @abstractmethod
    def raw_network(self) -> nn.Module:
        """The part of it that `torch.compile` is for: what is called once in each step."""

    @property
    def layer_passes(self) -> float:
        """Compute of one sample in a training step, in passes forward and backward through one layer."""
        return self.contract.config.network.baseline_passes()

    @property
    def between_steps(self) -> bool:
        """Whether the last batch ended an optimizer step, so that no gradient is waiting."""
        return self.batches_seen % self.recipe.accumulate == 0

    def configure_optimizers(self) -> tuple[list[Optimizer], list[LRScheduler]]:
        """One optimizer over this part's own parameters, with a schedule in optimizer steps."""
        optimizer = self.recipe.optimizer(self.trained.parameters())
        factor = partial(self.recipe.learning_rate_factor, total=self.trainer.max_steps)
        return [optimizer], [LambdaLR(optimizer, factor)]

    def setup(self, stage: str) -> None:
        """Let the DataModule read in the order of this part, from its next batch on."""
        check_strategy(self.trainer.strategy, training=stage == "fit")
        bind = getattr(self.trainer.datamodule, "bind", None)  # type: ignore[attr-defined]
        if stage == "fit" and bind is not None:
            bind(block=self.index, start=lambda: self.batches_seen)

    def configure_model(self) -> None:
        """Split the weights over the ranks, if the trainer's strategy does so."""
        if isinstance(self.trainer.strategy, ShardedStrategy):
            self.shard(self.trainer.strategy)

    def shard(self, strategy: ShardedStrategy) -> None:
        """Keep of each weight this rank's share alone."""
        shard(self, layers_of(self.raw_network) or (), strategy.mesh, "losses")

    def on_fit_start(self) -> None:
        """Refuse what cannot be trained correctly; prepare the network."""
        if self.trainer.max_steps < 1:
            raise UserError("trainer.max_steps must be set: the number of optimizer steps of each block")
        check_precision(self.trainer.precision)
        if isinstance(self.trainer.model, DistributedDataParallel):
            # Buffers, such as a table of tokens, are constants; to send them to all ranks in every step takes time.
            self.trainer.model.broadcast_buffers = False
        self.prepare_network()

    def prepare_network(self) -> None:
        """Wrap the network as the recipe asks."""
        if self.recipe.activation_checkpointing:
            checkpoint_layers(self.raw_network)
        if self.recipe.compile:
            self.raw_network.compile()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Make dropout a function of the number of batches seen."""
        torch.manual_seed(derive_seed(self.seed, "step", self.index, self.batches_seen, self.global_rank))

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Backward, and an optimizer step after every `accumulate` batches."""
        losses = self.losses(batch)
        loss = losses.per_sample.mean()
        # A loss that is not finite on one rank is not finite in the mean: all ranks stop, none waits for another.
        mean_loss = self.trainer.strategy.reduce(loss.detach().clone(), reduce_op="mean")
        assert isinstance(mean_loss, Tensor)
        self._check_finite("loss", mean_loss, loss, losses.sigma)
        with self._gradient_exchange():
            self.manual_backward(loss / self.recipe.accumulate)
        self.batches_seen += 1
        self.samples += len(losses.per_sample) * self.trainer.world_size
        if self.between_steps:
            self._optimizer_step(losses.sigma)
        self._log_step("train/loss", mean_loss)
        outputs = {"loss": mean_loss, "per_sample": losses.per_sample.detach()}
        return outputs if losses.sigma is None else outputs | {"sigma": losses.sigma}

    def _gradient_exchange(self) -> AbstractContextManager[None]:
        """Where a backward pass belongs: ranks that hold whole gradients average them once in an optimizer step."""
        strategy = self.trainer.strategy
        ends_step = (self.batches_seen + 1) % self.recipe.accumulate == 0
        if ends_step or not isinstance(strategy, ParallelStrategy):
            return nullcontext()
        return strategy.block_backward_sync()

    def _optimizer_step(self, sigma: Tensor | None) -> None:
        optimizer, scheduler = self.optimizers(), self.lr_schedulers()
        assert isinstance(scheduler, LRScheduler)
        assert not isinstance(optimizer, list)
        norm = whole(nn.utils.clip_grad_norm_(self.trained.parameters(), self.recipe.clip_norm or math.inf))
        # The gradient is that of all ranks; no rank knows whose levels made it so.
        self._check_finite("gradient", norm, norm, sigma if self.trainer.world_size == 1 else None)
        self._log_step("train/gradient_norm", norm)
        self._log_step("train/learning_rate", scheduler.get_last_lr()[0])
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()

    def _log_step(self, name: str, value: Tensor | float) -> None:
        # Lightning's own x-axis counts batches under manual optimization; `step` overrides it with optimizer steps.
        self.log("step", float(self.global_step))
        self.log(name, value, prog_bar=name == "train/loss")

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Loss on the fixed draws of the validation split."""
        per_sample = self.losses(batch).per_sample
        self.log("step", float(self.global_step), reduce_fx="max", sync_dist=True, batch_size=len(per_sample))
        self.log("val/loss", per_sample.mean(), batch_size=len(per_sample), prog_bar=True, sync_dist=True)

    def _check_finite(self, name: str, everywhere: Tensor, here: Tensor, sigma: Tensor | None) -> None:
        """Stop all ranks before a loss or gradient that is not finite on one of them reaches a weight."""
        if torch.isfinite(everywhere):
            return
        rank = f" on rank {self.global_rank}" if self.trainer.world_size > 1 and name == "loss" else ""
        levels = "" if sigma is None else f" at noise levels {sigma.min():.4g} to {sigma.max():.4g}"
        fault = "" if torch.isfinite(here) else f"{name} is {here.item()}{rank}{levels}"
        fault = first_said(self.trainer, fault) or f"mean {name} is {everywhere.item()}"
        saved = getattr(self.trainer.checkpoint_callback, "last_saved", None)
        good = f"last good checkpoint: {saved}" if saved else "no checkpoint yet"
        raise UserError(
            f"{self.part} stopped at step {self.global_step}: {fault}; {good}; "
            "try a lower model.recipe.optimizer.lr, with --from-scratch"
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what identifies this part and where it stands."""
        checkpoint["dbl"] = {
            "part": self.part,
            "contract": self.contract.hash,
            "batches_seen": self.batches_seen,
            "samples": self.samples,
            "layer_passes": self.layer_passes,
            "max_steps": self.trainer.max_steps,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the checkpoint of another part or contract; take up its counters."""
        stored = checkpoint.get("dbl", {})
        if (stored.get("part"), stored.get("contract")) != (self.part, self.contract.hash):
            raise UserError(
                f"the checkpoint is of {stored.get('part')} with contract {str(stored.get('contract'))[:12]}, not of "
                f"{self.part} with contract {self.contract.hash[:12]}: resume it in its own run"
            )
        self.batches_seen = stored["batches_seen"]
        self.samples = stored["samples"]
