"""The benchmark of fine-tuning: four arms from one network, on data that it has not seen."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from forked import run_dbl
from PIL import Image
from tiny_run import TINY

import benchmarks.conversion
from benchmarks import finetuning
from dbl.run.folder import RunFolder

CONFIG = Path(__file__).parents[1] / "configs" / "digits_dit.yaml"
SHORT = ["--diagnostics.num_samples=0", "--image_quality.by_steps=false", "--memory.step=2"]


def _photos(folder: Path) -> None:
    """Ten classes of images of the size of the digits."""
    draws = np.random.default_rng(0)
    for number in range(200):
        path = folder / str(number % 10) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 256, (8, 8), np.uint8)).save(path)


def test_each_arm_is_the_training_that_its_name_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches arms of unequal compute, data that stay those of the source, and runs that a second call trains anew."""
    pytest.importorskip("peft")
    _photos(tmp_path / "photos")
    one_block = ["--contract.partition.num_blocks=1", "--run.name=source", "--diagnostics.num_samples=0"]
    source = run_dbl(tmp_path, "train", f"--config={CONFIG}", *TINY, *one_block, time_limit_s=300)
    assert source.code == 0, source

    def called(command: list[str], run: Path) -> None:
        outcome = run_dbl(tmp_path, *command, time_limit_s=300)
        assert outcome.code == 0, outcome

    monkeypatch.setattr(benchmarks.conversion, "called", called)
    monkeypatch.chdir(tmp_path)
    data = ["--data=dbl.ImageFolder", "--data.folder=photos", "--data.image_size=8", "--data.channels=1"]
    options = ["runs/source", "--num_blocks=3", "--steps=4", "--seeds=1", "--rank=2", "--lora_lr=0.01", "--name=t"]
    monkeypatch.setattr(
        sys, "argv", ["finetuning", *options, *data, "--data.batch_size=8", "--data.eval_batch_size=8", *SHORT]
    )
    finetuning.main()
    rows = {row["arm"]: row for row in json.loads(capsys.readouterr().out)}
    assert tuple(rows) == finetuning.ARMS
    assert len({row["layer_passes"] for row in rows.values()}) == 1
    for arm, row in rows.items():
        run = RunFolder(f"t_{arm}_4_seed_1", "runs/finetuning")
        contract = run.load_contract()
        assert (contract.data.name, contract.config.seed) == ("photos", 1)
        assert contract.partition.num_blocks == (3 if "blocks" in arm else 1)
        recipe = run.config.read_text()
        assert ("rank: 2" in recipe) == ("lora" in arm)
        assert ("lr: 0.01\n" in recipe) == ("lora" in arm)
        assert row["measured_bytes"] == pytest.approx(row["planned_bytes"], rel=0.05)
        assert len(row["validation"]) == contract.partition.num_blocks
    assert rows["blocks_full"]["planned_bytes"] < rows["whole_full"]["planned_bytes"]
    monkeypatch.setattr(benchmarks.conversion, "called", lambda command, run: pytest.fail(f"{run} is trained anew"))
    finetuning.main()
    assert {row["arm"]: row for row in json.loads(capsys.readouterr().out)} == rows
