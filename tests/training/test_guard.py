"""`dbl fit` on files that are damaged, locked, finished or without room: nothing is lost, and one line says why."""

import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger
from tiny_run import TINY

from dbl.commands.main import main
from dbl.run.folder import RunFolder
from dbl.training.callbacks.checkpoint import LastCheckpoint
from dbl.utils.errors import DblWarning
from dbl.utils.files import read_checkpoint
from dbl.utils.locks import Lock

RUN = RunFolder("digits_dit", "runs")
FILES = RUN.checkpoints("block_0")


@pytest.fixture
def fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    """Run `dbl fit` on the first block of the digits, so small that it takes a second."""
    config = Path(__file__).parents[2] / "configs" / "digits_dit.yaml"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["dbl"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", DblWarning)
        yield lambda *options: main(["fit", "--config", str(config), *TINY, *options])


def _contents() -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(RUN.path.rglob("*")) if path.is_file()}


def _status() -> dict[str, Any]:
    status: dict[str, Any] = json.loads(RUN.status("block_0").read_text())
    return status


def test_a_damaged_checkpoint_gives_way_to_the_one_before(fit: Callable[..., int]) -> None:
    """Catches a resume that stops, or that falls back without a word; the result must be that of no damage."""
    assert fit() == 0
    expected = read_checkpoint(FILES.last)
    os.truncate(FILES.last, FILES.last.stat().st_size // 2)
    message = r"block_0/checkpoints/last.ckpt is damaged .*: training goes on from \S+previous.ckpt \(step 2\)"
    with pytest.warns(DblWarning, match=message):
        assert fit() == 0
    resumed = read_checkpoint(FILES.last)
    assert resumed["global_step"] == 4
    for name, tensor in expected["state_dict"].items():
        assert tensor.equal(resumed["state_dict"][name])
    assert read_checkpoint(FILES.previous)["global_step"] == 2


def test_two_damaged_checkpoints_are_refused_and_trained_anew_if_asked(
    fit: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a finished block that is trained again unasked, a file that is overwritten, a remedy that is none."""
    assert fit() == 0
    for path in (FILES.last, FILES.previous):
        path.write_bytes(path.read_bytes()[:-100])
    before = {path: content for path, content in _contents().items() if path.name != "status.json"}
    assert fit() == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "last.ckpt is damaged" in line
    assert "--from_scratch" in line
    assert {path: content for path, content in _contents().items() if path.name != "status.json"} == before
    assert (_status()["state"], _status()["message"]) == ("failed", line.removeprefix("dbl: "))
    assert fit("--from_scratch") == 0
    assert read_checkpoint(FILES.last)["global_step"] == 4


def test_from_scratch_keeps_what_was_trained(fit: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a finished block that is gone as soon as a new training begins, and a fallback to the old training."""
    assert fit() == 0
    old = FILES.last.read_bytes()
    assert fit("--from_scratch", "--trainer.max_steps=2", "--model.recipe.optimizer.lr=0.01") == 0
    assert "block_0/checkpoints/replaced.ckpt keeps what was trained" in capsys.readouterr().out
    assert FILES.replaced.read_bytes() == old
    assert read_checkpoint(FILES.last)["global_step"] == 2
    assert not FILES.previous.exists()


def test_a_chosen_checkpoint_is_continued_and_the_last_one_kept(fit: Callable[..., int]) -> None:
    """Catches a --ckpt_path that overwrites what another training reached."""
    assert fit() == 0
    old = FILES.last.read_bytes()
    chosen = Path("chosen.ckpt")
    chosen.write_bytes(FILES.previous.read_bytes())
    assert fit("--ckpt_path=chosen.ckpt", "--trainer.max_steps=3") == 0
    assert read_checkpoint(FILES.last)["global_step"] == 3
    assert FILES.replaced.read_bytes() == old


@pytest.mark.parametrize("chosen", [True, False], ids=["ckpt_path", "last.ckpt"])
@pytest.mark.parametrize(
    "option", ["--contract.seed=1", "--model.block=1"], ids=["of another contract", "of another block"]
)
def test_a_finished_checkpoint_from_elsewhere_is_not_taken_for_this_part(
    option: str, chosen: bool, fit: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches "is trained already" about a part that was never trained: what it belongs to comes before its step."""
    assert fit("--run.name=other", option) == 0
    theirs = next(Path("runs/other").rglob("last.ckpt"))
    if not chosen:
        assert fit("--trainer.max_steps=2") == 0
        FILES.last.write_bytes(theirs.read_bytes())
    capsys.readouterr()
    assert fit(*([f"--ckpt_path={theirs}"] if chosen else [])) == 2
    printed = capsys.readouterr()
    assert "trained already" not in printed.out
    part = "block_1" if "block" in option else "block_0"
    path = theirs if chosen else FILES.last
    assert f"dbl: {path} is of {part} with contract " in printed.err
    assert ", not of block_0 with contract " in printed.err


def test_a_part_that_is_being_trained_is_left_alone(
    fit: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches two trainings of one block that write into each other's files."""
    with Lock(RUN.lock("block_0"), "block_0").acquire():
        before = _contents()
        assert fit() == 2
        assert f"runs/digits_dit/block_0 is being trained by process {os.getpid()}" in capsys.readouterr().err
        assert {path: _contents()[path] for path in before} == before
        assert set(_contents()) == set(before)
    assert fit() == 0
    assert not list(RUN.path.rglob("lock*"))


def test_the_waiting_time_for_a_lock_is_checked(
    fit: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches an environment variable that is read nowhere, and a traceback from a misspelt one."""
    for text in ("soon", "-1"):
        monkeypatch.setenv("DBL_LOCK_WAIT_S", text)
        assert fit() == 2
        assert f"DBL_LOCK_WAIT_S={text} in the environment" in capsys.readouterr().err
    assert not RUN.path.exists()


def test_a_finished_part_says_so_in_its_status(fit: Callable[..., int]) -> None:
    """Catches a launcher that waits for a block which was trained by an earlier call."""
    assert fit() == 0
    done = _status()
    assert (done["state"], done["step"], done["max_steps"]) == ("done", 4, 4)
    RUN.status("block_0").unlink()
    assert fit() == 0
    again = _status()
    assert (again["state"], again["step"], again["max_steps"], again["part"]) == ("done", 4, 4, "block_0")
    assert again["updated"] > done["updated"]


def _full(*_: Any) -> None:
    raise OSError(28, "No space left on device", "metrics.csv")


def test_a_log_that_cannot_be_written_is_one_line(
    fit: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a traceback when the disk is full for the logs before it is full for a checkpoint."""
    monkeypatch.setattr(CSVLogger, "save", _full)
    assert fit() == 2
    assert "metrics.csv could not be written (No space left on device)" in capsys.readouterr().err


def test_a_log_that_cannot_be_closed_hides_no_other_error(
    fit: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a message about a log instead of the one that names the saved step: both fail on a full disk."""

    def fill(self: LastCheckpoint, *_: Any) -> None:
        monkeypatch.setattr(CSVLogger, "save", _full)
        monkeypatch.setattr("torch.save", _full)

    monkeypatch.setattr(LastCheckpoint, "on_train_epoch_start", fill, raising=False)
    assert fit() == 2
    err = capsys.readouterr().err
    assert "last.ckpt could not be written at step 2 (No space left on device); nothing is saved yet" in err
    assert _status()["state"] == "failed"
