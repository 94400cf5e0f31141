"""`dbl train`, `compare`, `sample`, `test` and `predict` from the command line to the files."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from dbl.commands.main import main
from dbl.evaluation.stack_evaluation import StackEvaluation
from dbl.run.model_folder import ModelFolder
from dbl.utils.files import read_tensors

from .conftest import Run


def _report(name: str) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(Path("runs", name, "report", "report.json").read_text())
    return report


def test_train_leaves_the_run_folder_of_the_contract_with_users(dbl: Run, tmp_path: Path) -> None:
    """Catches a file that is missing, has another name, or is left behind half written."""
    assert dbl("train", "digits_dit") == 0
    run = tmp_path / "runs" / "digits_dit"
    expected = ["config.yaml", "contract.json", "model/config.json", "report/report.md", "report/report.json"]
    expected += ["report/samples.png", *(f"model/block_{block}.safetensors" for block in range(3))]
    expected += [f"block_{block}/{file}" for block in range(3) for file in ("checkpoints/last.ckpt", "metrics.csv")]
    assert [file for file in expected if not (run / file).is_file()] == []
    assert len(list(run.glob("block_1/events*"))) == 1
    assert not [path for path in run.rglob("*") if ".tmp" in path.name]


def test_the_report_says_what_was_done(dbl: Run) -> None:
    """Catches figures that are hard-coded or that belong to another part."""
    assert dbl("train", "digits_dit") == 0
    report = _report("digits_dit")
    (side,) = report["sides"]
    parameters = [
        sum(parameter.numel() for parameter in ModelFolder("runs/digits_dit/model").denoiser(block).parameters())
        for block in range(3)
    ]
    assert [part["parameters"] for part in side["parts"]] == parameters
    assert [part["steps"] for part in side["parts"]] == [4, 4, 4]
    assert side["parameters_at_once"] == max(parameters)
    assert sum(side["calls"]) == 24
    assert 0 <= side["seconds"] < 60  # rounded: four tiny steps may take less than a tenth of a second
    assert "![samples](samples.png)" in Path("runs/digits_dit/report/report.md").read_text()


def test_training_again_leaves_finished_blocks_alone(dbl: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a second call that throws away what the first one trained."""
    assert dbl("train", "digits_dit") == 0
    before = Path("runs/digits_dit/block_1/checkpoints/last.ckpt").read_bytes()
    assert dbl("train", "digits_dit") == 0
    assert Path("runs/digits_dit/block_1/checkpoints/last.ckpt").read_bytes() == before
    assert "block_1 is trained already (4 steps)" in capsys.readouterr().out


def test_from_scratch_trains_anew(dbl: Run) -> None:
    """Catches an option that is read nowhere: with another recipe the weights must differ."""
    assert dbl("fit", "digits_dit") == 0
    before = Path("runs/digits_dit/block_0/checkpoints/last.ckpt").read_bytes()
    assert dbl("fit", "digits_dit", "--from_scratch", "--model.recipe.optimizer.lr=0.01") == 0
    assert Path("runs/digits_dit/block_0/checkpoints/last.ckpt").read_bytes() != before


