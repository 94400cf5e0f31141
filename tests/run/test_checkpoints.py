"""Checkpoints survive damage, a full disk and another training in their place."""

import errno
import os
import pickle
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from toy import Stripes, assert_equal_states, checkpoint, fit, recipe

from dbl.run.checkpoints import Checkpoints
from dbl.run.contract import Contract
from dbl.training.block import DiffusionBlock
from dbl.training.callbacks.checkpoint import LastCheckpoint
from dbl.training.callbacks.ema import EMA
from dbl.training.noisy_data import NoisyData
from dbl.utils.errors import UserError
from dbl.utils.files import read_checkpoint


def _files(folder: Path) -> Checkpoints:
    return Checkpoints(folder / "block_0" / "checkpoints" / "last.ckpt")


def _step(path: Path) -> int:
    step: int = read_checkpoint(path)["global_step"]
    return step


def _damage(path: Path) -> None:
    """Flip one bit in the middle: of a tensor, for tensors are most of a checkpoint."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.fixture(scope="module")
def trained(dit_contract: Contract, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `checkpoints` folder of a block with 6 steps, saved every 2."""
    folder = tmp_path_factory.mktemp("trained")
    fit(DiffusionBlock(dit_contract, 0, recipe()), folder)
    return folder / "block_0" / "checkpoints"


@pytest.fixture
def files(trained: Path, tmp_path: Path) -> Checkpoints:
    """A copy of it that a test may damage."""
    copies = tmp_path / "block_0" / "checkpoints"
    copies.mkdir(parents=True)
    for path in trained.iterdir():
        (copies / path.name).write_bytes(path.read_bytes())
    return Checkpoints(copies / "last.ckpt")


def test_the_last_two_checkpoints_are_kept(trained: Path) -> None:
    """Catches a previous checkpoint that is a link to a file that changes, is missing, or piles up."""
    assert {path.name: _step(path) for path in trained.iterdir()} == {"last.ckpt": 6, "previous.ckpt": 4}


def test_any_flipped_bit_is_found_or_harmless(tmp_path: Path) -> None:
    """Catches a reader that trusts the bytes: torch.load itself does not compare the checksums."""
    path = tmp_path / "last.ckpt"
    stored = {"state_dict": {"weight": torch.arange(40.0), "bias": torch.ones(3)}, "global_step": 7}
    torch.save(stored, path)
    whole, directory = path.read_bytes(), zipfile.ZipFile(path).start_dir
    flips = [(place, place % 8) for place in range(0, len(whole), 3)]
    flips += [(place, 4) for place in range(directory, len(whole))]  # bit 4 may mark a record as an empty folder
    found = 0
    for place, bit in flips:
        content = bytearray(whole)
        content[place] ^= 1 << bit
        path.write_bytes(content)
        try:
            assert_equal_states(read_checkpoint(path), stored)
        except UserError:
            found += 1
    assert found > len(flips) / 4  # the rest is padding, dates and the like


def test_checksums_are_compared_before_torch_reads(files: Checkpoints) -> None:
    """Catches a test file that torch would have refused anyway, so that nothing is shown about checksums."""
    _damage(files.last)
    torch.load(files.last, weights_only=True)
    with pytest.raises(UserError, match=r"last.ckpt is damaged .*its record .* has changed"):
        read_checkpoint(files.last)


