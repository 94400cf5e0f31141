"""One block on two processes: `ddp`, where each holds the whole block, and `fsdp2`, where each holds half of it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy
from torch import Tensor
from toy import Stripes, assert_equal_states, checkpoint, fit, recipe

from dbl.run.assembly import read_part
from dbl.run.contract import Contract
from dbl.training.block import DiffusionBlock
from dbl.training.distributed import ShardedStrategy, check_strategy, shard
from dbl.training.noisy_data import NoisyData
from dbl.utils.errors import UserError

SCRIPT = Path(__file__).with_name("distributed_runs.py")
STATE = ("state_dict", "current_model_state", "averaging_state", "lr_schedulers", "global_step", "dbl")
STRATEGIES = ("ddp", "fsdp2")


@pytest.fixture(scope="module")
def runs(dit_contract: Contract, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `distributed_runs.py` filled; its trainings go on from a checkpoint of one process."""
    folder = tmp_path_factory.mktemp("runs")
    fit(DiffusionBlock(dit_contract, 1, recipe()), folder / "one", steps=2)
    for strategy in STRATEGIES:
        shutil.copytree(folder / "one", folder / f"{strategy}_from_one")
    paths = os.pathsep.join([str(SCRIPT.parent.parent), *filter(None, sys.path)])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, SCRIPT, folder], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return folder


def seen(runs: Path, name: str) -> list[dict[str, Any]]:
    """What each of the two ranks saw."""
    return [torch.load(runs / f"{name}.rank{rank}.pt", weights_only=True) for rank in range(2)]


def state(runs: Path, name: str) -> dict[str, Any]:
    """What a checkpoint says of weights and progress, and the optimizer's state of each parameter."""
    stored: Any = checkpoint(runs / name, "block_1")
    optimizer = {"optimizer": stored["optimizer_states"][0]["state"]}
    return {key: dict(stored[key]) if isinstance(stored[key], dict) else stored[key] for key in STATE} | optimizer


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_both_ranks_end_with_the_same_weights(strategy: str, runs: Path) -> None:
    """Catches gradients that are not exchanged: each rank would go its own way, and rank 0's would be kept."""
    first, second = seen(runs, f"{strategy}_whole")
    assert_equal_states(first["weights"], second["weights"])
    stored = state(runs, f"{strategy}_whole")["current_model_state"]
    assert all(torch.equal(value, stored[name]) for name, value in first["weights"].items())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_ranks_draw_different_noise_for_different_samples(strategy: str, runs: Path) -> None:
    """Catches ranks that train on the same noise, or that read the same part of an epoch."""
    first, second = (view["batches"] for view in seen(runs, f"{strategy}_whole"))
    for one, two in zip(first, second, strict=True):
        assert not torch.isclose(one["noise"], two["noise"]).any(dim=(1, 2, 3)).all()
        assert not torch.isclose(one["sigma"], two["sigma"]).any()
    epoch = torch.cat([batch["clean"] for batch in (*first[:3], *second[:3])]).flatten(1)
    assert len(epoch) == 48  # all training samples, so each of them once
    assert len(epoch.unique(dim=0)) == 48


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_killed_training_resumes_bit_for_bit(strategy: str, runs: Path) -> None:
    """Catches draws, averages or shards that are lost with the processes; so two runs are equal, too."""
    assert seen(runs, f"{strategy}_resumed")[0]["metrics"]["step"] == 6
    assert_equal_states(state(runs, f"{strategy}_whole"), state(runs, f"{strategy}_resumed"))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_adapters_are_trained_and_resumed_on_two_processes(strategy: str, runs: Path, dit_contract: Contract) -> None:
    """Catches frozen shards that move or are lost, and a resume that asks for the weights of the start again."""
    pytest.importorskip("peft")
    assert_equal_states(state(runs, f"{strategy}_adapted_whole"), state(runs, f"{strategy}_adapted_resumed"))
    assert seen(runs, f"{strategy}_adapted_resumed")[0]["metrics"]["step"] == 6
    weights = state(runs, f"{strategy}_adapted_whole")["current_model_state"]
    for name, tensor in dit_contract.denoiser(0).state_dict().items():
        places = {f"denoiser.{name}", f"denoiser.{name.removesuffix('.weight')}.base_layer.weight"}
        places.add(f"denoiser.{name.removesuffix('.bias')}.base_layer.bias")
        (place,) = places & weights.keys()
        assert torch.equal(weights[place], tensor), name


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_samples_of_all_ranks_are_counted(strategy: str, runs: Path) -> None:
    """Catches a compute report that counts one rank only."""
    stamp = state(runs, f"{strategy}_whole")["dbl"]
    assert (stamp["batches_seen"], stamp["samples"]) == (6, 6 * 8 * 2)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_gradients_are_means_over_ranks_and_accumulated_batches(
    strategy: str, dit_contract: Contract, runs: Path
) -> None:
    """Catches gradients that bypass the exchange of a batch, sums in place of means, and ranks with equal dropout."""
    block = DiffusionBlock(dit_contract, 1, recipe())
    for rank in range(2):
        for position in range(2):
            batch = _batch_of_rank(block, rank, position)
            block.batches_seen = position
            block.on_train_batch_start(batch, 0)
            (block.losses(batch).per_sample.mean() / 4).backward()
    for view in seen(runs, f"{strategy}_accumulated"):
        for name, parameter in block.named_parameters():
            torch.testing.assert_close(view["gradients"][name], parameter.grad, rtol=1e-4, atol=1e-7)


