"""Wrong values for every key of a config, and what `dbl train` says to each: the table of `test_wrong_configs.py`."""

import gc
import io
import json
import signal
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
from forked import run_forked

# Name of a kind of wrong value -> the value, as it is written on the command line.
MUTATIONS = {
    "text": "many",
    "nan": ".nan",
    "infinity": ".inf",
    "negative": "-3",
    "zero": "0",
    "huge": str(10**30),
    "empty": "[]",
    "null": "null",
}
# The kinds for keys that hold no number, and for those that hold any text.
_NOT_OF_NUMBERS = ("text", "nan", "empty", "null")
_NOT_OF_TEXTS = ("text", "null")
# A value that takes longer than this to be refused hangs.
_TIME_LIMIT_S = 60


class Case(NamedTuple):
    """A key of a config, and the kind of wrong value that it gets."""

    key: str
    mutation: str

    def arguments(self) -> list[str]:
        """The options that give the key its wrong value; in a file where the command line would take it for text."""
        if self.mutation != "null":
            return [f"--{self.key}={MUTATIONS[self.mutation]}"]
        nested: Any = None
        for name in reversed(self.key.split(".")):
            nested = {name: nested}
        Path("null.yaml").write_text(json.dumps(nested))
        return ["--config", "null.yaml"]

    def __str__(self) -> str:
        return f"{self.key}={MUTATIONS[self.mutation]}"


class Answer(NamedTuple):
    """Exit code of a command that got a wrong value; None if training would have started."""

    code: int | None
    errors: str

    def problem(self, case: Case) -> str | None:
        """Why this is not a refusal in one short line that names the key; None if it is one."""
        lines = [line for line in self.errors.splitlines() if "Warning: " not in line]
        if self.code is None:
            return "accepted"
        if self.code != 2:
            return f"exit code {self.code}: {lines[-1] if lines else ''}"
        if len(lines) != 1 or not lines[0].startswith("dbl: ") or len(lines[0]) > 200:
            return f"not one line: {lines}"
        name = case.key.rpartition(".")[2]
        if name not in lines[0] and name.replace("_", " ") not in lines[0]:
            return f"does not name the key: {lines[0]}"
        return None


def leaves(plain: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of a config that holds no further keys, dotted, with its value."""
    for key, value in plain.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def cases_of(key: str, value: Any, takes_text: bool) -> list[Case]:
    """The wrong values for a key, other than the value that it has.

    Args:
        key: the key.
        value: its value.
        takes_text: whether any text is a value of it, such as a path.
    """
    is_number = value is None or (isinstance(value, int | float) and not isinstance(value, bool))
    kinds = _NOT_OF_TEXTS if takes_text else MUTATIONS if is_number else _NOT_OF_NUMBERS
    own = "null" if value is None else "zero" if is_number and value == 0 else None
    return [Case(key, mutation) for mutation in kinds if mutation != own]


def answers(cases: list[Case], config: Path, folder: Path) -> dict[Case, Answer]:
    """What `dbl train` says to each case, up to where training would start.

    All cases run in one child. A case that ends the child, or hangs, gets a negative exit code, and the next child goes
    on with the others.
    """
    found: dict[Case, Answer] = {}
    while left := [case for case in cases if case not in found]:
        log = folder / "answers.jsonl"
        outcome = run_forked(_answer_all, folder, left, config, log, time_limit_s=600)
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        for line in lines:
            key, mutation, code, errors = json.loads(line)
            found[Case(key, mutation)] = Answer(code, errors)
        if len(lines) < len(left):
            found[left[len(lines)]] = Answer(outcome.code or -1, outcome.errors[-500:])
    return found


class _TrainingStarts(BaseException):
    """Raised in place of a training; no handler of errors may catch it."""


def _start(*arguments: Any, **options: Any) -> None:
    raise _TrainingStarts


def _answer_all(cases: list[Case], config: Path, log: Path) -> int:
    import huggingface_hub.constants

    import dbl.commands.train
    from dbl.commands import run_config, schema

    huggingface_hub.constants.HF_HUB_OFFLINE = True

    L.Trainer.fit = _start  # type: ignore[method-assign]
    dbl.commands.train.build_parser = cache(dbl.commands.train.build_parser)
    run_config.config_parser, run_config.run_parser = cache(schema.config_parser), cache(schema.run_parser)
    gc.freeze()  # launchers collect garbage, which takes long with so much imported
    for case in cases:
        signal.alarm(_TIME_LIMIT_S)  # its default action ends the process
        answer = _answer(["train", "--config", str(config), "--blocks=0", *case.arguments()])
        with log.open("a") as file:
            file.write(json.dumps([*case, *answer]) + "\n")
    return 0


def _answer(arguments: list[str]) -> Answer:
    from dbl.commands.main import main

    errors = io.StringIO()
    try:
        with redirect_stderr(errors), redirect_stdout(io.StringIO()):
            code: int | None = main(arguments)
    except _TrainingStarts:
        code = None
    except (Exception, SystemExit) as error:
        return Answer(1, f"{errors.getvalue()}\n{type(error).__name__}: {error}")
    return Answer(code, errors.getvalue())
