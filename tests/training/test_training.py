"""Manual optimization: steps, schedule, accumulation, clipping, averages, and losses that are not finite."""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from toy import Stripes, checkpoint, fit, recipe

from dbl.run.contract import Contract
from dbl.training.block import DiffusionBlock, NoisyBatch
from dbl.training.callbacks.ema import _Average
from dbl.training.callbacks.loss_by_level import LossByLevel
from dbl.training.config import TrainingConfig
from dbl.training.loggers import part_loggers
from dbl.training.noisy_data import NoisyData
from dbl.utils.errors import UserError


class Record(L.Callback):
    """Keep what a training step saw and logged."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.metrics: dict[str, float] = {}
        self.sigmas: list[torch.Tensor] = []
        self.losses: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any) -> None:
        self.metrics |= {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.rates.append(self.metrics.get("train/learning_rate", 0.0))
        self.sigmas.append(outputs["sigma"])
        self.losses.append(outputs["per_sample"])


def test_global_step_counts_optimizer_steps(dit_contract: Contract, tmp_path: Path) -> None:
    """Catches a raw optimizer step (global_step stays 0) and an accumulation that counts batches as steps."""
    block = DiffusionBlock(dit_contract, 0, recipe(accumulate=3))
    trainer = fit(block, tmp_path, steps=4)
    assert trainer.global_step == 4
    assert block.batches_seen == 12


def test_the_learning_rate_follows_warm_up_and_cosine(dit_contract: Contract, tmp_path: Path) -> None:
    """Catches a schedule that is never stepped under manual optimization, or stepped twice."""
    seen = Record()
    fit(DiffusionBlock(dit_contract, 0, recipe(warmup_steps=3)), tmp_path, steps=8, callbacks=[seen])
    warm = [1e-2 * (step + 1) / 4 for step in range(3)]
    cosine = [1e-2 * 0.5 * (1 + math.cos(math.pi * step / 5)) for step in range(5)]
    assert seen.rates == pytest.approx(warm + cosine)


def test_constant_decay_stays() -> None:
    """Catches a cosine that is applied whatever the recipe says."""
    assert [TrainingConfig(decay="constant", warmup_steps=1).learning_rate_factor(step, 10) for step in range(4)] == [
        0.5,
        1,
        1,
        1,
    ]


def test_accumulation_equals_one_large_batch(dit_contract: Contract) -> None:
    """Catches gradients that are summed where they should be averaged, or cleared between the batches."""
    data = NoisyBatches(dit_contract)
    whole, parts = (DiffusionBlock(dit_contract, 0) for _ in range(2))
    batches = [data.batch(position) for position in range(3)]
    whole.eval(), parts.eval()
    torch.cat([whole.losses(batch).per_sample for batch in batches]).mean().backward()
    for batch in batches:
        (parts.losses(batch).per_sample.mean() / 3).backward()
    for one, two in zip(whole.denoiser.parameters(), parts.denoiser.parameters(), strict=True):
        if one.grad is not None:
            assert two.grad is not None
            torch.testing.assert_close(one.grad, two.grad)


class NoisyBatches:
    """Batches of the noise wrapper without a training."""

    def __init__(self, contract: Contract, block: int = 0, training: bool = True, rank: int = 0) -> None:
        class Stage:
            global_rank = rank

        self.block = DiffusionBlock(contract, block)
        self.data = NoisyData(Stripes(), self.block)
        self.data.trainer = Stage()  # type: ignore[assignment]
        self.data.trainer.training = training  # type: ignore[union-attr]
        self.clean = list(self.data.train_dataloader())

    def batch(self, position: int) -> NoisyBatch:
        return self.data.on_after_batch_transfer(self.clean[position], 0)


def test_noise_is_a_function_of_block_position_and_rank(dit_contract: Contract) -> None:
    """Catches ranks or blocks that draw the same noise, and noise that depends on what was drawn before."""
    first = NoisyBatches(dit_contract).batch(4)
    torch.manual_seed(5)
    again = NoisyBatches(dit_contract)
    again.batch(1)
    assert torch.equal(first.noisy, again.batch(4).noisy)
    assert not torch.equal(first.sigma, NoisyBatches(dit_contract, rank=1).batch(4).sigma)
    assert not torch.equal(first.sigma, again.batch(3).sigma)


def test_noisy_is_clean_plus_sigma_times_unit_noise(dit_contract: Contract) -> None:
    """Catches noise that is scaled twice, or levels that are matched with other samples."""
    batch = NoisyBatches(dit_contract, block=1).batch(0)
    unit = (batch.noisy - batch.clean.clean) / batch.sigma.reshape(-1, 1, 1, 1)
    assert unit.std().item() == pytest.approx(1, abs=0.15)
    assert unit.mean().item() == pytest.approx(0, abs=0.15)


@pytest.mark.parametrize("block", [0, 1, 2])
def test_levels_lie_in_the_training_interval(block: int, dit_contract: Contract) -> None:
    """Catches a block that trains on the levels of another, or that forgets the overlap."""
    data = NoisyBatches(dit_contract, block)
    sigma = torch.cat([data.batch(position).sigma for position in range(6)]).double()
    low, high = dit_contract.partition.training_interval(block)
    assert low * (1 - 1e-6) <= sigma.min()
    assert sigma.max() <= high * (1 + 1e-6)
    inner = dit_contract.partition.interval(block)
    assert ((sigma < inner.low) | (sigma > inner.high)).any()


def test_validation_draws_are_fixed(dit_contract: Contract) -> None:
    """Catches a validation loss that moves because its noise does."""
    data = NoisyBatches(dit_contract, training=False)
    assert torch.equal(data.batch(2).noisy, data.batch(2).noisy)


def test_ema_is_the_recursive_average_and_goes_on_after_a_resume() -> None:
    """Catches an average that never moves, whose warm-up keeps the first weights, or that begins again."""

    def module(value: float) -> torch.nn.Linear:
        layer = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.constant_(layer.weight, value)
        return layer

    average, current = _Average(0.5, module(3.0), None), module(1.0)
    average.update_parameters(current)
    assert average.module.weight.item() == 1  # the start is no part of the average
    torch.nn.init.zeros_(current.weight)
    average.update_parameters(current)
    assert average.module.weight.item() == pytest.approx(2 / 11)
    resumed = _Average(0.5, module(9.0), None)
    resumed.load_state_dict({**average.state_dict(), "n_averaged": torch.tensor(30)})
    resumed.update_parameters(module(1.0))
    assert resumed.module.weight.item() == pytest.approx(0.5 * (2 / 11) + 0.5)
    assert resumed.n_averaged == 31


def test_a_checkpoint_holds_average_and_live_weights(dit_contract: Contract, tmp_path: Path) -> None:
    """Catches a last checkpoint in which the average has overwritten the live weights."""
    fit(DiffusionBlock(dit_contract, 0, recipe()), tmp_path)
    stored: Any = checkpoint(tmp_path, "block_0")
    key = "denoiser.network.patches.project.weight"
    assert not torch.equal(stored["state_dict"][key], stored["current_model_state"][key])


def test_clipping_bounds_the_step(dit_contract: Contract, tmp_path: Path) -> None:
    """Catches a clip_norm that is read nowhere: plain gradient descent with a tiny norm hardly moves."""
    moved = {}
    for clip in (1e-4, None):
        train = TrainingConfig(optimizer=lambda p: torch.optim.SGD(p, lr=1.0), decay="constant", clip_norm=clip)
        block = DiffusionBlock(dit_contract, 0, train)
        start = [parameter.detach().clone() for parameter in block.denoiser.parameters()]
        fit(block, tmp_path / str(clip), steps=1)
        live: Any = checkpoint(tmp_path / str(clip), "block_0")["current_model_state"]
        ends = [live[f"denoiser.{name}"] for name, _ in block.denoiser.named_parameters()]
        moved[clip] = math.sqrt(sum((a - b).square().sum().item() for a, b in zip(start, ends, strict=True)))
    assert moved[1e-4] == pytest.approx(1e-4, rel=1e-3)
    assert moved[None] > 1e-2


@pytest.mark.parametrize("log_every_n_steps", [1, 50])
def test_a_loss_that_is_not_finite_stops_before_anything_is_written(
    dit_contract: Contract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log_every_n_steps: int
) -> None:
    """Catches a training that goes on or is saved with NaN weights, or a message without step, levels, checkpoint."""
    block = DiffusionBlock(dit_contract, 1, recipe())
    compute = block.denoiser.loss
    monkeypatch.setattr(
        block.denoiser, "loss", lambda *batch: compute(*batch) * (math.nan if block.batches_seen == 4 else 1)
    )
    with pytest.raises(UserError, match=r"block_1 stopped at step 4: loss is nan at noise levels .* \(step 4\)"):
        fit(block, tmp_path, log_every_n_steps=log_every_n_steps)
    stored = checkpoint(tmp_path, "block_1")
    assert stored["global_step"] == 4
    for key in ("state_dict", "current_model_state"):
        assert all(weight.isfinite().all() for weight in stored[key].values())  # type: ignore[attr-defined]


def test_loss_by_level_averages_the_losses_of_each_bin(dit_contract: Contract, tmp_path: Path) -> None:
    """Catches bins that do not cover the interval or that mix up losses."""
    seen = Record()
    block = DiffusionBlock(dit_contract, 1, recipe())
    by_level = LossByLevel(3)
    fit(block, tmp_path, steps=1, callbacks=[by_level, seen], log_every_n_steps=1)
    binned = {name: value for name, value in seen.metrics.items() if name.startswith("train/loss_by_level/")}
    assert list(binned) == [f"train/loss_by_level/bin_{number}" for number in range(3)]
    assert (by_level.edges[-1], by_level.edges[0]) == pytest.approx(block.interval)
    losses = seen.losses[0]
    for (high, low), value in zip(pairwise(by_level.edges), binned.values(), strict=True):  # the highest noise first
        inside = (seen.sigmas[0] > low) & (seen.sigmas[0] <= high)
        assert value == pytest.approx(float(losses[inside].mean()), rel=1e-5)


def test_bf16_trains_and_keeps_float32_weights(dit_contract: Contract, tmp_path: Path) -> None:
    """Catches preconditioning in bfloat16, or a precision option that breaks the step."""
    trainer = fit(DiffusionBlock(dit_contract, 0, recipe()), tmp_path, precision="bf16-mixed")
    stored: Any = checkpoint(tmp_path, "block_0")["state_dict"]
    assert trainer.global_step == 6
    assert all(value.dtype == torch.float32 for value in stored.values())


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-true", "64-true"])
def test_other_precisions_are_refused(precision: str, dit_contract: Contract) -> None:
    """Catches gradients that are clipped while a scaler has them scaled, and weights that do not fit their inputs."""
    block = DiffusionBlock(dit_contract, 0, recipe())
    block.trainer = L.Trainer(max_steps=1, accelerator="cpu", logger=False)
    block.trainer._accelerator_connector.precision_plugin.precision = precision  # type: ignore[assignment]
    with pytest.raises(UserError, match="bf16-mixed"):
        block.on_fit_start()


def test_compile_compiles_what_a_step_calls(
    dit_contract: Contract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches an option that compiles a forward that training never calls."""
    calls = []

    def compile_stand_in(function: Any, *_: Any, **__: Any) -> Any:
        return lambda *arguments: calls.append(1) or function(*arguments)

    monkeypatch.setattr(torch, "compile", compile_stand_in)
    fit(DiffusionBlock(dit_contract, 0, recipe(compile=True)), tmp_path, steps=3, limit_val_batches=0)
    assert len(calls) == 3


def test_an_early_end_is_saved(dit_contract: Contract, tmp_path: Path) -> None:
    """Catches steps that are lost when something other than max_steps ends the training."""

    class Stop(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
            trainer.should_stop = trainer.global_step == 5

    fit(DiffusionBlock(dit_contract, 0, recipe()), tmp_path, steps=12, callbacks=[Stop()])
    assert checkpoint(tmp_path, "block_0")["global_step"] == 5


def test_only_the_first_rank_writes_metrics(tmp_path: Path) -> None:
    """Catches a logger that fails on the other ranks, where Lightning gives it no file."""
    (tmp_path / "metrics.csv").write_text("step,train/loss\n1,0.5\n9,0.4\n")
    part_loggers(tmp_path, step=4, rank=1)
    assert "9,0.4" in (tmp_path / "metrics.csv").read_text()
    part_loggers(tmp_path, step=4, rank=0)
    assert (tmp_path / "metrics.csv").read_text().splitlines()[1:] == ["1,0.5"]