class _Trap:
    """Runs a shell command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


@pytest.mark.parametrize("container", ["plain pickle", "torch's old format", "torch's zip file"])
def test_code_in_a_checkpoint_is_not_run(container: str, tmp_path: Path) -> None:
    """Catches a loader that unpickles whatever is called .ckpt: the trap would make a file."""
    path, made = tmp_path / "last.ckpt", tmp_path / "made"
    stored = {"global_step": 3, "state_dict": {"weight": torch.ones(2)}, "trap": _Trap(f"touch {made}")}
    if container == "plain pickle":
        path.write_bytes(pickle.dumps(stored["trap"]))
    else:
        torch.save(stored, path, _use_new_zipfile_serialization=container == "torch's zip file")
        assert zipfile.is_zipfile(path) == (container == "torch's zip file")
    with pytest.raises(UserError, match=r"last.ckpt is damaged or not a checkpoint"):
        read_checkpoint(path)
    assert not made.exists()


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("harm", [_damage, _truncate, Path.unlink])
def test_a_harmed_last_one_gives_way_to_the_previous(harm: Any, files: Checkpoints) -> None:
    """Catches a training that cannot go on although a good checkpoint is there, or that does not say why."""
    harm(files.last)
    saved = files.newest()
    assert saved is not None
    assert (saved.path, saved.step) == (files.previous, 4)
    assert str(files.last) in str(saved.problem)


def test_two_harmed_ones_are_refused(files: Checkpoints) -> None:
    """Catches a finished block that starts again without a word."""
    _damage(files.last)
    _damage(files.previous)
    with pytest.raises(UserError, match=r"last.ckpt is damaged.*previous.ckpt is damaged.*--from_scratch"):
        files.newest()


def test_going_on_from_the_previous_one_is_bit_exact_and_never_stores_the_damaged(
    dit_contract: Contract, files: Checkpoints, tmp_path: Path
) -> None:
    """Catches a damaged file that takes the place of the good one before it, and a resume that differs."""
    good, expected = files.previous.read_bytes(), read_checkpoint(files.last)
    _damage(files.last)
    loop = L.Trainer(
        max_steps=6,
        max_epochs=-1,
        accelerator="cpu",
        logger=False,
        callbacks=[EMA(0.9), LastCheckpoint(str(files.last), every_n_steps=2)],
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    block = DiffusionBlock(dit_contract, 0, recipe())
    loop.fit(block, datamodule=NoisyData(Stripes(), block), ckpt_path=files.previous, weights_only=True)
    assert files.previous.read_bytes() == good
    resumed = read_checkpoint(files.last)
    for key in ("state_dict", "current_model_state", "optimizer_states", "global_step", "dbl"):
        assert_equal_states(resumed[key], expected[key])


def test_a_longer_training_resumes_the_finished_one(dit_contract: Contract, files: Checkpoints, tmp_path: Path) -> None:
    """Catches a larger trainer.max_steps that starts at 0, does nothing, or leaves the old goal in the file."""
    fit(DiffusionBlock(dit_contract, 0, recipe()), tmp_path, steps=9, resume=True)
    stored = checkpoint(tmp_path, "block_0")
    assert (stored["global_step"], stored["dbl"]["max_steps"], stored["dbl"]["batches_seen"]) == (9, 9, 9)  # type: ignore[index]
    assert _step(files.previous) == 8


def test_another_training_in_the_same_place_keeps_the_one_before(
    dit_contract: Contract, files: Checkpoints, tmp_path: Path
) -> None:
    """Catches a new training that falls back to a checkpoint of the old one, or that destroys the old one."""
    old = files.last.read_bytes()
    fit(DiffusionBlock(dit_contract, 0, recipe()), tmp_path, steps=2)
    assert files.replaced.read_bytes() == old
    assert _step(files.last) == 2
    assert not files.previous.exists()


def test_setting_aside_keeps_the_newest_good_one(files: Checkpoints) -> None:
    """Catches a --from_scratch that keeps a damaged file and deletes the good one."""
    good = files.previous.read_bytes()
    _damage(files.last)
    assert files.set_aside() == files.replaced
    assert files.replaced.read_bytes() == good
    assert files.newest() is None
    assert files.set_aside() is None
    assert files.replaced.read_bytes() == good


def test_without_hard_links_the_previous_one_is_kept_too(files: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a save that fails on file systems such as FAT."""

    def refuse(*_: Any) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    files.keep_previous()
    assert _step(files.previous) == 6


def test_what_a_killed_save_left_is_removed(dit_contract: Contract, files: Checkpoints, tmp_path: Path) -> None:
    """Catches half-written files, each as large as a checkpoint, that pile up with every kill."""
    left = files.last.parent / ".last.ckpt.123@elsewhere.0123abcd.tmp"
    left.mkdir()
    (left / "last.ckpt").write_bytes(b"half")
    fit(DiffusionBlock(dit_contract, 0, recipe()), tmp_path, steps=7, resume=True)
    assert {path.name for path in files.last.parent.iterdir()} == {"last.ckpt", "previous.ckpt"}


# A process whose files may not grow beyond a limit: writing fails in the middle, as on a full disk.
_FULL = """
    import resource, sys
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    from toy import DIT, Stripes, fit, recipe
    from dbl.training.block import DiffusionBlock
    from dbl.run.contract import ContractConfig
    from dbl.utils.errors import UserError
    from dbl.diffusion.partition import PartitionConfig
    from dbl.denoising.targets import PixelTarget

    config = ContractConfig(network=DIT, target=PixelTarget(), partition=PartitionConfig(num_blocks=3))
    block = DiffusionBlock(config.build(Stripes().spec), 0, recipe())
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    try:
        fit(block, Path({folder!r}), steps=9, resume=True)
    except UserError as error:
        print(error)
"""


def test_a_write_that_fails_leaves_the_old_checkpoint(dit_contract: Contract, files: Checkpoints) -> None:
    """Catches a traceback, a half-written last.ckpt, a lost previous one, and what is left of the attempt."""
    before = {path.name: path.read_bytes() for path in files.last.parent.iterdir()}
    folder = files.last.parents[2]
    code = textwrap.dedent(_FULL).format(tests=str(Path(__file__).parents[1]), folder=str(folder))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    (line,) = done.stdout.splitlines()
    assert f"{files.last} could not be written at step 8 (File too large); step 6 is still saved" in line
    assert "the same command resumes" in line
    assert {path.name: path.read_bytes() for path in files.last.parent.iterdir()} == before
    fit(DiffusionBlock(dit_contract, 0, recipe()), folder, steps=9, resume=True)
    assert _step(files.last) == 9
