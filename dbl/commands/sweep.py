"""`dbl sweep`: a run for each combination of choices or each trial of a study, and one table over all of them."""

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser

from dbl.commands.evaluate import validation_metrics
from dbl.commands.launch.launcher import Launch, add_launch_options
from dbl.commands.parsing import parse
from dbl.commands.run_config import RunConfig, check_run_name, write_config
from dbl.commands.schema import config_parser
from dbl.commands.sweeping.file import SweepFile
from dbl.commands.sweeping.study import Study
from dbl.commands.sweeping.values import Swept, grid, name_of, read_swept
from dbl.commands.train import train_run
from dbl.evaluation.sweep_report import higher_is_better
from dbl.run.folder import RunFolder
from dbl.utils.checks import check_number
from dbl.utils.errors import TrainingFailed, UserError, as_known_error, one_line
from dbl.utils.files import read_json
from dbl.utils.locks import Lock


def build_parser() -> LightningArgumentParser:
    """The parser of a config, with what is tried and where blocks are trained."""
    parser = config_parser("sweep")
    add_launch_options(parser)
    parser.add_argument(
        "--set",
        action="append",
        type=str,
        default=[],
        help="A key and its values, such as contract.partition.num_blocks=1,2,3; or, for a study, a range such as "
        "ema.decay=0.9..0.999 or model.recipe.clip_norm=log:0.1..10. Give it once for each key.",
    )
    parser.add_argument(
        "--study", type=int | None, default=None, help="Number of trials that Optuna draws, in place of a grid."
    )
    parser.add_argument(
        "--metric",
        type=str | None,
        default=None,
        help="Validation metric that chooses, such as loss_block_0; by default accuracy, or else loss.",
    )
    parser.add_argument(
        "--name", type=str | None, default=None, help="Folder of the sweep in run.root; by default run.name and _sweep."
    )
    return parser


def main(arguments: list[str]) -> None:
    """Train what is missing: finished runs are left alone, interrupted ones resumed, failed ones tried again."""
    options = parse(build_parser(), arguments[1:])
    check_number("--study", options.study, at_least=1, at_most=10_000, whole=True, optional=True)
    swept = read_swept(options.set, options.study is not None)
    config, launch = RunConfig(options), Launch.from_options(options)
    launch.settle_devices(config.values.trainer)
    name = options.name or f"{config.values.run.name}_sweep"
    check_run_name(name)
    folder = RunFolder(name, config.values.run.root)
    if (folder.path / "contract.json").exists():
        raise UserError(f"{folder.path} is the folder of a run: give the sweep another --name")
    metric = options.metric or ("accuracy" if config.contract_config.target.generates == "classes" else "loss")
    sweep = Sweep(config, launch, folder, swept, metric)
    sweep.check(options.study is not None)
    with Lock(folder.launcher_lock, f"the sweep in {folder.path}").acquire():
        failed = sweep.run_study(options.study) if options.study else sweep.run_grid()
        print(sweep.summary())
    if failed:
        again = "the same command tries them again" if not options.study else "a study goes on without them"
        raise TrainingFailed(f"{len(failed)} runs failed ({', '.join(failed)}): {again}")


