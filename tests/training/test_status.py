"""The status file of a training part."""

import json
import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from toy import fit, recipe

import dbl.training.callbacks.status
from dbl.run.contract import Contract
from dbl.training.block import DiffusionBlock
from dbl.training.callbacks.status import Status
from dbl.utils.errors import Interrupted, UserError


class Watch(L.Callback):
    """What the file says when a step begins."""

    def __init__(self, path: Path, fault: Exception | None = None) -> None:
        self.path, self.fault = path, fault
        self.seen: list[dict[str, Any]] = []

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        self.seen.append(json.loads(self.path.read_text()))
        if self.fault and trainer.global_step == 3:
            raise self.fault


def _train(contract: Contract, folder: Path, fault: Exception | None = None, steps: int = 6) -> list[dict[str, Any]]:
    """Train with a status file; what it said before each step, and at the end."""
    path = folder / "block_0" / "status.json"
    watch = Watch(path, fault)
    callbacks = [watch, Status(path, "block_0")]
    expected: AbstractContextManager[Any] = pytest.raises(type(fault)) if fault else nullcontext()
    with expected:
        fit(DiffusionBlock(contract, 0, recipe()), folder, steps=steps, callbacks=callbacks)
    return [*watch.seen, json.loads(path.read_text())]


def test_it_follows_the_training(dit_contract: Contract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a key that is missing or never moves, a loss of nothing, and a speed without time."""
    monkeypatch.setattr(dbl.training.callbacks.status, "_EVERY_S", 0.0)
    seen = _train(dit_contract, tmp_path)
    assert [status["step"] for status in seen] == [0, 1, 2, 3, 4, 5, 6]
    assert [status["state"] for status in seen] == ["training"] * 6 + ["done"]
    assert seen[0]["loss"] is None
    assert seen[0]["steps_per_second"] is None
    assert len({status["loss"] for status in seen}) == 7
    assert all(status["steps_per_second"] > 0 for status in seen[1:])
    assert {(status["part"], status["max_steps"], status["pid"]) for status in seen} == {("block_0", 6, os.getpid())}
    assert [status["updated"] for status in seen] == sorted(status["updated"] for status in seen)
    assert seen[-1]["seconds"] > 0
    assert seen[-1]["message"] is None


def test_it_is_not_written_at_every_step(
    dit_contract: Contract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a device that is waited for, and a file that is written, thousands of times a second."""
    monkeypatch.setattr(dbl.training.callbacks.status, "_EVERY_S", 3600.0)
    assert [status["step"] for status in _train(dit_contract, tmp_path)] == [0, 0, 0, 0, 0, 0, 6]


@pytest.mark.parametrize(
    ("fault", "state", "message"),
    [
        (UserError("the loss is nan\nat step 3"), "failed", "the loss is nan"),
        (RuntimeError(), "failed", "RuntimeError"),
        (Interrupted("saved"), "stopped", None),
    ],
)
def test_it_says_how_a_training_ended(
    fault: Exception, state: str, message: str | None, dit_contract: Contract, tmp_path: Path
) -> None:
    """Catches a table that shows a dead training as running, or a stopped one as failed."""
    last = _train(dit_contract, tmp_path, fault)[-1]
    assert (last["state"], last["step"], last["message"]) == (state, 3, message)


def test_a_file_that_cannot_be_written_does_not_stop_the_training(dit_contract: Contract, tmp_path: Path) -> None:
    """Catches a training of days that ends because of the file that tells about it."""
    (tmp_path / "file").write_text("not a folder")
    status = Status(tmp_path / "file" / "status.json", "block_0")
    trainer = fit(DiffusionBlock(dit_contract, 0, recipe()), tmp_path, callbacks=[status])
    assert trainer.global_step == 6
