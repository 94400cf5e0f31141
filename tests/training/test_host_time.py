"""What the host does in a training step: it waits for no number of the device, and logs only when loggers write."""

from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from toy import fit, recipe

from benchmarks.host_reads import ReadsInSteps
from dbl.run.contract import Contract
from dbl.training.block import DiffusionBlock
from dbl.training.callbacks import status
from dbl.training.callbacks.loss_by_level import LossByLevel
from dbl.training.callbacks.progress import Throughput
from dbl.training.callbacks.status import Status
from dbl.training.config import TrainingConfig


class ReadsTheLoss(L.Callback):
    """What must be seen."""

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any) -> None:
        float(outputs["loss"])


@pytest.mark.parametrize(("others", "reads"), [([], 0), ([ReadsTheLoss()], 1)])
def test_a_step_that_logs_nothing_reads_no_number(
    dit_contract: Contract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: list[L.Callback], reads: int
) -> None:
    """Catches a check, an average, a bar or a log entry that makes the host wait in each step."""
    # The status, which names the loss, is written by the clock, and that may be in this step.
    monkeypatch.setattr(status, "_EVERY_S", 1e9)
    step = ReadsInSteps()
    callbacks = [LossByLevel(), Throughput(), Status(tmp_path / "status.json", "block_1"), *others, step]
    # Fused: AdamW otherwise reads its own counters, which stay on the CPU.
    block = DiffusionBlock(dit_contract, 1, TrainingConfig(partial(torch.optim.AdamW, fused=True)))
    fit(block, tmp_path, callbacks=callbacks, log_every_n_steps=50)
    assert step.counts == [reads]


def test_only_what_reaches_a_logger_is_logged(
    dit_contract: Contract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches values that are collected in each step, and those of a step at which loggers write that are missing."""
    logged: list[tuple[int, str]] = []
    block = DiffusionBlock(dit_contract, 1, recipe(accumulate=2))
    log = block.log
    monkeypatch.setattr(
        block,
        "log",
        lambda name, *args, **options: (logged.append((block.batches_seen, name)), log(name, *args, **options)),
    )
    fit(block, tmp_path, steps=3, log_every_n_steps=3, limit_val_batches=0)
    # Loggers write after batches 3 and 6; the optimizer steps at batches 2, 4 and 6.
    assert [entry for entry in logged if entry[1] == "train/loss"] == [(3, "train/loss"), (6, "train/loss")]
    assert [entry for entry in logged if "norm" in entry[1]] == [(2, "train/gradient_norm"), (6, "train/gradient_norm")]
