"""Bad input gives one line that names the key or file and the remedy, exit code 2, and overwrites nothing."""

import os
from pathlib import Path

import pytest

from dbl.commands.main import main

from .conftest import Run

CASES = {
    "unknown key": ("fit", ["--modle.block=1"], "--modle.block=1"),
    "unknown nested key": ("fit", ["--contract.network.init_args.wdth=8"], "wdth"),
    "not a number": ("train", ["--contract.partition.num_blocks=three"], "contract.partition.num_blocks"),
    "layers do not split": ("train", ["--contract.partition.num_blocks=2"], "partition.layers"),
    "wrong split": ("train", ["--contract.partition.layers=[1,1,2]"], "partition.layers"),
    "empty noise range": ("train", ["--contract.noise.init_args.sigma_min=90"], "sigma_min (90.0)"),
    "negative overlap": ("train", ["--contract.partition.overlap=-0.1"], "partition.overlap (-0.1)"),
    "no such block": ("fit", ["--model.block=3"], "block 3 does not exist: this run has blocks 0 to 2"),
    "no such block in a list": ("train", ["--blocks=0,7"], "block 7 does not exist"),
    "not a list of blocks": ("train", ["--blocks=first"], "--blocks first"),
    "not assembled": ("test", [], "dbl assemble"),
    "patch that does not divide": (
        "train",
        ["--contract.network.init_args.patch_size=3"],
        "patch_size (3)",
    ),
    "no steps": ("fit", ["--trainer.max_steps=-1"], "trainer.max_steps"),
    "clipping by the trainer": ("fit", ["--trainer.gradient_clip_val=1"], "model.recipe.clip_norm"),
    "guidance of an unguided network": (
        "train",
        ["--contract.network.init_args.cond_dropout=0", "--inference.sampler.guidance_scale=2"],
        "inference.sampler.guidance_scale",
    ),
    "several devices": ("train", ["--trainer.devices=2"], "trainer.devices=2"),
    "no such class": ("fit", ["--contract.network=dbl.networks.Nope"], "contract.network"),
    "checkpoint that is absent": ("fit", ["--ckpt_path=nowhere.ckpt"], "nowhere.ckpt does not exist"),
}


@pytest.mark.parametrize("case", CASES)
def test_an_error_is_one_line_and_exit_code_2(case: str, dbl: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a traceback, a page of usage, another exit code, or a message that does not name the key."""
    command, options, named = CASES[case]
    assert dbl(command, "digits_dit", *options) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dbl: ")]
    assert len(lines) == 1
    assert named in lines[0]


def test_unknown_commands_and_config_files_are_named(dbl: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a traceback before any config was read."""
    assert main(["trian"]) == 2
    assert "'trian'" in capsys.readouterr().err
    assert dbl("train", Path("missing.yaml")) == 2
    assert "missing.yaml" in capsys.readouterr().err


def test_folders_that_are_no_runs_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a traceback from a path that was mistyped."""
    for command in ("assemble", "sample"):
        assert main([command, str(tmp_path / "nowhere")]) == 2
        assert "nowhere is not a run folder" in capsys.readouterr().err


def test_a_changed_contract_is_refused_and_nothing_is_overwritten(dbl: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches blocks of two contracts in one run, and a config.yaml that no longer says how the blocks were trained."""
    assert dbl("train", "digits_dit") == 0
    run = Path("runs/digits_dit")
    before = {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}
    assert dbl("train", "digits_dit", "--contract.partition.overlap=0.2") == 2
    assert "contract.partition.overlap is 0.2 here but 0.05 in" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()} == before


def test_a_truncated_checkpoint_is_named(dbl: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a resume that crashes in the middle of loading, or that starts again without a word."""
    assert dbl("fit", "digits_dit", "--model.block=1") == 0
    for name in ("last", "previous"):
        path = Path(f"runs/digits_dit/block_1/checkpoints/{name}.ckpt")
        os.truncate(path, path.stat().st_size // 2)
    assert dbl("fit", "digits_dit", "--model.block=1") == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert "block_1/checkpoints/last.ckpt is damaged" in message
    assert "--from-scratch" in message


def test_a_contract_edited_by_hand_is_refused(dbl: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a block that is trained, or a stack assembled, under what no other block agreed to."""
    assert dbl("fit", "digits_dit") == 0
    path = Path("runs/digits_dit/contract.json")
    text = path.read_text()
    edited = text.replace('"sigma_data": 0.5', '"sigma_data": 0.6', 1)
    assert edited != text
    path.write_text(edited)
    for command in (["train"], ["fit", "--model.block=1"]):
        assert dbl(command[0], "digits_dit", *command[1:]) == 2
        assert "contract.json was changed after it was written" in capsys.readouterr().err.strip().splitlines()[-1]
    assert main(["assemble", "runs/digits_dit"]) == 2
    assert not Path("runs/digits_dit/block_1/checkpoints").exists()


def test_a_stack_of_another_contract_is_refused(dbl: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a test of old weights under a new config."""
    assert dbl("train", "digits_dit") == 0
    for block in range(3):
        for name in ("last", "previous"):
            Path(f"runs/digits_dit/block_{block}/checkpoints/{name}.ckpt").unlink()
    assert dbl("test", "digits_dit", "--contract.seed=5") == 2
    assert "assembled under another contract" in capsys.readouterr().err


def test_help_answers_without_torch(capsys: pytest.CaptureFixture[str]) -> None:
    """Catches an import that makes `dbl --help` slow: torch alone takes seconds."""
    import subprocess
    import sys

    code = "import sys; from dbl.commands.main import main; main(['--help']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "compare" in done.stdout


_BARE = """
contract: {network: {class_path: dbl.DiT, init_args: {num_layers: 3, width: 16, num_heads: 2, patch_size: 4}},
  target: {class_path: dbl.PixelTarget}}
data: {class_path: DATA, init_args: {batch_size: 8, eval_batch_size: 8}}
trainer: {max_steps: 2, accelerator: cpu}
"""
_POINTS = """
from dbl.data import ResumableDataModule
from dbl.data.spec import DataSpec

class Points(ResumableDataModule):
    spec = declared_spec = DataSpec("points", "1", 1, (1.0,))

    def split(self, name):
        return []

    batches = split
"""


@pytest.mark.parametrize("command", ["train", "compare", "plan"])
def test_data_of_another_kind_is_named_before_any_training(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a traceback from the report, at the end of the training."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("points_of_a_test.py").write_text(_POINTS)
    Path("points.yaml").write_text(_BARE.replace("DATA", "points_of_a_test.Points"))
    assert main([command, "--config", "points.yaml"]) == 2
    assert "Points has neither images nor text" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_config_without_a_precision_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches Lightning's own default, null, refused as a precision that is not supported."""
    monkeypatch.chdir(tmp_path)
    Path("bare.yaml").write_text(_BARE.replace("DATA", "dbl.data.Digits"))
    assert main(["plan", "--config", "bare.yaml"]) == 0
