"""Nats of a label or a token: the likelihood bound of an assembled network, the exact value of a baseline."""

import math
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from dbl.data.spec import IGNORED
from dbl.denoising.denoiser import Denoiser
from dbl.denoising.likelihood import Bound, BoundEstimator, BoundSums
from dbl.denoising.readout import Prediction
from dbl.denoising.targets import Batch
from dbl.evaluation.figures import likelihood_figure
from dbl.evaluation.stack_evaluation import StackEvaluation
from dbl.inference.stack import BlockStack
from dbl.utils.checks import SEED, check_numbers, whole


class Likelihood(L.Callback):
    """Log the nats of a label or token: the bound of `dbl.denoising.likelihood`, in total and for each block.

    For a stack with discrete targets, in test and validation; it costs `levels_per_block` network calls of each
    block for every sample. A module with a method `exact_nats(batch) -> (nats [N], scored labels [N])`, such as the
    end-to-end baselines of text, has its exact value logged in the same way. Other models are left alone.

    For text there are also the perplexity and the bits per byte that follow, from sums over the whole split. Raises
    UserError if `levels_per_block` is negative.

    Args:
        levels_per_block: noise levels of each block at which a sample is denoised; 0 turns the bound off.
        seed: random seed of levels and noise.

    Attributes:
        result: `Bound` as JSON values: `nats`, `standard_error`, `prior`, `reconstruction`, `blocks`,
            `num_samples`, `num_scored`, `levels_per_block`, `curve`; `exact`: whether it is a value rather than a
            bound; for text `num_bytes`, `perplexity`, `bits_per_byte`, `bits_per_token`, else null (bytes too, where a
            token stands for unknown text); `own_blocks`: for an ensemble, the bound of the blocks themselves, each at
            its own levels, else null. None if there is no bound.
    """

    def __init__(self, levels_per_block: int = 8, seed: int = 0) -> None:
        self.levels_per_block = levels_per_block
        self.seed = seed
        check_numbers("likelihood", self, levels_per_block=whole(0, 10_000), seed=SEED)
        self.result: dict[str, Any] | None = None
        self._estimator: BoundEstimator | ExactNats | None = None
        self._own: BoundEstimator | None = None
        self._bytes: ByteCount | None = None

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start from nothing."""
        self.result = self._estimator = self._own = None
        tokenizer = getattr(getattr(trainer, "datamodule", None), "tokenizer", None)
        self._bytes = None if tokenizer is None else ByteCount(tokenizer.byte_lengths, tokenizer.unknown_id)
        if not self.levels_per_block:
            return
        if hasattr(pl_module, "exact_nats") and not trainer.training:
            self._estimator = ExactNats()
        elif isinstance(pl_module, StackEvaluation):
            self._estimator = self._bound_of(pl_module.stack)
            self._own = None if pl_module.stack.ensemble is None else self._bound_of(pl_module.stack)

    def _bound_of(self, stack: BlockStack) -> BoundEstimator | None:
        contract = stack.contract
        channel = stack.target.channel(contract.data, contract.table)
        if channel is None:
            return None
        return BoundEstimator(channel, contract.noise, contract.partition, self.levels_per_block, self.seed)

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add a batch."""
        if self._estimator is None:
            return
        # Callbacks run outside the context that gives test steps the trainer's precision.
        with trainer.precision_plugin.test_step_context():
            if isinstance(self._estimator, ExactNats):
                self._estimator.add(*pl_module.exact_nats(batch))  # type: ignore[operator]
            else:
                assert isinstance(pl_module, StackEvaluation)
                add_batch(self._estimator, pl_module.stack, batch, pl_module.stack.denoiser_for)
                if self._own is not None:
                    add_batch(self._own, pl_module.stack, batch, pl_module.stack.denoiser)
        if self._bytes is not None:
            self._bytes.add(batch["tokens"][:, 1:])

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the bound."""
        if self._estimator is None:
            return
        if trainer.world_size > 1:
            sums_of_all = [one.sums for one in (self._estimator, self._own) if one is not None]
            for sums in (*sums_of_all, self._bytes):
                if sums is not None:
                    sums.reduce(lambda part: _total(trainer, part.to(pl_module.device)).cpu())
        self.result = self._result(self._estimator)
        for name, value in _scalars(self.result).items():
            pl_module.log(f"{'test' if trainer.testing else 'val'}/{name}", value)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and isinstance(pl_module, StackEvaluation):
                figure = likelihood_figure(self.result["curve"], pl_module.stack.target.level_name)
                logger.experiment.add_figure("whole_network/likelihood", figure)

    # A validation is measured in the same way.
    on_validation_epoch_start = on_test_epoch_start
    on_validation_batch_end = on_test_batch_end
    on_validation_epoch_end = on_test_epoch_end

    def _result(self, estimator: "BoundEstimator | ExactNats") -> dict[str, Any]:
        result = estimator.result().to_plain() | {"exact": isinstance(estimator, ExactNats)}
        result["own_blocks"] = None if self._own is None else self._own.result().to_plain()
        if self._bytes is None:
            return result | dict.fromkeys(("num_bytes", "perplexity", "bits_per_token", "bits_per_byte"))
        nats, (total, unknown) = result["nats"], self._bytes.total.tolist()
        num_bytes = None if unknown else int(total)
        return result | {
            "num_bytes": num_bytes,
            "perplexity": math.exp(min(nats, 700)),
            "bits_per_token": nats / math.log(2),
            "bits_per_byte": nats * result["num_scored"] / num_bytes / math.log(2) if num_bytes else None,
        }


def add_batch(estimator: BoundEstimator, stack: BlockStack, batch: Batch, denoiser: Callable[[int], Denoiser]) -> None:
    """Add a raw batch to the estimate of a stack's bound; `denoiser` gives what denoises the levels of each block."""
    clean = stack.space.encode(batch)
    read: tuple[Denoiser | None, Any] = (None, None)

    def predict(block: int, noisy: Tensor, sigma: Tensor) -> Prediction:
        nonlocal read
        denoiser_for = denoiser(block)
        if denoiser_for is not read[0]:
            # What depends on no level, such as the clean stream of a causal network, is computed once for all levels.
            extend = getattr(denoiser_for.network, "extend", None)
            read = (denoiser_for, clean.cond if extend is None else extend(clean.cond))
        return denoiser_for.predict(noisy, sigma, read[1])

    with torch.no_grad():
        estimator.add(clean.clean, clean.labels, batch["index"], predict)


