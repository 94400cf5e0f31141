"""The precision of float32 matrix products: set where CUDA is used, in training and in evaluation, and nowhere else."""

from pathlib import Path

import pytest
import torch
from tiny_run import TINY

from dbl.commands import run_config
from dbl.commands.parsing import parse
from dbl.commands.run_config import RunConfig, make_trainer
from dbl.commands.schema import config_parser

CONFIG = Path(__file__).parents[2] / "configs" / "digits_dit.yaml"


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("options", "expected"), [([], "high"), (["--float32_matmul_precision=highest"], "highest")])
def test_a_trainer_on_cuda_sets_it(
    training: bool, options: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches an option that only a training, or only an evaluation, reads."""
    values: list[str] = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", values.append)
    monkeypatch.setattr(run_config, "_uses_cuda", lambda accelerator: True)
    arguments = ["--config", str(CONFIG), *TINY, f"--run.root={tmp_path}", *options]
    config = RunConfig(parse(config_parser(), arguments))
    make_trainer(config.build() if training else config.groups, [], training, tmp_path)
    assert values == [expected]
    assert config.plain()["float32_matmul_precision"] == expected


def test_a_cpu_ignores_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a setting that changes results on a CPU with matrix units of low precision."""
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda value: pytest.fail(f"set to {value}"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    config = RunConfig(parse(config_parser(), ["--config", str(CONFIG), *TINY, f"--run.root={tmp_path}"]))
    make_trainer(config.groups, [], False, tmp_path)
