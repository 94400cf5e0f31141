"""The optimization loop that blocks and end-to-end baselines share: manual, one optimizer, counted in its steps."""

import math
import os
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import partial
from typing import Any, ClassVar, NamedTuple

import lightning as L
import torch
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from dbl.networks.adapters import LoRA, adapter_weights, insert_adapters
from dbl.networks.architecture import Architecture
from dbl.networks.layers import checkpoint_layers, layers_of
from dbl.run.checkpoints import Stamp
from dbl.run.contract import Contract
from dbl.training.config import TrainingConfig, check_precision
from dbl.training.distributed import ShardedStrategy, check_strategy, first_message, full_tensor, mean_over_ranks, shard
from dbl.training.finite import FiniteCheck, NotFinite
from dbl.training.weight_decay import numbered_by_module
from dbl.utils.errors import UserError
from dbl.utils.seeding import derive_seed, seed_generator, seeded


class Losses(NamedTuple):
    """Losses of a batch: [N] per sample, the [N] noise levels if there are any, and weights [N] if they differ.

    Weights are those of `Contract.sample_weights`.
    """

    per_sample: Tensor
    sigma: Tensor | None = None
    weight: Tensor | None = None

    def mean(self) -> Tensor:
        """What a training step reduces; over all batches of an epoch, the weighted mean."""
        return self.per_sample.mean() if self.weight is None else (self.per_sample * self.weight).mean()

    def mean_and_size(self) -> tuple[Tensor, float]:
        """The weighted mean of the batch, and how much it weighs among others."""
        if self.weight is None:
            return self.per_sample.mean(), len(self.per_sample)
        size = self.weight.sum()
        return (self.per_sample * self.weight).sum() / size, float(size)


