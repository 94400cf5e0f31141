"""Runs commands of the pages as a user types them, in folders whose configs have networks that train in a second."""

import os
import shlex
import shutil
import subprocess
import sys
import warnings
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from matplotlib.figure import Figure
from own_data import write_images, write_rows, write_texts

from dbl.commands import sweep
from dbl.commands.launch.inline import InlineBackend
from dbl.commands.launch.launcher import Launch
from dbl.commands.main import main
from dbl.commands.spelling import with_underscores
from dbl.commands.sweeping.values import grid
from dbl.training.memory.planner import MakePart, Planner
from docs.tables.parameters import parser_of

from .pages import ROOT
from .tiny import tiny

# Commands that install or fetch are skipped; file commands are run unchanged.
_FETCHING = ("git", "pip", "pip3", "uv")
_ON_FILES = ("cp", "mv", "mkdir", "ls", "cat")
_TRAINING = ("fit", "train", "compare", "sweep")
_MAKING_RUNS = (*_TRAINING, "convert")
_ON_A_MODEL = ("validate", "test", "predict")
# Overrides the length and devices that a page asks for: the last value of an option counts.
_CUT = ["--trainer.max_steps=2", "--trainer.devices=1", "--trainer.strategy=auto", "--trainer.accelerator=cpu"]


class UnknownCommand(AssertionError):
    """A command that this test cannot run."""

    def __init__(self, line: str, reason: str) -> None:
        marks = "<!-- needs: gpu -->, network, cluster or DBL_DATA"
        super().__init__(f"{line}: {reason}; mark it ({marks}) or add it to tests/docs/sandbox.py")


def dbl_arguments(line: str) -> list[str] | None:
    """The arguments of the `dbl` command behind a line of a page; None if there is none behind it.

    `make --dry-run` tells what a target would run.

    Raises:
        AssertionError: if the Makefile has no such target.
    """
    words = shlex.split(line)
    if words[0] == "dbl":
        return words[1:]
    if words[0] != "make":
        return None
    command = ["make", "--no-print-directory", "--dry-run", "--assume-old=.venv/.ready", *words[1:]]
    # Without the options of `make test`, which may have started these tests.
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL")}
    said = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert said.returncode == 0, f"{line}: {said.stderr}"
    return next((shlex.split(told)[1:] for told in said.stdout.splitlines() if told.startswith(".venv/bin/dbl ")), None)


def names_of_runs(words: list[str]) -> list[str]:
    """Names of the run folders that must exist before a command; without those that it creates."""
    named = [Path(word.partition("=")[2] or word).parts for word in words]
    names = [parts[1] for parts in named if len(parts) > 1 and parts[0] == "runs"]
    if words[0] in _ON_A_MODEL:
        names.append(_option(words, "--run.name") or Path(_option(words, "--config") or "").stem)
    return [name for name in dict.fromkeys(names) if name != "config"]


def _option(words: list[str], name: str) -> str | None:
    following = [word for before, word in pairwise(words) if before == name]
    joined = [word.removeprefix(f"{name}=") for word in words if word.startswith(f"{name}=")]
    return next(iter([*following, *joined]), None)


