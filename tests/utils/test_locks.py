"""Locks: one process at a time, no lock outlives its holder, and who lost one writes no more."""

import json
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from filelock import SoftFileLease
from toy import checkpoint, fit, recipe

import dbl.utils.locks
from dbl.run.contract import Contract
from dbl.training.block import DiffusionBlock
from dbl.training.guard import StopWhenLockLost
from dbl.utils.errors import UserError
from dbl.utils.locks import Lock


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks that are stale after one second."""
    monkeypatch.setattr(dbl.utils.locks, "LEASE_S", 1.0)
    monkeypatch.setattr(dbl.utils.locks, "_REFRESH_S", 0.1)


def _elsewhere(path: Path) -> None:
    """Leave the lock of a process on another machine, which cannot be asked whether it lives."""
    aside = path.with_name("new")
    aside.write_text("filelock/2\npid=7\nhost=elsewhere\nmode=lease\ntoken=theirs\nduration=1.0\n")
    aside.replace(path)


@pytest.fixture
def alive_elsewhere(quick: None, tmp_path: Path) -> Iterator[threading.Event]:
    """A lock of a process on another machine that gives signs of life, until the event is set and it is given back."""
    path, stop = tmp_path / "lock", threading.Event()
    _elsewhere(path)

    def live() -> None:
        while not stop.wait(0.1):
            os.utime(path)
        path.unlink(missing_ok=True)

    thread = threading.Thread(target=live)
    thread.start()
    yield stop
    stop.set()
    thread.join()


def _hold_for_ever(path: Path, ready: Connection) -> None:
    with Lock(path, "block_0").acquire():
        ready.send(True)
        time.sleep(600)


def test_a_second_process_is_told_who_holds_it_and_takes_over_when_that_is_killed(tmp_path: Path) -> None:
    """Catches two trainings of one part, a message that does not name the first, and a lock that outlives a kill."""
    path = tmp_path / "block_0" / "lock"
    ours, theirs = multiprocessing.Pipe()
    holder = multiprocessing.get_context("fork").Process(target=_hold_for_ever, args=(path, theirs))
    holder.start()
    assert ours.poll(60)
    message = (
        rf"^block_0 is being trained by process {holder.pid} on \S+ since 20\S+ \(0 min\): wait for it, or stop it"
    )
    with pytest.raises(UserError, match=message), Lock(path, "block_0").acquire():
        pass
    holder.kill()
    holder.join()
    start = time.monotonic()
    with Lock(path, "block_0").acquire():
        assert time.monotonic() - start < dbl.utils.locks.LEASE_S / 2
        signature = json.loads(path.with_name("lock.json").read_text())
        assert signature["pid"] == os.getpid()
        assert signature["command"]
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("names_can_be_exchanged", [True, False])
def test_a_silent_holder_elsewhere_is_replaced(
    names_can_be_exchanged: bool, quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a lock that stays for ever after its machine died, also on NFS, where the library leaves it alone."""
    if not names_can_be_exchanged:
        monkeypatch.setattr(SoftFileLease, "_try_break_stale_lock", lambda _: None)
    path = tmp_path / "lock"
    _elsewhere(path)
    start = time.monotonic()
    with Lock(path, "block_0").acquire():
        assert time.monotonic() - start >= 1
        assert "host=elsewhere" not in path.read_text()


def test_a_living_holder_elsewhere_is_not_replaced(alive_elsewhere: threading.Event, tmp_path: Path) -> None:
    """Catches a lock that is taken from a holder because its process number means nothing on this machine."""
    with pytest.raises(UserError, match=r"by process 7 on elsewhere:"), Lock(tmp_path / "lock", "block_0").acquire():
        pass
    with pytest.raises(UserError, match=r"by process 7 on elsewhere:"), Lock(tmp_path / "lock", "block_0").acquire(1.5):
        pass


def test_a_living_holder_is_waited_for(alive_elsewhere: threading.Event, tmp_path: Path) -> None:
    """Catches a waiting time that is read nowhere."""
    threading.Timer(1.5, alive_elsewhere.set).start()
    with Lock(tmp_path / "lock", "block_0").acquire(wait_s=60):
        assert alive_elsewhere.is_set()


def test_a_lock_that_was_taken_over_is_noticed_and_left_alone(quick: None, tmp_path: Path) -> None:
    """Catches a suspended process that goes on as if nothing had happened, or that removes the lock of the other."""
    path = tmp_path / "lock"
    with Lock(path, "block_0").acquire() as lock:
        lock.check()
        _elsewhere(path)
        path.with_name("lock.json").write_text("of the other")
        with pytest.raises(UserError, match=r"block_0 stopped without saving: another process took over"):
            lock.check()
        assert lock.lost
    assert "host=elsewhere" in path.read_text()
    assert path.with_name("lock.json").read_text() == "of the other"


def test_the_signs_of_life_notice_a_loss(quick: None, tmp_path: Path) -> None:
    """Catches a training that goes on until its next save, hours later, although its lock is gone."""
    with Lock(tmp_path / "lock", "block_0").acquire() as lock:
        (tmp_path / "lock").unlink()
        end = time.monotonic() + 10
        while not lock.lost and time.monotonic() < end:
            time.sleep(0.05)
        assert lock.lost


def test_a_training_that_lost_its_lock_does_not_save(dit_contract: Contract, tmp_path: Path) -> None:
    """Catches two processes that write one checkpoint in turn: the file must stay as it was at step 2."""
    path = tmp_path / "block_0" / "lock"

    class TakeOver(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
            if trainer.global_step == 3:
                _elsewhere(path)

    with Lock(path, "block_0").acquire() as lock, pytest.raises(UserError, match="stopped without saving"):
        fit(DiffusionBlock(dit_contract, 0, recipe()), tmp_path, callbacks=[StopWhenLockLost(lock), TakeOver()])
    assert checkpoint(tmp_path, "block_0")["global_step"] == 2


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    """Catches a traceback from a run folder that is read-only or, as here, a file."""
    (tmp_path / "block_0").write_text("")
    with (
        pytest.raises(UserError, match=r"block_0/lock cannot be written"),
        Lock(tmp_path / "block_0/lock", "x").acquire(),
    ):
        pass
