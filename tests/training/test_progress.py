"""The progress bar and the logged speed of a training."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
from torch.utils.data import DataLoader
from toy import fit, recipe

from dbl.run.contract import Contract
from dbl.training.block import DiffusionBlock
from dbl.training.callbacks import progress
from dbl.training.callbacks.progress import EvaluationProgress, StepProgress, Throughput


class _Bar:
    """Stands in for tqdm and records what the bar is told."""

    made: list["_Bar"]

    def __init__(self, *, total: int, initial: int, desc: str, disable: bool, **options: Any) -> None:
        self.total, self.n, self.desc, self.disable = total, initial, desc, disable
        self.initial = initial
        self.updates: list[int] = []
        self.postfixes: list[tuple[int, dict[str, str]]] = []
        self.closed = 0
        self.made.append(self)

    def update(self, steps: int) -> None:
        self.n += steps
        self.updates.append(steps)

    def set_postfix(self, values: dict[str, str], refresh: bool) -> None:
        self.postfixes.append((self.n, values))

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> list[_Bar]:
    monkeypatch.setattr(_Bar, "made", [], raising=False)
    monkeypatch.setattr(progress, "tqdm", _Bar)
    return _Bar.made


def _train(contract: Contract, folder: Path, steps: int, resume: bool = False, accumulate: int = 1, *more: Any) -> None:
    """Train a block with the bar in place of Lightning's."""
    part, callbacks = DiffusionBlock(contract, 1, recipe(accumulate=accumulate)), [StepProgress(), *more]
    fit(part, folder, steps, resume, callbacks=callbacks, log_every_n_steps=2, enable_progress_bar=True)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_bar_counts_optimizer_steps(
    dit_contract: Contract, tmp_path: Path, bars: list[_Bar], accumulate: int
) -> None:
    """Catches a bar of batches or of one epoch, and one that is left open: an epoch of `Stripes` has eight batches."""
    _train(dit_contract, tmp_path, steps=10, accumulate=accumulate)
    (bar,) = bars
    assert (bar.total, bar.initial, bar.desc) == (10, 0, "block_1")
    assert bar.updates == [1] * 10
    assert bar.closed == 1


def test_a_resumed_bar_starts_where_training_does(dit_contract: Contract, tmp_path: Path, bars: list[_Bar]) -> None:
    """Catches a bar that starts at 0 again, or whose total is what remains."""
    _train(dit_contract, tmp_path, steps=4)
    _train(dit_contract, tmp_path, steps=7, resume=True)
    assert (bars[1].total, bars[1].initial, bars[1].n) == (7, 4, 7)
    assert bars[1].updates == [1, 1, 1]


def test_the_bar_shows_losses_when_they_are_logged(dit_contract: Contract, tmp_path: Path, bars: list[_Bar]) -> None:
    """Catches a loss that is read from the device in every step, or is missing."""
    _train(dit_contract, tmp_path, steps=6)
    shown = {step + 1: set(values) for step, values in bars[0].postfixes}
    assert shown == {2: {"train/loss"}, 4: {"train/loss", "val/loss"}, 6: {"train/loss", "val/loss"}}
    assert all(float(value) > 0 for _, values in bars[0].postfixes for value in values.values())


def test_a_disabled_bar_is_silent(dit_contract: Contract, tmp_path: Path, bars: list[_Bar]) -> None:
    """Catches one bar for each rank on the same screen."""
    bar = StepProgress()
    bar.disable()
    bar.on_train_start(L.Trainer(max_steps=3, logger=False, accelerator="cpu"), DiffusionBlock(dit_contract, 0))
    bar.enable()
    bar.on_train_start(L.Trainer(max_steps=3, logger=False, accelerator="cpu"), DiffusionBlock(dit_contract, 0))
    assert [made.disable for made in bars] == [True, False]


class _Stop(L.Callback):
    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == 2:
            raise RuntimeError("stop")


def test_an_error_closes_the_bar(dit_contract: Contract, tmp_path: Path, bars: list[_Bar]) -> None:
    """Catches a message that continues the line of the bar."""
    with pytest.raises(RuntimeError, match="stop"):
        _train(dit_contract, tmp_path, 6, False, 1, _Stop())
    assert (bars[0].n, bars[0].closed) == (2, 1)


class _Clock(L.Callback):
    """A clock that a training batch advances by 0.5 s and a validation by 100 s."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.validations = 1000.0, 0
        monkeypatch.setattr(progress.time, "perf_counter", lambda: self.now)

    def on_train_batch_start(self, *_: Any) -> None:
        self.now += 0.5

    def on_validation_start(self, *_: Any) -> None:
        self.now += 100
        self.validations += 1


@pytest.mark.parametrize("accumulate", [1, 2])
def test_throughput_is_samples_and_steps_per_second_of_training(
    dit_contract: Contract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accumulate: int
) -> None:
    """Catches batches counted as steps, the time of validation, and an average since the start."""
    part = DiffusionBlock(dit_contract, 0, recipe(accumulate=accumulate))
    logged: list[tuple[int, str, float]] = []
    monkeypatch.setattr(part, "log", lambda name, value, **_: logged.append((part.global_step, name, float(value))))
    clock = _Clock(monkeypatch)
    fit(part, tmp_path, 7, callbacks=[Throughput(), clock], log_every_n_steps=2)
    speeds = [entry for entry in logged if entry[1].endswith("per_second")]
    # Batches of 8 samples take 0.5 s each.
    assert speeds == [
        (step, name, speed)
        for step in (2, 4, 6)
        for name, speed in (("train/samples_per_second", 16.0), ("train/steps_per_second", 2.0 / accumulate))
    ]
    assert clock.validations >= 2


def test_an_evaluation_has_a_bar_of_its_batches(
    dit_contract: Contract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a bar that is left open while other callbacks measure, and one that counts something else."""
    made: list[Any] = []

    class Bar:
        def __init__(self, *, total: int, desc: str, disable: bool, **options: Any) -> None:
            self.total, self.desc, self.disable, self.n, self.closed = total, desc, disable, 0, False
            made.append(self)

        def update(self, number: int) -> None:
            self.n += number

        def close(self) -> None:
            self.closed = True

    class Later(L.Callback):
        def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            assert made[-1].closed

    class Module(L.LightningModule):
        def test_step(self, batch: Any, batch_idx: int) -> None: ...

        def validation_step(self, batch: Any, batch_idx: int) -> None: ...

    monkeypatch.setattr(progress, "tqdm", Bar)
    callbacks = [EvaluationProgress(), Later()]
    quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    trainer = L.Trainer(accelerator="cpu", callbacks=callbacks, default_root_dir=tmp_path, **quiet)  # type: ignore[arg-type]
    batches = DataLoader(range(7), batch_size=2)  # type: ignore[arg-type,var-annotated]
    trainer.test(Module(), batches, verbose=False)
    trainer.validate(Module(), batches, verbose=False)
    assert [(bar.desc, bar.total, bar.n, bar.disable, bar.closed) for bar in made] == [
        ("test", 4, 4, False, True),
        ("validation", 4, 4, False, True),
    ]
