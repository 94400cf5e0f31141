"""Architecture, section 4, number 2: randomness by counter, so that resuming equals never having stopped."""

import os
import signal
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from toy import Kill, assert_equal_states, checkpoint, fit, recipe

from dbl.run.contract import Contract
from dbl.training.baselines import EndToEndClassifier
from dbl.training.block import DiffusionBlock
from dbl.utils.errors import Interrupted, UserError


class Press(L.Callback):
    """Send this process a signal after some steps, as Ctrl-C does."""

    def __init__(self, step: int, number: int) -> None:
        self.step, self.number = step, number

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), self.number)


def _part(kind: str, dit: Contract, vit: Contract, accumulate: int = 1) -> Any:
    train = recipe(warmup_steps=2, accumulate=accumulate)
    parts = {"dit": (DiffusionBlock, dit, 1), "vit": (DiffusionBlock, vit, 1), "end to end": (EndToEndClassifier, vit)}
    cls, contract, *block = parts[kind]
    return cls(contract, *block, recipe=train)  # type: ignore[operator]


@pytest.mark.parametrize("kind", ["dit", "vit", "end to end"])
@pytest.mark.parametrize("step", [5, 9])  # an epoch has 6 batches: in the middle of the first and of the second
def test_a_killed_training_resumes_bit_for_bit(
    kind: str, step: int, dit_contract: Contract, vit_contract: Contract, tmp_path: Path
) -> None:
    """Catches data order, noise, dropout, schedule or averages that depend on the history of a process."""
    fit(_part(kind, dit_contract, vit_contract), tmp_path / "whole", steps=12)
    with pytest.raises(RuntimeError, match="killed"):
        fit(_part(kind, dit_contract, vit_contract), tmp_path / "resumed", steps=12, callbacks=[Kill(step)])
    part = _part(kind, dit_contract, vit_contract)
    fit(part, tmp_path / "resumed", steps=12, resume=True)
    whole, resumed = (checkpoint(tmp_path / name, part.part) for name in ("whole", "resumed"))
    for key in ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers", "global_step", "dbl"):
        assert_equal_states(whole[key], resumed[key])


def test_accumulation_resumes_bit_for_bit(dit_contract: Contract, vit_contract: Contract, tmp_path: Path) -> None:
    """Catches a checkpoint in the middle of an accumulation, whose gradients are lost."""
    fit(_part("dit", dit_contract, vit_contract, accumulate=3), tmp_path / "whole", steps=6)
    broken = _part("dit", dit_contract, vit_contract, accumulate=3)
    with pytest.raises(RuntimeError, match="killed"):
        fit(broken, tmp_path / "resumed", steps=6, callbacks=[Kill(3)])
    fit(_part("dit", dit_contract, vit_contract, accumulate=3), tmp_path / "resumed", steps=6, resume=True)
    whole, resumed = (checkpoint(tmp_path / name, "block_1") for name in ("whole", "resumed"))
    assert_equal_states(whole["current_model_state"], resumed["current_model_state"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_running_step(number: int, dit_contract: Contract, tmp_path: Path) -> None:
    """Catches a Ctrl-C that loses the steps since the last checkpoint, or leaves our handler installed."""
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match="block_0 stopped at step 4 of 12"):
        fit(DiffusionBlock(dit_contract, 0, recipe()), tmp_path, steps=12, callbacks=[Press(3, number)])
    assert checkpoint(tmp_path, "block_0")["global_step"] == 4
    assert signal.getsignal(number) is before
    fit(DiffusionBlock(dit_contract, 0, recipe()), tmp_path, steps=12, resume=True)
    assert checkpoint(tmp_path, "block_0")["global_step"] == 12


def test_a_checkpoint_of_another_block_or_contract_is_refused(
    dit_contract: Contract, vit_contract: Contract, tmp_path: Path
) -> None:
    """Catches a resume that takes whatever weights happen to fit."""
    fit(DiffusionBlock(dit_contract, 0, recipe()), tmp_path)
    (tmp_path / "block_0").rename(tmp_path / "block_1")
    with pytest.raises(UserError, match="block_0"):
        fit(DiffusionBlock(dit_contract, 1, recipe()), tmp_path, steps=12, resume=True)
