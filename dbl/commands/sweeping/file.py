"""The files of a sweep: `sweep.json` with the results of its runs, and the page and picture made from it."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dbl.commands.sweeping.values import short_keys
from dbl.evaluation.sweep_report import ranked, sweep_figure, sweep_markdown
from dbl.utils.errors import UserError
from dbl.utils.files import read_json, write_json, write_text
from dbl.utils.plotting import save_figure
from dbl.utils.serialization import first_difference

# Groups of a config that say where, and not what, is trained; of the trainer only these keys say what.
_PLACE = ("run", "trainer")
_OF_THE_TRAINER = ("max_steps", "precision", "limit_train_batches", "overfit_batches")
_LABEL = 12


class SweepFile:
    """Results of a sweep, kept in its folder; every change is written at once.

    Args:
        folder: folder of the sweep.
        keys: keys that are tried.
        metric: name of the validation metric that chooses.

    Raises UserError if the file is damaged.
    """

    def __init__(self, folder: Path, keys: Sequence[str], metric: str) -> None:
        self._folder, self._path = folder, folder / "sweep.json"
        self._stored: dict[str, Any] = {}
        if self._path.is_file():
            stored = read_json(self._path)
            if not isinstance(stored, dict) or not {"config", "ranges", "runs", "keys", "metric"} <= stored.keys():
                raise UserError(f"{self._path} is damaged: give another --name, or remove it to collect results anew")
            self._stored = stored
        self._keys, self._metric = short_keys(keys), metric

    def begin(self, config: dict[str, Any], ranges: dict[str, str], cells: Mapping[str, dict[str, str]]) -> None:
        """Take over the results of an earlier call with the same config.

        Args:
            config: plain config that all runs share.
            ranges: ranges and choices from which a study draws, as text by key; empty for a grid.
            cells: choices of the runs of a grid, by name.

        Raises UserError if the earlier call had another config, or a study another search space.
        """
        shared = _shared(config)
        if self._stored:
            self._check_same(shared, ranges)
        earlier = {row["name"]: row for row in self._stored.get("runs", [])}
        waiting = {name: {"name": name, "choices": choices, "state": "waiting"} for name, choices in cells.items()}
        runs = {name: earlier.get(name, row) for name, row in waiting.items()} if cells else earlier
        self._stored = {
            "name": self._folder.name,
            "metric": self._metric,
            "keys": self._keys,
            "study": bool(ranges),
            "ranges": ranges,
            "best": None,
            "runs": [*runs.values()],
            "config": shared,
        }
        self._write()

    def _check_same(self, shared: dict[str, Any], ranges: dict[str, str]) -> None:
        difference = first_difference(shared, self._stored["config"])
        if difference is None and (ranges or self._stored["ranges"]):
            stored = {"--set": self._stored["ranges"], "--metric": self._stored["metric"]}
            difference = first_difference({"--set": ranges, "--metric": self._metric}, stored)
        if difference is not None:
            key, ours, theirs = (str(part)[:40] for part in difference)
            raise UserError(
                f"{self._folder} is a sweep of another config ({key} is {ours} here, {theirs} there): put it back, or "
                "give another --name"
            )

    def _row(self, name: str) -> dict[str, Any]:
        return next((row for row in self._stored["runs"] if row["name"] == name), {})

    def is_finished(self, name: str) -> bool:
        """Whether a run has a result of this metric."""
        row = self._row(name)
        return row.get("state") == "finished" and self._metric in row["validation"]

    def value_of(self, name: str) -> float:
        """The validation metric of a finished run."""
        return float(self._row(name)["validation"][self._metric])

    def add(self, name: str, choices: dict[str, str], result: dict[str, Any]) -> None:
        """Store the result of a run in place of an earlier one, and write all files."""
        row = {"name": name, "choices": choices, **result}
        runs = [row if other["name"] == name else other for other in self._stored["runs"]]
        self._stored["runs"] = runs if row in runs else [*runs, row]
        self._write()

    def _write(self) -> None:
        rows = ranked(self._stored["runs"], self._metric)
        self._stored["best"] = rows[0]["name"] if rows else None
        write_json(self._path, self._stored)
        write_text(self._folder / "sweep.md", sweep_markdown(self._stored))
        if rows:
            save_figure(sweep_figure(self._stored), self._folder / "sweep.png")

    def summary(self) -> str:
        """The end of the command: the best run, the files and the next command."""
        rows = ranked(self._stored["runs"], self._metric)
        if not rows:
            return f"{'table':<{_LABEL}}{self._folder / 'sweep.md'}"
        best = rows[0]
        table = re.sub(r"\\(.)", r"\1", (self._folder / "sweep.md").read_text(encoding="utf-8")).splitlines()
        lines = [line for line in table if line.startswith("|") and "---" not in line]
        value = f"validation {self._metric} {best['validation'][self._metric]:.4g}"
        files = f"{self._folder / 'sweep.md'}; sweep.json, sweep.png beside it"
        return "\n".join(
            [
                *("", *lines, ""),
                f"{'best':<{_LABEL}}{best['name']}, {value}",
                f"{'table':<{_LABEL}}{files}",
                f"{'next':<{_LABEL}}dbl compare --config {self._folder / best['name'] / 'config.yaml'}",
            ]
        )


def _shared(config: dict[str, Any]) -> dict[str, Any]:
    """What must be equal in all calls of a sweep."""
    trainer = {key: config["trainer"][key] for key in _OF_THE_TRAINER}
    return {key: value for key, value in config.items() if key not in _PLACE} | {"trainer": trainer}
