"""Commands run in this process on the embedded digits, with networks so small that a block trains in a second."""

import sys
import warnings
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from tiny_run import TINY

from dbl.commands.main import main
from dbl.training.memory.planner import Planner, plan_rows
from dbl.utils.errors import DblWarning

Run = Callable[..., int]

_PLANS: dict[tuple[str, str], list[dict[str, Any]]] = {}


@pytest.fixture(autouse=True)
def plans_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plan the memory of the same config and batch once, not for the report of each run: it takes a second."""

    def planned(planner: Planner, *options: Any) -> list[dict[str, Any]]:
        key = repr(vars(planner)), repr(options)
        if key not in _PLANS:
            _PLANS[key] = plan_rows(planner, *options)
        return deepcopy(_PLANS[key])

    monkeypatch.setattr("dbl.commands.memory_plan.plan_rows", planned)


@pytest.fixture
def dbl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Run a command on a tiny config, with its runs under tmp_path: `dbl("train", "digits_dit", "--option=value")`."""
    configs = Path(__file__).parents[2] / "configs"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["dbl"])

    def run(command: str, config: str | Path, *options: str) -> int:
        file = configs / f"{config}.yaml" if isinstance(config, str) else config
        return main([command, "--config", str(file), *TINY, *options])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", DblWarning)
        yield run
