"""Commands run in this process on the embedded digits, with networks so small that a block trains in a second."""

import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tiny_run import TINY

from dbl.commands.main import main
from dbl.utils.errors import DblWarning

Run = Callable[..., int]


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
