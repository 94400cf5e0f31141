"""Losses of the assembled network on a split: each sample has a level and a noise of its own."""

from pathlib import Path

import pytest
import torch
from evaluation_toy import evaluation, toy_stack
from toy import Stripes
from toy_text import ChainText, text_stack

from dbl.data import ImageData, TextData
from dbl.evaluation.stack_evaluation import StackEvaluation
from dbl.inference.stack import BlockStack


def _stack_and_data(kind: str, eval_batch_size: int) -> tuple[BlockStack, ImageData | TextData]:
    if kind in ("dit", "vit"):
        return toy_stack(kind), Stripes(eval_batch_size=eval_batch_size)
    return text_stack(kind), ChainText(eval_batch_size=eval_batch_size)


def _losses(kind: str, eval_batch_size: int, folder: Path) -> dict[str, float]:
    stack, data = _stack_and_data(kind, eval_batch_size)
    (logged,) = evaluation(folder).test(StackEvaluation(stack), datamodule=data, verbose=False)
    return {name: value for name, value in logged.items() if "loss" in name}


@pytest.mark.parametrize("kind", ["dit", "vit", "clean", "masked"])
def test_losses_do_not_depend_on_the_batch_size(kind: str, tmp_path: Path) -> None:
    """Catches noise that is drawn for a batch: a loss would change with the size of the batches."""
    together = _losses(kind, 16, tmp_path / "16")
    assert set(together) == {"test/loss", "test/loss_block_0", "test/loss_block_1", "test/loss_block_2"}
    for size in (7, 4):
        assert _losses(kind, size, tmp_path / str(size)) == pytest.approx(together, rel=1e-5)


def test_losses_do_not_depend_on_the_order() -> None:
    """Catches noise that belongs to the place in a batch."""
    batch = next(iter(Stripes(eval_batch_size=15).test_dataloader()))
    reverse = torch.arange(14, -1, -1)
    turned = {name: value[reverse] if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
    losses = []
    for one in (batch, turned):
        module = StackEvaluation(toy_stack("dit"))
        module._add_losses(module.stack.space.encode(one), one)
        losses.append([float(metric.compute()) for metric in (module.total_loss, *module.block_losses)])  # type: ignore[operator]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_samples_and_seeds_have_noise_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches the same noise for all samples, or for all seeds."""
    batch, noises = next(iter(Stripes(eval_batch_size=5).test_dataloader())), []
    for seed in (0, 1):
        module = StackEvaluation(toy_stack("dit", seed=seed))
        space = module.stack.space
        corrupt = space.corrupt
        monkeypatch.setattr(space, "corrupt", lambda *args, inner=corrupt: (noises.append(args[1]), inner(*args))[1])
        module._add_losses(space.encode(batch), batch)
    assert len(torch.cat(noises).flatten(1).unique(dim=0)) == 10