class ExactNats:
    """Sums exact nats; its result is like that of `BoundEstimator`, without blocks."""

    def __init__(self) -> None:
        self.sums = BoundSums(num_blocks=0, num_strata=0)

    def add(self, nats: Tensor, scored: Tensor) -> None:
        """Add samples: nats [N], summed over the scored labels, and the number [N] of those."""
        nothing = torch.zeros_like(nats)
        self.sums.add(nothing, torch.zeros(0, 0, len(nats)), nats, scored)

    def result(self) -> Bound:
        """The mean over all scored labels, as reconstruction; raises ValueError if there are none."""
        return self.sums.bound(levels_per_block=0, curve=[])


class ByteCount:
    """UTF-8 bytes of the scored tokens.

    Args:
        byte_lengths: [C] bytes of each token.
        unknown: token that stands for text of unknown length, if there is one.

    Attributes:
        total: [2] bytes, and unknown tokens; if there are any, the bytes are not those of the text.
    """

    def __init__(self, byte_lengths: Tensor, unknown: int | None) -> None:
        self.byte_lengths = byte_lengths
        self.unknown = unknown
        self.total = torch.zeros(2, dtype=torch.float64)

    def add(self, labels: Tensor) -> None:
        """Add tokens [N, T], IGNORED where they are not scored."""
        scored = labels[labels != IGNORED].cpu()
        num_unknown = 0 if self.unknown is None else int((scored == self.unknown).sum())
        self.total = self.total + torch.tensor([int(self.byte_lengths[scored].sum()), num_unknown])

    def reduce(self, total: Callable[[Tensor], Tensor]) -> None:
        """Replace the number by its total over all processes."""
        self.total = total(self.total)


def _total(trainer: L.Trainer, part: Tensor) -> Tensor:
    reduced = trainer.strategy.reduce(part, reduce_op="sum")
    assert isinstance(reduced, Tensor)
    return reduced


def _scalars(result: dict[str, Any]) -> dict[str, float]:
    scalars = {"nats": result["nats"], "nats_standard_error": result["standard_error"]}
    scalars |= {name: result[name] for name in ("perplexity", "bits_per_token", "bits_per_byte") if result[name]}
    if result["exact"]:
        return scalars
    if result["own_blocks"]:
        scalars["nats_own_blocks"] = result["own_blocks"]["nats"]
    scalars |= {"nats_prior": result["prior"], "nats_reconstruction": result["reconstruction"]}
    return scalars | {f"nats_block_{index}": block["nats"] for index, block in enumerate(result["blocks"])}