def _batch_of_rank(block: DiffusionBlock, rank: int, position: int) -> Any:
    class Stage:
        global_rank, world_size, training = rank, 2, True

    data = NoisyData(Stripes(), block)
    data.bind(block.stream, lambda: 0)
    data.trainer = data.data.trainer = block.trainer = Stage()  # type: ignore[assignment]
    return data.on_after_batch_transfer(list(data.train_dataloader())[position], 0)


def test_sharded_training_gives_the_result_of_whole_copies(runs: Path) -> None:
    """Catches clipping by the norm of a shard, an average of the wrong shards, and dropout that is drawn anew."""
    for name in ("whole", "accumulated", "from_one"):
        ddp, fsdp2 = state(runs, f"ddp_{name}"), state(runs, f"fsdp2_{name}")
        for key in ("state_dict", "current_model_state", "averaging_state", "optimizer"):
            torch.testing.assert_close(ddp[key], fsdp2[key], rtol=0, atol=1e-5)
    for one, two in zip(seen(runs, "ddp_whole"), seen(runs, "fsdp2_whole"), strict=True):
        assert one["metrics"] == pytest.approx(two["metrics"], abs=1e-5)


@pytest.mark.parametrize("kind", ["two", "masked"])
def test_logits_are_made_in_chunks_on_every_rank(kind: str, runs: Path) -> None:
    """Catches a recomputation that finds weights sharded, and gradients that are exchanged too early."""
    whole, *others = (
        checkpoint(runs / f"{name}", "block_1")["current_model_state"]
        for name in (f"ddp_{kind}_None", f"ddp_{kind}_10", f"fsdp2_{kind}_10")
    )
    for other in others:
        torch.testing.assert_close(other, whole, rtol=1e-4, atol=1e-6)


def test_a_rank_holds_its_share_of_the_weights(runs: Path) -> None:
    """Catches a sharded strategy that silently keeps the whole block on every device."""
    whole = seen(runs, "ddp_whole")[0]["held"]
    shares = [view["held"] for view in seen(runs, "fsdp2_whole")]
    assert sum(shares) == whole
    assert max(shares) < 0.6 * whole


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_checkpoint_of_two_processes_is_read_and_goes_on_in_one(
    strategy: str, dit_contract: Contract, runs: Path, tmp_path: Path
) -> None:
    """Catches shards or missing optimizer state in the file, which nothing could assemble or resume elsewhere."""
    shutil.copytree(runs / f"{strategy}_whole", tmp_path, dirs_exist_ok=True)
    path = tmp_path / "block_1" / "checkpoints" / "last.ckpt"
    before = {weights: read_part(path, "block_1", dit_contract, "denoiser.", weights) for weights in ("ema", "live")}  # type: ignore[arg-type]
    for part in before.values():
        dit_contract.denoiser(1).load_state_dict(part.weights)  # strict: every name and shape
    fit(DiffusionBlock(dit_contract, 1, recipe()), tmp_path, steps=8, resume=True)
    after = read_part(path, "block_1", dit_contract, "denoiser.", "live")
    assert (after.step, after.samples) == (8, 6 * 8 * 2 + 2 * 8)
    # Two steps that start anywhere but at the stored weights and optimizer state move weights much further.
    moved = max((after.weights[name] - value).abs().max().item() for name, value in before["live"].weights.items())
    assert 0 < moved < 2.5e-2


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_checkpoint_of_one_process_goes_on_in_two(strategy: str, runs: Path) -> None:
    """Catches a resume that takes the average for the live weights, or leaves the second rank behind."""
    stamp = state(runs, f"{strategy}_from_one")["dbl"]
    assert (stamp["batches_seen"], stamp["samples"]) == (6, 2 * 8 + 4 * 8 * 2)
    first, second = seen(runs, f"{strategy}_from_one")
    assert len(first["batches"]) == 4
    assert_equal_states(first["weights"], second["weights"])