class Sweep:
    """The runs of a sweep, one after another; the blocks of each are trained where the launch says.

    Args:
        config: config that all runs share.
        launch: place where blocks are trained.
        folder: folder of the sweep, in which each run has its own.
        swept: keys, and what is tried for them.
        metric: name of the validation metric that chooses.

    Its methods raise UserError if the folder holds a sweep of another config.
    """

    def __init__(
        self, config: RunConfig, launch: Launch, folder: RunFolder, swept: Sequence[Swept], metric: str
    ) -> None:
        self._config, self._launch, self._folder, self._swept, self._metric = config, launch, folder, swept, metric

    def check(self, study: bool) -> None:
        """Raise UserError if a combination, or an end of a range, cannot be trained; nothing is written."""
        for choices in _ends(self._swept) if study else grid(self._swept):
            self._check(choices)

    def _begin(self, ranges: dict[str, str], cells: dict[str, dict[str, str]]) -> None:
        self._file = SweepFile(self._folder.path, [one.key for one in self._swept], self._metric)
        self._file.begin(self._config.plain(), ranges, cells)
        write_config(self._folder.config, self._config.plain())

    def summary(self) -> str:
        """The end of the command."""
        return self._file.summary()

    def run_grid(self) -> list[str]:
        """Run all combinations; names of those that failed."""
        cells = {name_of(choices): choices for choices in grid(self._swept)}
        self._begin({}, cells)
        failed = []
        for number, (name, choices) in enumerate(cells.items(), 1):
            if self._file.is_finished(name):
                print(f"run {number} of {len(cells)}: {name} is finished")
                continue
            print(f"\nrun {number} of {len(cells)}: {name}", flush=True)
            if self._run(name, choices) is None:
                failed.append(name)
        return failed

    def run_study(self, number: int) -> list[str]:
        """Run trials until there are that many, those of earlier calls included; names of those that failed now."""
        self._begin({one.key: one.text for one in self._swept}, {})
        seed, higher = self._config.contract_config.seed, higher_is_better(self._metric)
        study = Study(self._folder.path / "study.log", self._swept, seed, higher)
        failed = []
        while study.num_ended < number:
            trial = study.next()
            name = f"trial_{trial.number}_{name_of(trial.choices)}"
            print(f"\ntrial {trial.number} of {number}: {name}", flush=True)
            # A trial that was stopped between its result and the study's has its result in the file.
            value = self._file.value_of(name) if self._file.is_finished(name) else self._run(name, trial.choices)
            if value is None:
                failed.append(name)
            study.tell(trial.number, value)
        return failed

    def _check(self, choices: Mapping[str, str]) -> None:
        """Raise UserError if a run could not be trained with these choices; nothing is written."""
        with tempfile.TemporaryDirectory() as folder:
            try:
                self._config_of("check", choices, RunFolder("check", folder)).check()
            except UserError as error:
                given = ", ".join(f"{key}={value}" for key, value in choices.items())
                raise UserError(f"--set {given}: {error}") from None

    def _config_of(self, name: str, choices: Mapping[str, str], sweep: RunFolder) -> RunConfig:
        """The config of a run: that of the sweep, with its choices as if they were typed on the command line."""
        with tempfile.TemporaryDirectory() as folder:
            shared = Path(folder) / "config.yaml"
            write_config(shared, self._config.plain())
            words = [f"--{key}={value}" for key, value in choices.items()]
            place = [f"--run.name={name}", f"--run.root={sweep.path}"]
            return RunConfig(parse(config_parser("sweep"), ["--config", str(shared), *words, *place]))

    def _run(self, name: str, choices: dict[str, str]) -> float | None:
        """Train and evaluate one run; its validation metric, or None if it failed."""
        try:
            config = self._config_of(name, choices, self._folder)
            run = config.run
            train_run(config, self._launch)
            validation = validation_metrics(run)
            _require(self._metric, validation)
            result = _result(run, validation)
        except Exception as error:
            reason = as_known_error(error)
            if not isinstance(reason, UserError | TrainingFailed) or isinstance(reason, UnknownMetric):
                raise
            print(f"{name} failed: {one_line(reason)}", flush=True)
            self._file.add(name, choices, {"state": "failed", "reason": one_line(reason)})
            return None
        self._file.add(name, choices, {"state": "finished", **result})
        return self._file.value_of(name)


class UnknownMetric(UserError):
    """A metric that no validation has: all runs would fail alike."""


def _require(metric: str, validation: Mapping[str, float]) -> None:
    if metric not in validation:
        raise UnknownMetric(f"--metric {metric} is none of the validation: {', '.join(validation)}")
    if not math.isfinite(validation[metric]):
        raise UserError(f"validation {metric} is {validation[metric]}")


def _ends(swept: Sequence[Swept]) -> list[dict[str, str]]:
    """Choices in which each value, and both ends of each range, occur once."""
    columns = [one.choices or _both_ends(one) for one in swept]
    longest = max(map(len, columns))
    return [
        {one.key: column[min(row, len(column) - 1)] for one, column in zip(swept, columns, strict=True)}
        for row in range(longest)
    ]


def _both_ends(one: Swept) -> tuple[str, ...]:
    return tuple(str(int(end)) if one.whole else f"{end:.4g}" for end in (one.low, one.high))


def _result(run: RunFolder, validation: dict[str, float]) -> dict[str, Any]:
    """What the table has of a finished run, from its report."""
    arm = read_json(run.report / "report.json")["sides"][0]
    return {
        "validation": validation,
        "test": {name: found["mean"] for name, found in arm["quality"].items()},
        "seconds": arm["seconds"],
        "peak_bytes": arm["memory"]["peak_bytes"] if arm["memory"] else None,
    }
