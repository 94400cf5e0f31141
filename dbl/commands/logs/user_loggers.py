"""Loggers that a config names: they join those of `dbl`, and each part and each evaluation is a run of its own."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import lightning as L
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from dbl.commands.logs.names import LogName, stored_id
from dbl.training.event_log import Choice
from dbl.training.loggers import continue_rows
from dbl.utils.errors import Interrupted, UserError, as_known_error, how_to_install, reason_of
from dbl.utils.locks import Lock

# Name of a logger's class -> its package, and how to install it.
_PACKAGES = {
    "WandbLogger": ("wandb", how_to_install("wandb")),
    "MLFlowLogger": ("mlflow", how_to_install("mlflow")),
    "CometLogger": ("comet_ml", "pip install comet-ml"),
    "NeptuneLogger": ("neptune", "pip install neptune"),
}
_ID_TAG = "dbl.id"
_WAIT_S = 300.0  # for another worker that creates a database or asks a server


def check_loggers(chosen: Any) -> None:
    """Raise UserError if a logger needs a package that is not installed.

    Args:
        chosen: parsed value of `trainer.logger`.
    """
    for logger in _list_of(chosen):
        package, remedy = _PACKAGES.get(logger.class_path.rpartition(".")[2], (None, ""))
        # A folder of that name, such as the one that W&B leaves, is found too, but has no origin.
        spec = find_spec(package) if package else None
        if package and (spec is None or spec.origin is None):
            raise UserError(f"trainer.logger: {logger.class_path.rpartition('.')[2]} needs `{package}`: {remedy}")


@dataclass(frozen=True)
class Logged:
    """What a training or an evaluation logs.

    Args:
        name: name in every logger.
        folder: folder of its files in the run folder.
        job: `training` or `evaluation`.
        choices: choices of the run, by name.
        step: step at which a training starts or resumes.
        rank: rank of this process.
        anew: whether it is trained anew, so that an earlier log is not continued.
    """

    name: LogName
    folder: Path
    job: str
    choices: Mapping[str, Choice]
    step: int = 0
    rank: int = 0
    anew: bool = False

    @cached_property
    def id(self) -> str:
        """Id of the log on servers; ranks other than the first write none."""
        return "" if self.rank else stored_id(self.folder, self.anew)


@contextmanager
def logging_to(trainer: L.Trainer, own: Sequence[Logger], chosen: Any, logged: Logged) -> Iterator[None]:
    """Give a trainer our loggers and those of the user, which are finished in the end: the next part has others.

    Args:
        trainer: trainer of a part or an evaluation.
        own: loggers of `dbl`.
        chosen: parsed value of `trainer.logger`: null, loggers that join these, or false, which turns all off.
        logged: the training or evaluation.

    Raises UserError if a logger cannot be built, or its server refuses.
    """
    if chosen is False:
        yield
        return
    trainer.loggers = list(own)
    failed = True
    try:
        for logger in _list_of(chosen):
            trainer.loggers = [*trainer.loggers, _opened(logger, logged)]
        yield
        failed = False
    finally:
        _finish_wandb(failed)


def _finish_wandb(failed: bool) -> None:
    """End the run of W&B, which stays open in a process: all blocks would log to it."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and getattr(wandb, "run", None) is not None:
        wandb.finish(exit_code=int(failed))


def _list_of(chosen: Any) -> list[Namespace]:
    if chosen is None or isinstance(chosen, bool):
        return []
    return list(chosen) if isinstance(chosen, list | tuple) else [chosen]


def _opened(chosen: Namespace, logged: Logged) -> Logger:
    """The logger, which writes to the run of this part; its server is asked now, before the first step."""
    kind = chosen.class_path.rpartition(".")[2]
    try:
        if issubclass(_class_of(chosen), MLFlowLogger) and logged.rank == 0:
            # Two workers at once would both create the database, or the experiment.
            with Lock(logged.folder.parent / ".loggers.lock", "its log", "created").acquire(_WAIT_S):
                return _with_experiment(_prepared(chosen, logged))
        return _with_experiment(_prepared(chosen, logged))
    except (Exception, SystemExit) as error:
        known = as_known_error(error)
        if isinstance(known, UserError | Interrupted):
            raise known from error
        raise UserError(f"trainer.logger: {kind} could not start: {reason_of(_first_cause(error), 120)}") from error