@dataclass
class Sandbox:
    """Folders with tiny configs: each command runs in one of its own, with copies of the runs that it names.

    Args:
        folder: parent of all folders; must be empty.
        lines: command lines of all pages that can be run, among them those that create the runs that others name.
    """

    folder: Path
    lines: list[str]
    _done: dict[tuple[str, ...], tuple[int, Path]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        (self.folder / "configs").mkdir()
        for path in (ROOT / "configs").glob("*.yaml"):
            config = tiny(yaml.safe_load(path.read_text(encoding="utf-8")))
            (self.folder / "configs" / path.name).write_text(yaml.safe_dump(config, sort_keys=False))
        shutil.copytree(ROOT / "configs" / "debug", self.folder / "configs" / "debug")

    def run(self, line: str) -> int:
        """Run a line of a page and return its exit code.

        Raises:
            UnknownCommand: if it cannot be run here.
        """
        with pytest.MonkeyPatch.context() as patch:
            words = _with_environment(shlex.split(line), patch)
            arguments = dbl_arguments(shlex.join(words))
            if arguments is not None:
                return self._run_dbl(arguments, line)[0]
            if words[0] in ("make", *_FETCHING):
                return 0
            if words[0] not in _ON_FILES:
                raise UnknownCommand(line, f"no test runs `{words[0]}`")
            return subprocess.run(words, cwd=self._place(words, line), check=False).returncode

    def parse(self, line: str) -> None:
        """Only parse a line that cannot be run here, if it is one of the commands that take a config."""
        with pytest.MonkeyPatch.context() as patch:
            arguments = dbl_arguments(shlex.join(_with_environment(shlex.split(line), patch)))
            if arguments and "--from_hub" in arguments:  # which gives the config
                arguments += ["--config", "configs/cifar10_dit_s2.yaml"]
            if arguments and arguments[0] in (*_TRAINING, *_ON_A_MODEL, "plan", "bench"):
                patch.chdir(self._place([] if arguments[0] in _ON_A_MODEL else arguments, line))
                parser_of(arguments[0]).parse_args(with_underscores(arguments[1:]))

    def _run_dbl(self, arguments: list[str], line: str) -> tuple[int, Path]:
        """Exit code and folder of a command; a command that occurs twice is run once."""
        key = tuple(arguments)
        if key not in self._done:
            place = self._place(arguments, line)
            self._done[key] = (_main(arguments, place), place)
        return self._done[key]

    def _place(self, words: list[str], line: str) -> Path:
        """A new folder for a command, with the runs and texts that it names."""
        place = self.folder / f"place_{len(list(self.folder.iterdir()))}"
        place.mkdir()
        (place / "configs").symlink_to(self.folder / "configs")
        for name in names_of_runs(words) if words else []:
            with_baseline = any(word.startswith("--baseline") or "/baseline" in word for word in words)
            made = self._made(name, "compare" if with_baseline else "train", line, trained=words[0] not in _TRAINING)
            shutil.copytree(made / "runs" / name, place / "runs" / name)
        if words and words[0] == "fit" and self._starts_from_an_ancestor(words):
            maker = ["train", "--config", str(_option(words, "--config")), "--blocks", "ancestor"]
            shutil.copytree(self._run_dbl(maker, line)[1] / "runs", place / "runs")
        for word in words:
            if word.endswith(".txt") and not Path(word).is_absolute():
                (place / word).parent.mkdir(parents=True, exist_ok=True)
                (place / word).write_text("A line of text that is there to be read. " * 50)
        if any("image_folder" in word for word in words):
            write_images(place / "photos", number=60, size=32)
        if any("text_files" in word for word in words):
            write_texts(place / "reviews.csv")
        if "trees.csv" in words:
            write_rows(place / "trees.csv")
        return place

    def _starts_from_an_ancestor(self, words: list[str]) -> bool:
        config = yaml.safe_load((self.folder / str(_option(words, "--config"))).read_text(encoding="utf-8"))
        return "dbl.Ancestor" in str(config["contract"].get("start"))

    def _made(self, name: str, command: str, line: str, trained: bool) -> Path:
        """The folder in which a run was created, and trained if asked: from the config of its name, or by a page."""
        if (self.folder / "configs" / f"{name}.yaml").is_file():
            maker = [command, "--config", f"configs/{name}.yaml"]
        else:
            naming = (dbl_arguments(found) or [] for found in self.lines if "--run.name" in found)
            maker = next((arguments for arguments in naming if _option(arguments, "--run.name") == name), [])
        if trained and maker[:1] == ["convert"]:
            using = (dbl_arguments(found) or [] for found in self.lines if f"runs/{name}/config.yaml" in found)
            maker = next((arguments for arguments in using if arguments[0] == "train"), maker)
        if not maker or maker[0] not in _MAKING_RUNS:
            raise UnknownCommand(line, f"no config and no command on a page makes runs/{name}")
        code, place = self._run_dbl(maker, line)
        assert code == 0, f"{' '.join(maker)} ended with exit code {code}"
        return place


def _with_environment(words: list[str], patch: pytest.MonkeyPatch) -> list[str]:
    """Set the variables in front of a command and return the rest of its words."""
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        patch.setenv(name, value)
    return words


def _cut(arguments: list[str]) -> list[str]:
    """Options that make a command take seconds."""
    if arguments[0] not in _TRAINING:
        return []
    return [*_CUT, *(["--seeds=0"] if _option(arguments, "--seeds") else [])]


def _plan_one_row(patch: pytest.MonkeyPatch) -> None:
    """Let the first row of a plan stand for all, and the given batch for the largest: each takes a dozen steps."""
    measured, found = Planner.peak, list[dict[str, int]]()

    def peak(planner: Planner, make_part: MakePart, batch_size: int) -> dict[str, int]:
        if not found:
            found.append(measured(planner, make_part, batch_size))
        return found[0]

    patch.setattr(Planner, "peak", peak)
    patch.setattr(Planner, "largest_batch", lambda planner, make_part, limit_bytes, near: near)


def _sweep_one_run(patch: pytest.MonkeyPatch) -> None:
    """Let the first combination of a sweep stand for all."""
    patch.setattr(sweep, "grid", lambda swept: grid(swept)[:1])


class _HandedOver(Exception):
    """A command has reached the point where other processes or machines would train the blocks."""


def _launch_inline(launch: Launch) -> InlineBackend:
    if launch.backend != "inline":
        raise _HandedOver
    return InlineBackend()


def _main(arguments: list[str], place: Path) -> int:
    """Run a command of `dbl` in a folder and this process, up to where other processes or machines take over."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.chdir(place)
        patch.setattr(sys, "argv", ["dbl"])
        patch.setattr(Figure, "draw", lambda *_: None)  # pictures stay empty: they take half of the time
        _plan_one_row(patch)
        _sweep_one_run(patch)
        if "--dry_run" not in with_underscores(arguments):
            patch.setattr(Launch, "make_backend", _launch_inline)
        try:
            return main([*arguments, *_cut(arguments)])
        except _HandedOver:
            return 0
        except SystemExit as end:  # --help
            return int(end.code or 0)