def test_blocks_of_one_run_can_be_trained_in_several_calls(dbl: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a stack that is assembled with a hole, and blocks that depend on the call that trained them."""
    assert dbl("train", "digits_dit", "--blocks=2") == 0
    assert "not assembled yet: train the other blocks with --blocks 0,1" in capsys.readouterr().out
    assert not Path("runs/digits_dit/model").exists()
    assert dbl("train", "digits_dit", "--blocks=0,1") == 0
    assert dbl("train", "digits_dit", "--run.name=whole") == 0
    for block in range(3):
        states = [ModelFolder(f"runs/{name}/model").denoiser(block).state_dict() for name in ("digits_dit", "whole")]
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_more_steps_go_on_where_the_training_ended(dbl: Run) -> None:
    """Catches a resume that starts again, and metrics of the first part that are lost."""
    assert dbl("fit", "digits_dit") == 0
    assert dbl("fit", "digits_dit", "--trainer.max_steps=6") == 0
    rows = Path("runs/digits_dit/block_0/metrics.csv").read_text().splitlines()
    steps = [int(row.split(",")[rows[0].split(",").index("step")]) for row in rows[1:]]
    assert max(steps) > 4
    assert min(steps) <= 2
    stored = torch.load("runs/digits_dit/block_0/checkpoints/last.ckpt", weights_only=True)
    assert stored["global_step"] == 6


def test_compare_reports_blocks_beside_one_block(dbl: Run) -> None:
    """Catches a baseline with other steps or layers than the blocks have together."""
    assert dbl("compare", "digits_dit") == 0
    blocks, whole, _ = _report("digits_dit")["sides"]
    assert (blocks["name"], whole["name"]) == ("blocks", "end_to_end")
    assert [part["layers"] for part in whole["parts"]] == [3]
    assert whole["parts"][0]["steps"] == blocks["parts"][0]["steps"] == 4
    assert blocks["parameters_at_once"] < whole["parameters_at_once"]
    assert {"test/loss"} <= blocks["test"].keys() & whole["test"].keys()


def test_compare_refuses_unequal_compute(dbl: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a report that calls 4 steps against 6 equal compute: finished blocks are not cut back."""
    assert dbl("train", "digits_dit", "--trainer.max_steps=6") == 0
    assert dbl("compare", "digits_dit") == 2
    assert "block_0: 6" in capsys.readouterr().err


def test_each_part_keeps_the_config_it_was_trained_with(dbl: Run) -> None:
    """Catches a recipe that is lost when another block is trained with another one."""
    assert dbl("fit", "digits_dit", "--model.recipe.optimizer.lr=0.002") == 0
    assert dbl("fit", "digits_dit", "--model.block=1", "--model.recipe.optimizer.lr=0.003") == 0
    rates = [Path(f"runs/digits_dit/block_{block}/config.yaml").read_text() for block in (0, 1)]
    assert "lr: 0.002" in rates[0]
    assert "lr: 0.003" in rates[1]
    assert "lr: 0.002" in Path("runs/digits_dit/config.yaml").read_text()


def test_compare_reports_a_classifier_beside_the_plain_vit(dbl: Run) -> None:
    """Catches a baseline that is tested with untrained weights: the accuracy must be that of the checkpoint."""
    steps = ["--trainer.max_steps=60", "--model.recipe.optimizer.lr=0.003", "--contract.network.mlp_width=32"]
    assert dbl("compare", "digits_vit", *steps) == 0
    blocks, whole, _ = _report("digits_vit")["sides"]
    assert [part["part"] for part in whole["parts"]] == ["end_to_end"]
    assert whole["test"]["test/accuracy"] > 0.2
    assert blocks["test"]["test/accuracy"] > 0.2
    assert blocks["calls"] == [1, 1, 1]


def test_test_and_predict_use_the_assembled_stack(dbl: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches commands that evaluate a fresh network."""
    assert dbl("train", "digits_vit", "--contract.network.mlp_width=32") == 0
    capsys.readouterr()
    assert dbl("test", "digits_vit", "--contract.network.mlp_width=32") == 0
    printed = capsys.readouterr().out
    (side,) = _report("digits_vit")["sides"]
    assert f"{side['test']['test/loss_block_0']:.6f}"[:6] in printed
    assert dbl("validate", "digits_vit", "--contract.network.mlp_width=32") == 0
    assert dbl("predict", "digits_vit", "--contract.network.mlp_width=32") == 0
    predictions = read_tensors(Path("runs/digits_vit/report/predictions.safetensors"))["predictions"]
    assert predictions.shape == (355,)
    assert dbl("test", "digits_vit", "--contract.network.mlp_width=32", "--ckpt_path=other.ckpt") == 2


def test_sigterm_ends_an_evaluation(
    dbl: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a signal that Lightning keeps to itself: a job that is told to stop would be killed."""
    assert dbl("train", "digits_dit") == 0
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(StackEvaluation, "test_step", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    assert dbl("test", "digits_dit") == 130
    assert "stopped by a signal" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before


def test_sample_draws_the_classes_asked_for(dbl: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches options of `dbl sample` that are read nowhere."""
    assert dbl("train", "digits_dit") == 0
    fast = ["--sampler.num_steps=15", "--num_images=4"]
    assert main(["sample", "runs/digits_dit", *fast, "--output=a.png", "--classes=[3]"]) == 0
    assert main(["sample", "runs/digits_dit", *fast, "--output=b.png", "--classes=[3]", "--keep_in_memory=one"]) == 0
    assert main(["sample", "runs/digits_dit", *fast, "--output=c.png", "--classes=[3]", "--seed=1"]) == 0
    pictures = [Path(name).read_bytes() for name in ("a.png", "b.png", "c.png")]
    assert pictures[0] == pictures[1] != pictures[2]
    capsys.readouterr()
    errors = {
        "--classes=11": "there are classes 0 to 9",
        "--num_images=0": "--num_images (0)",
        "--device=x": "--device x",
    }
    for option, message in errors.items():
        assert main(["sample", "runs/digits_dit", option]) == 2
        assert message in capsys.readouterr().err


def test_sample_uses_the_sampler_of_the_run(dbl: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches pictures that were made with other settings than those of the report."""
    assert dbl("train", "digits_dit", "--inference.sampler.num_steps=17") == 0
    capsys.readouterr()
    assert main(["sample", "runs/digits_dit", "--num_images=2"]) == 0
    counts = capsys.readouterr().out.splitlines()[0].partition(": ")[2]
    assert sum(map(int, counts.split(", "))) == 17


def test_assemble_can_be_called_alone(dbl: Run) -> None:
    """Catches a command that works only inside `dbl train`."""
    assert dbl("train", "digits_dit") == 0
    Path("runs/digits_dit/model/block_0.safetensors").unlink()
    assert main(["assemble", "runs/digits_dit"]) == 0
    ModelFolder("runs/digits_dit/model").denoiser(0)


def test_interpolation_follows_the_command_line(dbl: Run, tmp_path: Path) -> None:
    """Catches a YAML reference that is resolved before the override that it should follow."""
    config = Path(__file__).parents[2] / "configs" / "digits_dit.yaml"
    linked = tmp_path / "linked.yaml"
    linked.write_text(config.read_text().replace("name: digits_dit", "name: w${contract.network.init_args.width}"))
    assert dbl("train", linked, "--blocks=0", "--contract.network.init_args.width=24") == 0
    assert Path("runs/w24/contract.json").is_file()