def _with_experiment(logger: Logger) -> Logger:
    """The logger, which has created its run; that of another rank than the first is a stand-in."""
    getattr(logger, "experiment", None)
    return logger


def _first_cause(error: BaseException) -> BaseException:
    """What was raised before the parser wrapped it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _prepared(chosen: Namespace, logged: Logged) -> Logger:
    kind, named = _class_of(chosen), Namespace(chosen.clone())
    given = named.get("init_args") or Namespace()
    if issubclass(kind, WandbLogger):
        return _with_choices(_wandb(named, given, logged), logged)
    if issubclass(kind, MLFlowLogger):
        return _mlflow(named, given, logged)
    if issubclass(kind, CSVLogger | TensorBoardLogger):
        return _in_files(kind, named, given, logged)
    return _with_choices(_built(named), logged)


def _with_choices(logger: Logger, logged: Logged) -> Logger:
    logger.log_hyperparams({**logged.choices})
    return logger


def _wandb(named: Namespace, given: Namespace, logged: Logged) -> Logger:
    name = logged.name.under(given.get("name"))
    if given.get("save_dir") in (None, ".") and not given.get("dir"):
        given.save_dir = str(logged.folder)
        logged.folder.mkdir(parents=True, exist_ok=True)
    own_id = given.get("version") or given.get("id")
    given.id = f"{own_id}-{name.dashed}" if own_id else logged.id
    given.version = None
    given.name = name.text
    given.project = given.get("project") or os.environ.get("WANDB_PROJECT") or "dbl"
    defaults = {"group": name.first, "job_type": logged.job}
    named.dict_kwargs = defaults | dict(named.get("dict_kwargs") or {})
    return _built(named)


def _mlflow(named: Namespace, given: Namespace, logged: Logged) -> Logger:
    name = logged.name.under(given.get("run_name"))
    given.tracking_uri = given.get("tracking_uri") or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    if given.get("experiment_name") == "lightning_logs":
        given.experiment_name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "dbl"
    continues = False
    if not given.get("run_id"):
        tags = {_ID_TAG: logged.id, "group": name.first, "part": name.part, "job": logged.job}
        given.tags = dict(given.get("tags") or {}) | tags
        given.run_name = name.text
        if logged.rank == 0:
            given.run_id = _run_of_mlflow(given.tracking_uri, given.experiment_name, tags[_ID_TAG])
            continues = given.run_id is not None
    logger = _built(named)
    # MLflow keeps the values that it was given first, and refuses others, such as more steps.
    return logger if continues else _with_choices(logger, logged)


def _run_of_mlflow(uri: str, experiment: str, tag: str) -> str | None:
    """The run of a part that goes on, which is shown as running again."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    runs = client.search_runs([found.experiment_id], f"tags.`{_ID_TAG}` = '{tag}'") if found else []
    if not runs:
        return None
    client.update_run(runs[0].info.run_id, status="RUNNING")
    return cast(str, runs[0].info.run_id)


def _in_files(kind: type[Logger], named: Namespace, given: Namespace, logged: Logged) -> Logger:
    """A folder for each part; a resumed one goes on in its folder."""
    own_name = None if given.get("name") == "lightning_logs" else given.get("name")
    name, version = logged.name.under(own_name), given.get("version")
    given.name = name.run
    given.version = name.part if version is None else f"{version}/{name.part}"
    if issubclass(kind, TensorBoardLogger):
        purge_step = logged.step + 1 if logged.step else 0
        named.dict_kwargs = dict(named.get("dict_kwargs") or {}) | {"purge_step": purge_step}
        return _built(named)
    logger = cast(CSVLogger, _built(named))
    continue_rows(logger, logged.step, logged.rank)
    return logger


def _class_of(chosen: Namespace) -> type[Logger]:
    module, _, name = chosen.class_path.rpartition(".")
    return cast(type[Logger], getattr(import_module(module), name))


def _built(chosen: Namespace) -> Logger:
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Logger, "logger", required=True)
    return cast(Logger, parser.instantiate(parser.parse_object({"logger": chosen.as_dict()})).logger)
