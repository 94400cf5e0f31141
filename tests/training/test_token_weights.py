"""Every token of a split weighs the same, however long the text is in which it stands."""

import math
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from evaluation_toy import evaluation
from torch import Tensor
from toy_text import text_contract, text_sampler

from dbl.data import Bytes, TextData
from dbl.data.spec import IGNORED
from dbl.evaluation.stack_evaluation import StackEvaluation
from dbl.inference.settings import InferenceConfig
from dbl.inference.stack import BlockStack
from dbl.run.contract import Contract
from dbl.training.baselines import EndToEndCausalLM
from dbl.training.block import DiffusionBlock, NoisyBatch
from dbl.training.module import Losses, TrainingModule
from dbl.training.noisy_data import NoisyData

LENGTHS = [3, 3, 9, 4, 6, 3, 9, 7] * 6


class Documents(TextData):
    """Texts of 3 to 9 letters and an end, so 3 to 9 predicted tokens."""

    def __init__(self, eval_batch_size: int = 5, **options: Any) -> None:
        options = {"packing": "document", "validation_share": 0.0, "test_share": 0.0} | options
        super().__init__(9, Bytes(), 8, eval_batch_size, **options)

    def load(self, split: str) -> list[str] | None:  # type: ignore[override]
        """48 training texts, and 13 others."""
        return ["abcdefghi"[:length] for length in (LENGTHS if split == "train" else LENGTHS[1:14])]


def contract(kind: str, data: TextData | None = None) -> Contract:
    return text_contract(kind).config.build((data or Documents()).spec)


def uniform_nats(part: TrainingModule) -> float:
    return math.log(part.contract.data.num_classes)


def test_the_facts_tell_the_mean_length() -> None:
    """Catches a mean that counts the given token or the filling."""
    assert Documents().spec.mean_scored == sum(LENGTHS) / len(LENGTHS)
    assert Documents(packing="stream").spec.mean_scored is None


@pytest.mark.parametrize("kind", ["clean", "masked", "end to end"])
def test_the_gradient_of_a_token_does_not_depend_on_its_text(kind: str) -> None:
    """Catches a loss that weighs sequences: a token of a short text would have several times the gradient of others."""
    built = contract("clean" if kind == "end to end" else kind)
    part = EndToEndCausalLM(built) if kind == "end to end" else DiffusionBlock(built)
    data = Documents()
    batch = data.batch("train", torch.tensor([0, 2]))  # 3 and 9 tokens
    if isinstance(part, DiffusionBlock):
        clean, sigma = part.space.encode(batch), torch.ones(2)  # all tokens hidden
        batch = NoisyBatch(clean, part.space.corrupt(clean.clean, torch.zeros(clean.clean.shape), sigma), sigma)
    losses = part.losses(batch)
    assert losses.weight is not None
    parts = losses.per_sample * losses.weight
    nats = losses.per_sample.tolist()
    mean = built.data.mean_scored  # type: ignore[attr-defined]
    assert parts.tolist() == pytest.approx([3 * nats[0] / mean, 9 * nats[1] / mean], rel=1e-5)
    assert float(losses.mean()) == pytest.approx(float(parts.sum()) / 2)


def test_the_mean_over_an_epoch_is_that_over_its_tokens() -> None:
    """Catches a factor that depends on the batch: batches, ranks and accumulation must not change a token's weight."""
    built, data = contract("masked"), Documents()
    labels = data.batch("train", torch.arange(len(LENGTHS)))["tokens"][:, 1:]
    nats = torch.rand(labels.shape, generator=torch.Generator().manual_seed(0)) * (labels != IGNORED)
    per_sample = nats.sum(1) / (labels != IGNORED).sum(1)
    for size in (1, 4, 16):
        means = [
            Losses(per_sample[rows], weight=built.sample_weights(labels[rows])).mean()
            for rows in torch.arange(len(labels)).split(size)
        ]
        assert float(torch.stack(means).mean()) == pytest.approx(float(nats.sum()) / sum(LENGTHS), rel=1e-5)


def test_text_without_filling_has_no_weights() -> None:
    """Catches arithmetic that changes where all sequences are equally long."""
    built = text_contract("masked")
    assert built.sample_weights(torch.zeros(3, 6, dtype=torch.int64)) is None


def token_mean(part: TrainingModule, data: TextData) -> Tensor:
    """Mean over all tokens of the test split, by a plain loop over sequences."""
    total = torch.zeros(2, dtype=torch.float64)
    for index in range(len(data.split("test"))):
        batch = data.batch("test", torch.tensor([index]))
        num = int((batch["tokens"][:, 1:] != IGNORED).sum())
        total += torch.tensor([num * float(part.losses(batch).per_sample), num])
    return total[0] / total[1]


@torch.no_grad()
def test_losses_of_a_baseline_are_means_over_tokens(tmp_path: Path) -> None:
    """Catches a report that weighs sequences, or batches of different numbers of tokens alike."""
    data = Documents()
    part = EndToEndCausalLM(contract("clean")).eval()
    torch.nn.init.normal_(part.head.weight, 0, 3)
    trainer = evaluation(tmp_path)
    tested = trainer.test(part, datamodule=data, verbose=False)[0]["test/loss"]
    validated = trainer.validate(part, data.test_dataloader(), verbose=False)[0]["val/loss"]
    assert tested == pytest.approx(float(token_mean(part, data)), rel=1e-5)
    assert validated == pytest.approx(tested, rel=1e-6)


def test_losses_of_a_stack_are_means_over_tokens(tmp_path: Path) -> None:
    """Catches a test loss of blocks that weighs sequences."""
    losses = {}
    for size in (5, 13):
        built, data = contract("masked"), Documents(eval_batch_size=size)
        stack = BlockStack(
            built, lambda block, built=built: built.denoiser(block), InferenceConfig(text_sampler("masked"))
        )
        module = StackEvaluation(stack.eval())
        losses[size] = evaluation(tmp_path / str(size)).test(module, datamodule=data, verbose=False)[0]["test/loss"]
    assert losses[5] == pytest.approx(losses[13], rel=1e-5)
    clean = stack.space.encode(data.batch("test", torch.arange(13)))
    module.total_loss.reset()
    module._add_losses(clean, {"index": torch.arange(13)})
    weights = (clean.labels != IGNORED).sum(1)
    assert float(module.total_loss.weight) == pytest.approx(float(weights.sum()) / built.data.mean_scored)  # type: ignore[attr-defined]


def test_a_training_steps_on_the_weighted_mean(tmp_path: Path) -> None:
    """Catches weights that the reports know and the optimizer does not."""
    seen: list[tuple[float, float]] = []

    class Watch(L.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            weight = module.contract.sample_weights(batch.clean.labels)
            seen.append((float(outputs["loss"]), float((outputs["per_sample"] * weight).mean())))

    data = Documents()
    block = DiffusionBlock(contract("masked", data))
    trainer = L.Trainer(
        max_steps=3, max_epochs=-1, accelerator="cpu", logger=False, callbacks=[Watch()], enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(block, datamodule=NoisyData(data, block))
    assert len(seen) == 3
    assert [loss for loss, _ in seen] == pytest.approx([wanted for _, wanted in seen])
