"""A full disk and a folder that is read-only: one line each, and what was there stays."""

import shutil
from pathlib import Path

import pytest
from faults.runs import left_over, without_rights, without_room
from forked import Outcome, run_dbl, run_forked
from tiny_run import TINY

CONFIG = ["--config", str(Path(__file__).parents[2] / "configs" / "digits_vit.yaml"), *TINY]
RUN = Path("runs/digits_vit")
TRAIN, SAMPLE, ASSEMBLE = ["train", *CONFIG], ["predict", *CONFIG], ["assemble", str(RUN)]
FIT = ["fit", *CONFIG]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that was trained, assembled and reported on, not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    assert run_dbl(folder, *TRAIN).code == 0
    return folder


def _contents(folder: Path) -> dict[str, bytes]:
    """All files but the logs and what says how a training goes."""
    volatile = ("events.out", "status.json", "hparams.yaml", "metrics.csv")
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(volatile))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def _check_refused(outcome: Outcome, named: str, run: Path) -> None:
    assert outcome.problem() is None
    assert named in outcome.errors
    assert left_over(run) == []


@pytest.mark.parametrize(
    ("limit", "named"),
    [
        (600, "runs/digits_vit/table.safetensors could not be written (File too large): free space"),
        (1_000, "runs/digits_vit/contract.json could not be written (File too large): free space"),
        (30_000, "block_0 stopped because a file of it could not be written (File too large): free space"),
    ],
)
def test_a_full_disk_at_the_beginning_of_a_run(limit: int, named: str, tmp_path: Path) -> None:
    """Catches a traceback, half a file, and a run that cannot be begun again when there is room."""
    _check_refused(run_forked(without_room, tmp_path, FIT, limit), named, tmp_path / RUN)
    assert run_dbl(tmp_path, *FIT).code == 0


@pytest.mark.parametrize(
    ("arguments", "limit", "named"),
    [
        (ASSEMBLE, 10_000, "model could not be read or written (File too large): free space"),
        (ASSEMBLE, 1_000, "model could not be read or written (File too large): free space"),
        (TRAIN, None, "report"),
        (SAMPLE, 1_000, "predictions.safetensors could not be read or written (File too large): free space"),
    ],
)
def test_a_full_disk_at_the_end_of_a_run(
    arguments: list[str], limit: int | None, named: str, finished: Path, tmp_path: Path
) -> None:
    """Catches a traceback, a model or report that is half new, and a temporary folder that fills the disk for good."""
    shutil.copytree(finished / "runs", tmp_path / "runs")
    before = _contents(tmp_path / RUN / "model")
    limit = limit or max(map(len, before.values()))  # room for the model, but not for the report
    _check_refused(run_forked(without_room, tmp_path, arguments, limit), named, tmp_path / RUN)
    after = _contents(tmp_path / RUN / "model")
    if arguments is not TRAIN:  # which replaces the model with an equal one, but for its times
        assert after == before
    assert after.keys() == before.keys()


@pytest.mark.parametrize("arguments", [FIT, [*FIT, "--from_scratch"], TRAIN, ASSEMBLE, SAMPLE], ids=lambda a: a[0])
def test_a_read_only_run(arguments: list[str], finished: Path, tmp_path: Path) -> None:
    """Catches a traceback, and an error that does not name what cannot be written."""
    shutil.copytree(finished / "runs", tmp_path / "runs")
    before = _contents(tmp_path / RUN)
    folders = [path for path in (tmp_path / RUN, *(tmp_path / RUN).rglob("*")) if path.is_dir()]
    _set_mode(folders, 0o555)
    try:
        outcome = run_forked(without_rights, tmp_path, arguments)
    finally:
        _set_mode(folders, 0o755)
    _check_refused(outcome, "(Permission denied)", tmp_path / RUN)
    assert str(RUN) in outcome.errors
    assert _contents(tmp_path / RUN) == before


def _set_mode(folders: list[Path], mode: int) -> None:
    for folder in folders:
        folder.chmod(mode)