def test_a_fault_of_one_rank_stops_all_with_the_same_line(runs: Path) -> None:
    """Catches a rank that waits for ever for the one that stopped, and a checkpoint that a NaN has reached."""
    lines = {view["error"] for view in seen(runs, "nan")}
    assert len(lines) == 1
    line = lines.pop()
    assert line.startswith("block_1 stopped at step 3: loss is nan on rank 1 at noise levels ")
    assert "(step 2)" in line
    stored = state(runs, "nan")
    assert stored["global_step"] == 2
    assert all(value.isfinite().all() for value in stored["current_model_state"].values())


def test_a_signal_to_one_rank_stops_all_at_the_same_step(runs: Path) -> None:
    """Catches a rank that stops alone while the others wait for its gradients."""
    lines = {view["error"] for view in seen(runs, "signal")}
    assert len(lines) == 1
    assert lines.pop().startswith("block_1 stopped at step 5 of 6 and was saved")
    assert state(runs, "signal")["global_step"] == 5


def test_a_step_exchanges_one_number_beside_gradients(runs: Path) -> None:
    """Catches an exchange for the loss and one for signals, and Lightning's, for which every rank waits."""
    for view in seen(runs, "exchanges"):
        counts = view["exchanges"]  # up to the end of each step; in this one nothing is saved and no epoch begins
        assert counts[1] - counts[0] == 1


def test_validation_is_the_same_on_any_number_of_ranks(dit_contract: Contract) -> None:
    """Catches validation noise that depends on how samples are spread over batches and ranks."""
    block = DiffusionBlock(dit_contract, 0)

    def noisy(rank: int, world: int, eval_batch_size: int) -> dict[int, Tensor]:
        class Stage:
            global_rank, world_size, training = rank, world, False

        data = NoisyData(Stripes(eval_batch_size=eval_batch_size), block)
        data.trainer = data.data.trainer = Stage()  # type: ignore[assignment]
        batches = [(batch["index"], data.on_after_batch_transfer(batch, 0)) for batch in data.val_dataloader()]
        return {i: row for index, batch in batches for i, row in zip(index.tolist(), batch.noisy, strict=True)}

    together, apart = noisy(0, 1, 7), noisy(0, 2, 3) | noisy(1, 2, 3)
    assert together.keys() == apart.keys()
    assert all(torch.equal(row, apart[index]) for index, row in together.items())


def test_strategies_that_would_go_wrong_are_refused() -> None:
    """Catches FSDP of the first kind, whose flat parameters the average and the checkpoint do not know."""
    for strategy in ("auto", "ddp", "ddp_spawn", "fsdp2", DDPStrategy(), ShardedStrategy()):
        check_strategy(strategy)
    for strategy in ("fsdp", "deepspeed_stage_2", FSDPStrategy()):
        with pytest.raises(UserError, match="use ddp, or fsdp2"):
            check_strategy(strategy)
    with pytest.raises(UserError, match="for training only"):
        check_strategy("fsdp2", training=False)


def test_an_unsupported_strategy_stops_a_training_before_its_first_step(dit_contract: Contract) -> None:
    """Catches a check that nothing calls."""
    block = DiffusionBlock(dit_contract, 0, recipe())
    block.trainer = L.Trainer(max_steps=1, accelerator="cpu", logger=False)
    block.trainer._accelerator_connector.strategy = FSDPStrategy()
    with pytest.raises(UserError, match="FSDPStrategy"):
        block.setup("fit")


def test_what_cannot_be_split_or_resumed_is_named() -> None:
    """Catches an error of PyTorch's after hours, when the first checkpoint is resumed."""
    module = torch.nn.Linear(2, 2)
    module.temperature = torch.nn.Parameter(torch.tensor(1.0))
    with pytest.raises(UserError, match="temperature, a single number"):
        shard(module, (), None, "forward")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="momentum"):
        ShardedStrategy().optimizer_state(torch.optim.SGD(module.parameters(), lr=1.0))
