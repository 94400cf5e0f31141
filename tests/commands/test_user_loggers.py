"""Loggers, profilers and bars of a config: they join ours, and each part is a run of its own in them."""

import csv
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from lightning.pytorch.callbacks import ModelSummary, RichProgressBar
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.profilers import SimpleProfiler
from tiny_run import TINY

from dbl.commands.logs import user_loggers
from dbl.commands.logs.names import LogName, stored_id
from dbl.commands.logs.profiling import profiler_of
from dbl.commands.logs.user_loggers import Logged, check_loggers, logging_to
from dbl.commands.parsing import parse
from dbl.commands.schema import config_parser
from dbl.run.folder import RunFolder
from dbl.training.callbacks.progress import has_progress_bar
from dbl.utils.errors import UserError

CONFIG = Path(__file__).parents[2] / "configs" / "digits_dit.yaml"


def needs(package: str) -> pytest.MarkDecorator:
    found = find_spec(package)
    return pytest.mark.skipif(found is None or found.origin is None, reason=f"{package} is not installed")


def _parsed(*options: str) -> Any:
    return parse(config_parser(), ["--config", str(CONFIG), *TINY, *options]).trainer.logger


def _logged(folder: Path, part: str, step: int = 0, anew: bool = False) -> Logged:
    return Logged(LogName(("run",), part), folder / part, "training", {"num_blocks": 3}, step, anew=anew)


def _trainer() -> L.Trainer:
    options = {"enable_model_summary": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return L.Trainer(logger=False, accelerator="cpu", **options)


def _log(chosen: Any, logged: Logged, steps: range, trainer: L.Trainer | None = None) -> L.Trainer:
    trainer = trainer or _trainer()
    with logging_to(trainer, [], chosen, logged):
        for step in steps:
            for logger in trainer.loggers:
                logger.log_metrics({"train/loss": float(step)}, step)
        for logger in trainer.loggers:
            logger.save()
            logger.finalize("success")
    return trainer


def _steps(path: Path) -> list[int]:
    with path.open(newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file)]


def test_a_name_says_which_run_a_part_belongs_to(tmp_path: Path) -> None:
    """Catches blocks of an ancestor or of a rival that have the name of those of the run around them."""
    run = RunFolder("digits", str(tmp_path / "runs"))
    assert LogName.of(run, "block_0").text == "digits/block_0"
    run.path.mkdir(parents=True)
    run.launcher_lock.touch()  # its config is written after its ancestor was trained
    name = LogName.of(run.ancestor(), "block_0")
    assert (name.text, name.first, name.dashed) == ("digits/ancestor/block_0", "digits", "ancestor-block_0")
    assert name.under("mine").text == "mine/ancestor/block_0"
    assert LogName.of(run.rival("muon"), "end_to_end").text == "digits/rivals/muon/end_to_end"


def test_an_id_is_kept_until_a_part_is_trained_anew(tmp_path: Path) -> None:
    """Catches a resumed part that begins another run on the server, and two trainings that share one."""
    first = stored_id(tmp_path)
    assert stored_id(tmp_path) == first
    assert stored_id(tmp_path, anew=True) != first
    (tmp_path / "loggers.json").write_text('{"id": "../x"}')
    with pytest.raises(UserError, match=r"loggers\.json is damaged"):
        stored_id(tmp_path)


@pytest.mark.parametrize("kind", ["CSVLogger", "TensorBoardLogger"])
def test_a_resumed_part_goes_on_in_the_files_of_a_logger(kind: str, tmp_path: Path) -> None:
    """Catches parts that share a folder, and a resumed part whose earlier rows are deleted or stand there twice."""
    chosen = _parsed(f"--trainer.logger={kind}", f"--trainer.logger.save_dir={tmp_path / 'logs'}")
    _log(chosen, _logged(tmp_path / "run", "block_1"), range(1, 5))
    trainer = _log(chosen, _logged(tmp_path / "run", "block_1", step=2), range(3, 6))
    folder = tmp_path / "logs" / "run" / "block_1"
    assert trainer.loggers[0].log_dir == str(folder)
    if kind == "CSVLogger":
        assert _steps(folder / "metrics.csv") == [1, 2, 3, 4, 5]
    else:
        assert len([*folder.glob("events*")]) == 2
    _log(chosen, _logged(tmp_path / "run", "block_0"), range(1, 2))
    assert (tmp_path / "logs" / "run" / "block_0").is_dir()


@needs("wandb")
def test_each_part_is_a_run_of_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches blocks that all log to one run, a resumed part that begins another, and a run that stays open."""
    import wandb

    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    chosen = _parsed("--trainer.logger=WandbLogger", "--trainer.logger.offline=true")
    seen = []
    for part, step in (("block_0", 0), ("block_1", 0), ("block_1", 2)):
        with logging_to(trainer := _trainer(), [], chosen, _logged(tmp_path, part, step)):
            trainer.loggers[0].log_metrics({"train/loss": 1.0}, step + 1)
            run = wandb.run
            assert run is not None
            seen.append((run.name, run.group, run.job_type, run.project, run.id))
            assert dict(run.config)["num_blocks"] == 3
        assert wandb.run is None
    ids = [of_run[-1] for of_run in seen]
    assert [of_run[:-1] for of_run in seen] == [
        (f"run/{part}", "run", "training", "dbl") for part in ("block_0", "block_1", "block_1")
    ]
    assert ids[1] == ids[2] != ids[0]
    assert [*(tmp_path / "block_0" / "wandb").glob(f"offline-run-*/run-{ids[0]}.wandb")]


@needs("wandb")
def test_a_run_of_wandb_is_finished_when_a_part_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a failed block whose run the next block would log to, and settings of the user that are replaced."""
    import wandb

    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    options = ("--trainer.logger.name=mine", "--trainer.logger.id=abc", "--trainer.logger.project=p")
    chosen = _parsed("--trainer.logger=WandbLogger", "--trainer.logger.offline=true", *options)
    seen = []

    def fail() -> None:
        with logging_to(_trainer(), [], chosen, _logged(tmp_path, "block_0")):
            assert wandb.run is not None
            seen.extend([wandb.run.name, wandb.run.id, wandb.run.project])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert seen == ["mine/block_0", "abc-block_0", "p"]
    assert wandb.run is None


