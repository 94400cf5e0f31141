"""Blocks of text are trained for themselves, and resume bit for bit."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from toy import assert_equal_states, checkpoint, recipe
from toy_text import fit_text, text_contract

from dbl.training.block import DiffusionBlock

KINDS = ["clean", "masked"]


class Kill(L.Callback):
    """Break off the training after some steps, without any clean-up."""

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if trainer.global_step == 5:
            raise RuntimeError("killed")


@pytest.mark.parametrize("kind", KINDS)
def test_a_block_trained_alone_equals_one_trained_after_others(kind: str, tmp_path: Path) -> None:
    """Catches global random state, a shared counter or a shared table: what earlier blocks leave behind."""
    contract = text_contract(kind)
    fit_text(DiffusionBlock(contract, 2, recipe()), tmp_path / "alone")
    torch.manual_seed(99)
    for block in (0, 2):
        fit_text(DiffusionBlock(contract, block, recipe()), tmp_path / "in turn")
    alone, in_turn = checkpoint(tmp_path / "alone", "block_2"), checkpoint(tmp_path / "in turn", "block_2")
    assert_equal_states(alone["state_dict"], in_turn["state_dict"])
    assert_equal_states(alone["optimizer_states"], in_turn["optimizer_states"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_training_resumes_bit_for_bit(kind: str, tmp_path: Path) -> None:
    """Catches an order of sequences, noise or masks that depend on the history of a process."""
    contract = text_contract(kind)
    fit_text(DiffusionBlock(contract, 1, recipe(warmup_steps=2)), tmp_path / "whole", 8)
    with pytest.raises(RuntimeError, match="killed"):
        fit_text(DiffusionBlock(contract, 1, recipe(warmup_steps=2)), tmp_path / "resumed", 8, False, Kill())
    assert checkpoint(tmp_path / "resumed", "block_1")["global_step"] == 4
    fit_text(DiffusionBlock(contract, 1, recipe(warmup_steps=2)), tmp_path / "resumed", 8, True)
    whole, resumed = (checkpoint(tmp_path / name, "block_1") for name in ("whole", "resumed"))
    for key in ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers", "global_step", "dbl"):
        assert_equal_states(whole[key], resumed[key])


@pytest.mark.parametrize("kind", ["clean", "two", "masked", "recurrent"])
def test_training_moves_every_weight_that_is_used(kind: str, tmp_path: Path) -> None:
    """Catches parts of a denoiser that the optimizer is not given, or that no gradient reaches."""
    block = DiffusionBlock(text_contract(kind), 0, recipe())
    before = {name: weights.clone() for name, weights in block.denoiser.named_parameters()}
    fit_text(block, tmp_path, steps=3)
    still = [name for name, weights in block.denoiser.named_parameters() if torch.equal(weights, before[name])]
    assert still == []


@pytest.mark.parametrize("kind", ["clean", "two", "masked"])
def test_a_block_holds_only_its_own_layers(kind: str) -> None:
    """Catches a block that builds the whole network: its memory would be that of all layers."""
    blocks = [DiffusionBlock(text_contract(kind), index) for index in range(3)]
    assert [len(block.denoiser.network.layers) for block in blocks] == [1, 1, 1]  # type: ignore[arg-type]
    places = [{parameter.data_ptr() for parameter in block.parameters()} for block in blocks]
    assert not places[0] & places[1] | places[1] & places[2] | places[0] & places[2]


@pytest.mark.parametrize(("kind", "passes"), [("clean", 1), ("two", 2), ("masked", 1), ("recurrent", 3)])
def test_compute_is_counted_in_layer_passes(kind: str, passes: float) -> None:
    """Catches two streams that count once, which would give the blocks twice the compute of the baseline."""
    assert DiffusionBlock(text_contract(kind), 0).layer_passes == passes
