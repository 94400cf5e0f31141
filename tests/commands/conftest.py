"""Commands run in this process on the embedded digits, with networks so small that a block trains in a second."""

import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dbl.cli import main
from dbl.errors import DblWarning

Run = Callable[..., int]

TINY = [
    "--contract.network.init_args.num_layers=3",
    "--contract.network.init_args.width=16",
    "--contract.network.init_args.num_heads=2",
    "--contract.network.init_args.patch_size=4",
    "--data.init_args.batch_size=32",
    "--trainer.accelerator=cpu",
    "--trainer.max_steps=4",
    "--trainer.val_check_interval=2",
    "--trainer.enable_progress_bar=false",
    "--checkpoint.every_n_steps=2",
    "--inference.num_images=4",
    "--image_quality.features=none",
    "--likelihood.levels_per_block=2",
    "--diagnostics.num_samples=6",
    "--diagnostics.levels_per_block=2",
]


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
