"""The contract of a run is written once, whoever else begins the run at the same time."""

import multiprocessing
import re
import socket
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from faults.runs import left_over
from toy import Stripes

from dbl.run.contract import Contract
from dbl.run.folder import RunFolder
from dbl.utils.errors import UserError
from dbl.utils.locks import Lock


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder("run", str(tmp_path))


@pytest.fixture
def other(vit_contract: Contract, stripes: Stripes) -> Contract:
    """Another contract, with another table."""
    return replace(vit_contract.config, seed=7).build(stripes.spec)


def _contents(run: RunFolder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.path.iterdir() if path.is_file()}


def _train(lock: Path, ready: Connection) -> None:
    with Lock(lock, "block_0").acquire():
        ready.send(True)
        time.sleep(600)


def test_a_contract_under_which_nothing_was_trained_is_replaced(
    run: RunFolder, vit_contract: Contract, other: Contract
) -> None:
    """Catches a first attempt with a wrong config that spoils the name of the run for good."""
    run.write_contract(vit_contract)
    run.write_contract(other)
    assert run.load_contract().hash == other.hash


def test_a_kill_between_the_table_and_the_contract_leaves_a_run_that_can_begin(
    run: RunFolder, vit_contract: Contract, other: Contract, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches the old contract beside the new table, which every later command would refuse."""
    run.write_contract(vit_contract)
    with monkeypatch.context() as patch:
        patch.setattr("dbl.run.folder.write_json", _killed)
        with pytest.raises(KeyboardInterrupt):
            run.write_contract(other)
    run.write_contract(vit_contract)
    assert run.load_contract().hash == vit_contract.hash


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_contract_under_which_a_part_was_trained_stays(
    run: RunFolder, vit_contract: Contract, other: Contract
) -> None:
    """Catches a process that built its contract in an empty folder, where another has trained meanwhile."""
    run.write_contract(vit_contract)
    run.checkpoint("block_0").parent.mkdir(parents=True)
    run.checkpoint("block_0").touch()
    _check_refused(run, vit_contract, other)


@pytest.mark.parametrize("lock", ["lock", "block_2/lock"])
def test_a_contract_under_which_a_part_is_being_trained_stays(
    lock: str, run: RunFolder, vit_contract: Contract, other: Contract
) -> None:
    """Catches a training that is lost because another config came before its first checkpoint."""
    run.write_contract(vit_contract)
    ours, theirs = multiprocessing.Pipe()
    holder = multiprocessing.get_context("fork").Process(target=_train, args=(run.path / lock, theirs))
    holder.start()
    assert ours.poll(60)
    with Lock(run.lock("block_0"), "block_0").acquire():  # our own part, as in dbl fit
        _check_refused(run, vit_contract, other)
        holder.kill()
        holder.join()
        run.write_contract(other)
    assert run.load_contract().hash == other.hash


def _check_refused(run: RunFolder, stored: Contract, other: Contract) -> None:
    before = _contents(run)
    message = (
        f"contract.json has contract {stored.hash[:12]}, this config {other.hash[:12]}: start another run (--run.name)"
    )
    with pytest.raises(UserError, match=re.escape(message)):
        run.write_contract(other)
    assert _contents(run) == before
    run.write_contract(stored)


def test_what_killed_processes_left_is_removed(run: RunFolder) -> None:
    """Catches the lock of a process that was killed after the last step: no later command takes it for a training."""
    ours, theirs = multiprocessing.Pipe()
    locks = [run.launcher_lock, run.contract_lock, run.model_lock, run.lock("block_0"), run.lock("block_1")]
    holders = [multiprocessing.get_context("fork").Process(target=_train, args=(lock, theirs)) for lock in locks]
    for holder in holders:
        holder.start()
        assert ours.poll(60)
        ours.recv()
    for holder in holders[:-1]:
        holder.kill()
        holder.join()
    for folder in (run.path, run.report, run.checkpoint("block_0").parent):
        (folder / f".file.{holders[0].pid}@{socket.gethostname()}.01234567.tmp").mkdir(parents=True)
    run.remove_leftovers()
    assert {Path(path) for path in left_over(run.path)} == {locks[-1], locks[-1].with_name("lock.json")}
    holders[-1].kill()
    holders[-1].join()
