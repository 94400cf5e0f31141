"""Workers that are killed, again and again, end with the weights of one that was left alone."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from faults.killed_worker import PLACES, Kill, fit
from tiny_run import TINY
from toy import assert_equal_states

from dbl.commands.launch.forked import can_fork
from dbl.commands.run_config import RunConfig, write_config
from dbl.commands.schema import config_parser

CONFIG = Path(__file__).parents[2] / "configs" / "digits_vit.yaml"
ARGUMENTS = ["--config", str(CONFIG), *TINY, "--trainer.max_steps=40", "--trainer.val_check_interval=20"]
SEEDS = range(10)


def _run(folder: Path, kill: Kill | None) -> int:
    """The exit code of a worker in a process of its own; negative if a signal ended it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["faults.killed_worker", "dbl.commands.fit", "dbl.data"])
    worker = context.Process(target=fit, args=(folder, ARGUMENTS, kill))
    worker.start()
    worker.join(120)
    assert worker.exitcode is not None
    return worker.exitcode


def _checkpoint(folder: Path) -> dict[str, object]:
    path = folder / "runs" / "digits_vit" / "block_0" / "checkpoints" / "last.ckpt"
    stored: dict[str, object] = torch.load(path, weights_only=True)
    return stored


def test_ten_kills_change_no_weight(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a step that is lost or done twice, a half checkpoint that is believed, and a lock that stays."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    assert _run(whole, None) == 0
    kills = [Kill.from_seed(seed) for seed in SEEDS]
    assert {kill.place for kill in kills} == set(PLACES)
    for seed, kill in zip(SEEDS, kills, strict=True):
        code = _run(killed, kill)
        with capsys.disabled():
            print(f"\nseed {seed}: {kill}: exit code {code}", end="")
        assert code in (-signal.SIGKILL, 0)  # 0 if it came to its end before the kill
    assert _run(killed, None) == 0
    for key in ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers", "global_step", "dbl"):
        assert_equal_states(_checkpoint(whole)[key], _checkpoint(killed)[key])  # type: ignore[index]


_STARTED = "start_process(job, {'OMP_NUM_THREADS': '1'})"
_FORKED = "server = ForkServer(job, {'OMP_NUM_THREADS': '1'}); worker = server.start(job, {})"


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(_STARTED, id="started"),
        pytest.param(_FORKED, id="forked", marks=pytest.mark.skipif(not can_fork(), reason="no process can be forked")),
    ],
)
def test_a_worker_stops_with_its_launcher(start: str, tmp_path: Path) -> None:
    """Catches a worker that goes on unseen when its launcher was killed, and keeps the next one from its block."""
    launcher = tmp_path / "launcher.py"
    launcher.write_text(
        "import sys, time\n"
        "from pathlib import Path\n"
        "from dbl.commands.launch.forked import ForkServer\n"
        "from dbl.commands.launch.job import Job, start_process\n"
        "job = Job(Path(sys.argv[1]), 0, False, Path.cwd())\n"
        f"{start}\n"
        "time.sleep(600)\n"
    )
    run = tmp_path / "runs" / "digits_vit"
    _write_config(tmp_path, run)
    status = run / "block_0" / "status.json"
    with subprocess.Popen([sys.executable, launcher, run], cwd=tmp_path) as process:
        _wait_until(lambda: status.exists() and json.loads(status.read_text())["step"] > 0, 120)
        worker = json.loads(status.read_text())["pid"]
        process.kill()
    _wait_until(lambda: not _lives(worker), 60)
    assert "stopped at step" in (run / "block_0" / "train.log").read_text()
    assert (run / "block_0" / "checkpoints" / "last.ckpt").exists()


def _write_config(folder: Path, run: Path) -> None:
    """What a launcher finds in a run folder: the resolved config of a training that would take hours."""
    arguments = [*ARGUMENTS, "--trainer.max_steps=1000000", f"--run.root={folder / 'runs'}"]
    write_config(run / "config.yaml", RunConfig(config_parser().parse_args(arguments)).plain())


def _wait_until(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.2)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