class TrainingModule(L.LightningModule, ABC):
    """A part of a run: anything trained on its own, that is a block or the end-to-end baseline.

    Data order, noise and dropout are functions of (seed, part, `batches_seen`), and `batches_seen` is stored in the
    checkpoint. So a resumed training continues as if it had never stopped. With another number of ranks it continues
    at the same batch number of another order.

    Args:
        part: name of its folder in the run folder, `block_<b>` or `end_to_end`.
        stream: number of its random stream, of its own for each block of a run and its ancestors; 0 for a baseline.
        contract: contract of the run; gives the seed, and only checkpoints with its hash are loaded.
        recipe: training configuration.
    """

    serves: ClassVar[tuple[type[Architecture], ...]] = ()  # of a rival: architectures of which it can be made

    def __init__(self, part: str, stream: int, contract: Contract, recipe: TrainingConfig | None = None) -> None:
        super().__init__()
        # Lightning's own accumulation ends with every epoch, and applies a gradient before it can be checked.
        self.automatic_optimization = False
        self.part = part
        self.stream = stream
        self.contract = contract
        self.seed = contract.config.seed
        self.recipe = recipe or TrainingConfig()
        self.batches_seen = 0  # on each rank
        self.samples = 0  # on all ranks together
        self.layer_passes = contract.config.network.baseline_passes()  # compute of a training step per sample
        self.lora: LoRA | None = None  # adapters that are trained beside frozen weights
        self.stop_asked = False  # of this rank, e.g. by a signal
        self._finite = FiniteCheck()
        self.use_expected_cost = False  # of steps of random size, for planning and timing

    @abstractmethod
    def losses(self, batch: Any) -> Losses:
        """Losses of one batch."""

    @property
    @abstractmethod
    def backbone(self) -> nn.Module:
        """The module with the residual layers, which is compiled, checkpointed and sharded; called once per step."""

    def adapt(self, lora: LoRA) -> None:
        """Train low-rank adapters of the residual layers alone; errors as in `insert_adapters`."""
        self.requires_grad_(False)
        with seeded(self.seed, "adapters", self.stream):
            insert_adapters(self.backbone, lora)
        self.lora = lora

    @property
    def accumulating(self) -> bool:
        """Whether gradients are waiting for further batches of an unfinished optimizer step."""
        return self.batches_seen % self.recipe.accumulate != 0

    @property
    def steps_done(self) -> int:
        """Number of optimizer steps of which all batches were consumed."""
        return self.batches_seen // self.recipe.accumulate

    @property
    def schedule_steps(self) -> int:
        """Number of optimizer steps of the learning-rate schedule."""
        return self.trainer.max_steps

    def configure_optimizers(self) -> tuple[list[Optimizer], list[LRScheduler]]:
        """One optimizer over all parameters that are not frozen, with a schedule in optimizer steps."""
        optimizer = self.recipe.make_optimizer(self)
        factor = partial(self.recipe.learning_rate_factor, total=self.schedule_steps)
        return [optimizer], [LambdaLR(optimizer, factor)]

    def setup(self, stage: str) -> None:
        """Tell the DataModule this part's data order and the batch to start from."""
        check_strategy(self.trainer.strategy, training=stage == "fit")
        bind = getattr(self.trainer.datamodule, "bind", None)  # type: ignore[attr-defined]
        if stage == "fit" and bind is not None:
            # A function, since the checkpoint that sets `batches_seen` is loaded after this hook.
            bind(block=self.stream, start=lambda: self.batches_seen)

    def configure_model(self) -> None:
        """Shard the weights if the trainer's strategy does so."""
        if isinstance(self.trainer.strategy, ShardedStrategy):
            self.shard(self.trainer.strategy)

    def shard(self, strategy: ShardedStrategy) -> None:
        """Keep only this rank's share of each weight."""
        shard(self, layers_of(self.backbone) or (), strategy.mesh, "losses")

    def on_fit_start(self) -> None:
        """Refuse unsupported trainer settings and prepare the network."""
        if self.trainer.max_steps < 1:
            raise UserError("trainer.max_steps must be set: the number of optimizer steps of each block")
        if self.recipe.lora is not None and self.lora is None:
            raise UserError("model.recipe.lora is for blocks that start from a trained network: set it to null")
        check_precision(self.trainer.precision)
        if isinstance(self.trainer.model, DistributedDataParallel):
            # Buffers, such as a token table, are constants; broadcasting them in every step would only cost time.
            self.trainer.model.broadcast_buffers = False
        self.prepare_network()
        if not torch.cuda.is_available():
            # With Lightning's value, AdamW looks for the driver's library at each step, in vain.
            os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"

    def prepare_network(self) -> None:
        """Checkpoint and compile the network as the recipe says."""
        if self.recipe.activation_checkpointing:
            checkpoint_layers(self.backbone)
        if self.recipe.compile:
            self.backbone.compile()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Make dropout a function of the number of batches seen."""
        purpose = ("step", self.stream, self.batches_seen, self.global_rank)
        # Not `torch.manual_seed`, which visits the generators of every kind of device.
        seed_generator(torch.default_generator, self.seed, *purpose)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(derive_seed(self.seed, *purpose))

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Backward pass, and an optimizer step after every `accumulate` batches."""
        losses, step = self.losses(batch), self.global_step
        loss = losses.mean()
        mean_loss, asked = self._mean_over_ranks(loss.detach())
        with self._gradient_sync():
            self.manual_backward(loss / self.recipe.accumulate)
        self.batches_seen += 1
        self.samples += len(losses.per_sample) * self.trainer.world_size
        norm = None if self.accumulating else self._optimizer_step()
        self._finite.add(step, loss, mean_loss, norm, losses.sigma, asked)
        self._check_finite(keep=0 if self._logs_within(1) else 1)
        if self._logs_within(1):
            # Under manual optimization Lightning's x-axis counts batches; the metric `step` replaces it.
            self.log("step", float(self.global_step))
            self.log("train/loss", mean_loss)
        outputs = {"loss": mean_loss, "per_sample": losses.per_sample.detach()}
        return outputs if losses.sigma is None else outputs | {"sigma": losses.sigma}

    def _mean_over_ranks(self, loss: Tensor) -> tuple[Tensor, Tensor | None]:
        """Mean of the loss and, if there are several ranks, the share of them that was asked to stop: one exchange."""
        if self.trainer.world_size == 1:
            return loss.clone(), None
        means = mean_over_ranks(torch.stack([loss, torch.full_like(loss, float(self.stop_asked))]))
        return means[0], means[1]

    @property
    def stop_agreed(self) -> bool:
        """Whether a rank was asked to stop: true on all ranks after the same batch, one later than it was asked."""
        return self._finite.stop_asked

    def _gradient_sync(self) -> AbstractContextManager[None]:
        """Let DDP average gradients over ranks only in the last backward pass of an optimizer step."""
        strategy = self.trainer.strategy
        ends_step = (self.batches_seen + 1) % self.recipe.accumulate == 0
        if ends_step or not isinstance(strategy, ParallelStrategy):
            return nullcontext()
        return strategy.block_backward_sync()

    def _optimizer_step(self) -> Tensor:
        """One step of the optimizer; returns the norm of the gradient before clipping."""
        optimizer, scheduler = self.optimizers(), self.lr_schedulers()
        assert isinstance(scheduler, LRScheduler)
        assert not isinstance(optimizer, list)
        norm = full_tensor(nn.utils.clip_grad_norm_(self.parameters(), self.recipe.clip_norm or math.inf))
        if self._logs_within(self.recipe.accumulate):
            self.log("train/gradient_norm", norm)
            self.log("train/learning_rate", scheduler.get_last_lr()[0])
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        return norm

    def _logs_within(self, num_batches: int) -> bool:
        """Whether the loggers are written to after one of the next `num_batches` batches, this one among them.

        What is logged in between never reaches a file, and costs more than the rest of a small step.
        """
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        return every > 0 and -self.batches_seen % every < num_batches

    def on_validation_start(self) -> None:
        """Stop before a network that is not finite is evaluated."""
        self._check_finite()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Loss on the validation split, with fixed noise."""
        losses = self.losses(batch)
        num = len(losses.per_sample)
        self.log("step", float(self.global_step), reduce_fx="max", sync_dist=True, batch_size=num)
        self.log_mean("val/loss", losses, prog_bar=True)

    def log_mean(self, name: str, losses: Losses, **options: Any) -> None:
        """Log the weighted mean over all batches and ranks of a split; options are those of `log`."""
        mean, size = losses.mean_and_size()
        self.log(name, mean, batch_size=size, sync_dist=True, **options)  # type: ignore[arg-type]  # a weight for Lightning

    def _check_finite(self, keep: int = 0) -> None:
        """Stop all ranks if a loss or gradient was not finite on one of them; the `keep` last batches are not read."""
        found = self._finite.first_problem(keep)
        if found is None:
            return
        problem = first_message(self.trainer, self._describe(found)) or f"mean {found.name} is {found.everywhere}"
        saved = getattr(self.trainer.checkpoint_callback, "last_saved", None)
        good = f"last good checkpoint: {saved}" if saved else "no checkpoint yet"
        raise UserError(
            f"{self.part} stopped at step {found.step}: {problem}; {good}; "
            "try a lower model.recipe.optimizer.lr, with --from_scratch"
        )

    def _describe(self, found: NotFinite) -> str:
        """What this rank saw; empty if its own value is finite."""
        if math.isfinite(found.here):
            return ""
        alone = self.trainer.world_size == 1
        rank = "" if alone or found.name == "gradient" else f" on rank {self.global_rank}"
        # Several ranks contribute to the gradient, so the levels of this one may not explain it.
        explained = found.sigma if alone or found.name == "loss" else None
        levels = "" if explained is None else f" at noise levels {explained.min():.4g} to {explained.max():.4g}"
        return f"{found.name} is {found.here}{rank}{levels}"

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add this part's identity and counters, unless its weights are not finite."""
        self._check_finite()
        stamp = Stamp(
            part=self.part,
            contract=self.contract.hash,
            batches_seen=self.batches_seen,
            samples=self.samples,
            layer_passes=self.layer_passes,
            max_steps=self.trainer.max_steps,
            lora_alpha=0.0 if self.lora is None else float(self.lora.alpha),
        )
        checkpoint["dbl"] = asdict(stamp)
        if "optimizer_states" in checkpoint and not isinstance(self.trainer.strategy, ShardedStrategy):  # which does so
            (state,), (optimizer,) = checkpoint["optimizer_states"], self.trainer.optimizers
            checkpoint["optimizer_states"] = [numbered_by_module(state, self, optimizer)]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the checkpoint of another part or contract; restore the counters."""
        try:
            stored = Stamp.of(checkpoint)
        except ValueError as error:
            raise UserError(f"the checkpoint of {self.part} is not one of dbl ({error}): train it anew") from None
        if (stored.part, stored.contract) != (self.part, self.contract.hash):
            raise UserError(
                f"the checkpoint is of {stored.part} with contract {stored.contract[:12]}, not of "
                f"{self.part} with contract {self.contract.hash[:12]}: resume it in its own run"
            )
        if self._differs_in_adapters(stored, checkpoint.get("state_dict")):
            raise UserError(
                f"the checkpoint of {self.part} was trained with another model.recipe.lora: put it back, or train anew "
                "with --from_scratch"
            )
        self.batches_seen = stored.batches_seen
        self.samples = stored.samples

    def _differs_in_adapters(self, stored: Stamp, weights: dict[str, Tensor] | None) -> bool:
        """Whether a checkpoint has other adapters than this part, or adapters where it has none."""
        if stored.lora_alpha != (0.0 if self.lora is None else self.lora.alpha):
            return True
        if weights is None:  # sharded weights, which were read and compared before
            return False
        theirs, ours = (
            {name: tensor.shape for name, tensor in adapter_weights(state).items()}
            for state in (weights, self.state_dict())
        )
        return theirs != ours