@needs("mlflow")
def test_each_part_is_a_run_of_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a resumed part that begins another run, or that fails since one of its choices is another now."""
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    chosen = _parsed("--trainer.logger=MLFlowLogger", f"--trainer.logger.tracking_uri={uri}")
    for part, step in (("block_0", 0), ("block_1", 0), ("block_1", 4)):
        _log(chosen, _logged(tmp_path / "run", part, step), range(step, step + 4))
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("dbl")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert sorted(runs) == ["run/block_0", "run/block_1"]
    run = runs["run/block_1"]
    assert run.info.status == "FINISHED"
    assert (run.data.tags["group"], run.data.tags["part"], run.data.params) == ("run", "block_1", {"num_blocks": "3"})
    assert [point.step for point in client.get_metric_history(run.info.run_id, "train/loss")] == [*range(8)]


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a traceback of the parser, and a folder of logs that is taken for the package."""
    chosen = _parsed("--trainer.logger=WandbLogger")
    for found in (None, type("Folder", (), {"origin": None})):
        monkeypatch.setattr(user_loggers, "find_spec", lambda name, found=found: found)
        with pytest.raises(UserError, match=r"WandbLogger needs `wandb`: pip install -e \"\.\[wandb\]\""):
            check_loggers(chosen)
    check_loggers(_parsed("--trainer.logger=CSVLogger", "--trainer.logger.save_dir=x"))


def test_a_logger_that_cannot_start_is_told_in_one_line(tmp_path: Path) -> None:
    """Catches the traceback of a logger whose folder or server refuses."""
    (tmp_path / "file").touch()
    chosen = _parsed("--trainer.logger=CSVLogger", f"--trainer.logger.save_dir={tmp_path / 'file'}")
    with pytest.raises(UserError, match="file"), logging_to(_trainer(), [], chosen, _logged(tmp_path, "block_0")):
        pass


def test_own_loggers_stay_unless_all_are_turned_off(tmp_path: Path) -> None:
    """Catches a logger of the user in place of ours, and `false` that is not obeyed."""
    ours, logged = CSVLogger(str(tmp_path)), _logged(tmp_path, "block_0")
    for options, number in (((), 1), (("--trainer.logger=true",), 1), (("--trainer.logger=false",), 0)):
        with logging_to(trainer := _trainer(), [ours], _parsed(*options), logged):
            assert trainer.loggers == [ours][:number]
    two = ("--trainer.logger+=CSVLogger", f"--trainer.logger.save_dir={tmp_path}")
    with logging_to(trainer := _trainer(), [ours], _parsed(*two, *two), logged):
        assert [type(logger) for logger in trainer.loggers] == [CSVLogger] * 3


def test_a_profiler_writes_into_the_folder_of_the_part(tmp_path: Path) -> None:
    """Catches reports that go to a log that nobody sees, and blocks that write to one file."""
    profiler = profiler_of("simple", tmp_path / "block_0")
    assert isinstance(profiler, SimpleProfiler)
    profiler.setup("fit")
    with profiler.profile("step"):
        pass
    profiler.describe()
    assert "step" in (tmp_path / "block_0" / "fit-profile.txt").read_text()
    given = profiler_of(SimpleProfiler(dirpath=tmp_path, filename="mine"), tmp_path / "block_1")
    assert given is not None
    assert (given.dirpath, given.filename) == (tmp_path, "mine-block_1")
    assert profiler_of(None, tmp_path) is None


def test_a_bar_of_the_user_takes_the_place_of_ours() -> None:
    """Catches two bars, which Lightning refuses."""
    assert has_progress_bar([ModelSummary(), RichProgressBar()])
    assert not has_progress_bar([ModelSummary()])
    assert not has_progress_bar(None)


def test_a_callback_that_needs_automatic_optimization_is_refused(dbl: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a traceback of Lightning in the middle of a training."""
    assert dbl("fit", "digits_dit", "--trainer.callbacks+=BatchSizeFinder") == 2
    assert "BatchSizeFinder needs automatic optimization" in capsys.readouterr().err


def test_a_run_is_logged_part_by_part(dbl: Any, tmp_path: Path) -> None:
    """Catches a command that does not hand the loggers on: blocks, report, ours beside them, and a resumed block."""
    logger = ("--trainer.logger=CSVLogger", "--trainer.logger.save_dir=logs", "--trainer.callbacks=RichProgressBar")
    options = (*logger, "--run.name=a", "--trainer.enable_progress_bar=true", "--trainer.log_every_n_steps=1")
    assert dbl("train", "digits_dit", *options, "--trainer.profiler=simple") == 0
    parts = ("block_0", "block_1", "block_2")
    for part in parts:
        assert _steps(tmp_path / "logs/a" / part / "metrics.csv") == _steps(tmp_path / "runs/a" / part / "metrics.csv")
        assert (tmp_path / "runs/a" / part / "fit-profile.txt").is_file()
    assert "test/loss" in (tmp_path / "logs/a/report/metrics.csv").read_text()
    assert dbl("fit", "digits_dit", *options, "--model.block=1", "--trainer.max_steps=6") == 0
    assert set(_steps(tmp_path / "logs/a/block_1/metrics.csv")) == {*range(1, 7)}
