"""`dbl train` with real trainings in other processes: the same weights as in this one, whatever happens to a worker."""

import gc
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_run import TINY

from dbl.commands.launch.launcher import Launch
from dbl.commands.main import main
from dbl.utils.files import read_tensors
from dbl.utils.locks import Lock

CONFIG = Path(__file__).parents[3] / "configs" / "digits_vit.yaml"
Run = Callable[..., int]


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `dbl train` on a tiny classifier in 3 blocks, one thread each, with its runs under tmp_path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def run(name: str, *options: str) -> int:
        return main(["train", "--config", str(CONFIG), *TINY, f"--run.name={name}", *options])

    yield run  # type: ignore[misc]
    torch.set_num_threads(threads)


def _weights(name: str) -> dict[str, torch.Tensor]:
    return {
        f"{block} {key}": value
        for block in range(3)
        for key, value in read_tensors(Path(f"runs/{name}/model/block_{block}.safetensors")).items()
    }


def _kill_at_step(name: str, step: int) -> None:
    """SIGKILL the worker of block 1 of a run once its status says that it is at a step."""
    status = Path(f"runs/{name}/block_1/status.json")
    while True:
        time.sleep(0.1)
        if status.exists() and (told := json.loads(status.read_text()))["step"] >= step:
            os.kill(told["pid"], signal.SIGKILL)
            return


def test_every_backend_ends_with_the_same_weights(train: Run, capfd: pytest.CaptureFixture[str]) -> None:
    """Catches threads, order, noise or options that reach a worker otherwise than this process, and a kill that shows.

    The worker of block 1 is killed on the way: its failure is named, the others go on, and a second call ends equal.
    """
    steps = ["--trainer.max_steps=150", "--trainer.val_check_interval=150", "--checkpoint.every_n_steps=5"]
    assert train("inline", *steps) == 0
    killer = threading.Thread(target=_kill_at_step, args=("process", 0))
    killer.start()
    assert train("process", "--backend=process", "--workers=2", *steps) == 1
    killer.join()
    told = capfd.readouterr().err
    assert "block_1 ended with exit code -9" in told
    assert "dbl train --config runs/process/config.yaml --blocks 1" in told
    assert not Path("runs/process/model").exists()
    assert train("process", "--backend=process", "--workers=2", *steps) == 0
    assert "block_0 is trained already (150 steps)" in capfd.readouterr().out
    assert train("ray", "--backend=ray", "--workers=2", *steps) == 0
    inline = _weights("inline")
    for name in ("process", "ray"):
        other = _weights(name)
        assert inline.keys() == other.keys()
        assert [key for key in inline if not torch.equal(inline[key], other[key])] == []


def test_the_launcher_holds_no_tensor_while_it_waits(train: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a launcher that keeps the data set, the table or a network in memory beside its workers."""
    held = []

    def look(*_: object) -> None:
        gc.collect()
        tensors = [one for one in gc.get_objects() if isinstance(one, torch.Tensor)]
        held.append(sum(one.numel() for one in tensors) - before)
        raise KeyboardInterrupt

    monkeypatch.setattr(Launch, "train", look)
    gc.collect()
    before = sum(one.numel() for one in gc.get_objects() if isinstance(one, torch.Tensor))
    assert train("waiting", "--backend=process") == 130
    assert held[0] < 100  # metrics and the like of imported modules


def test_a_second_launcher_is_refused(train: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches two launchers that write the config, the model and the report of one run."""
    with Lock(Path("runs/busy/lock"), "it").acquire():
        assert train("busy") == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"is being trained by process {os.getpid()}" in message
    assert not Path("runs/busy/config.yaml").exists()
    assert train("busy", "--blocks=0") == 0


def test_a_failed_block_does_not_stop_the_others_inline(
    train: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches an inline run that ends at the first block that diverges, and an exit code that calls it a success."""
    # Each step multiplies the weights by about -10^6.
    diverges = [f"--model.recipe.optimizer.init_args.{name}=1000" for name in ("lr", "weight_decay")]
    assert train("run", "--blocks=0", *diverges, "--trainer.max_steps=9") == 2
    assert "block_0 stopped at step" in capsys.readouterr().err
    assert train("run", *diverges, "--trainer.max_steps=9") == 2
    told = capsys.readouterr().err
    assert [f"block_{block} ended with exit code 2" in told for block in range(3)] == [True] * 3
    assert train("run", "--from_scratch") == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workers=2"], "add --backend process"),
        (["--backend=process", "--workers=0"], "--workers (0) must be a whole number from 1"),
        (["--trainer.devices=2"], "trainer.devices=2"),
        (["--dry_run"], "--dry_run prints the scripts for Slurm"),
    ],
)
def test_options_that_do_not_fit_together(
    options: list[str], message: str, train: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches an option that is silently ignored."""
    assert train("run", *options) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
    assert not Path("runs").exists()
