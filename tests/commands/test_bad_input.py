"""Bad input gives one line that names the key or file and the remedy, exit code 2, and overwrites nothing."""

import os
from pathlib import Path

import pytest

from dbl.commands.main import main

from .conftest import Run

CASES = {
    "misspelt option": ("fit", ["--trainer.max_step=3"], "did you mean --trainer.max_steps?"),
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
    "class of another kind": ("fit", ["--contract.network=dbl.PixelTarget"], "one of dbl.CausalLM, dbl.DiT"),
    "a length of letters": ("fit", ["--trainer.max_steps=x"], "trainer.max_steps (x) must be a whole number"),
    "misspelt argument": ("fit", ["--contract.network.init_args.num_heds=2"], "did you mean num_heads?"),
    "text for a number": ("fit", ["--contract.network.init_args.width=wide"], "init_args.width (wide) must be a whole"),
    "text for a learning rate": (
        "fit",
        ["--model.recipe.optimizer.init_args.lr=x"],
        "init_args.lr (x) must be a number",
    ),
    "a second node that is not there": ("fit", ["--trainer.num_nodes=2"], "trainer.num_nodes=2 needs a process on"),
    "more processes than cores": ("fit", ["--trainer.devices=9999"], "trainer.devices=9999: there are"),
    "devices that are no numbers": ("fit", ["--trainer.devices=[a]"], "trainer.devices ([a])"),
    "accelerator of another library": ("fit", ["--trainer.accelerator=tpu"], "trainer.accelerator (tpu)"),
    "time that is none": ("fit", ["--trainer.max_time=soon"], "trainer.max_time (soon) must be a time such as"),
    "no time at all": ("fit", ["--trainer.max_time=00:00:00:00"], "trainer.max_time (00:00:00:00)"),
    "share of no epoch": (
        "fit",
        ["--trainer.val_check_interval=0.5"],
        "trainer.val_check_interval (0.5)",
    ),
    "no checkpoints": ("fit", ["--trainer.enable_checkpointing=false"], "trainer.enable_checkpointing"),
    "no callbacks": ("fit", ["--trainer.barebones=true"], "trainer.barebones"),
    "strategy of another kind": ("fit", ["--trainer.strategy=ddp_bogus"], "trainer.strategy=ddp_bogus"),
    "optimizer with a closure": ("fit", ["--model.recipe.optimizer=torch.optim.LBFGS"], "model.recipe.optimizer"),
    "optimizer that refuses": ("train", ["--model.recipe.optimizer.init_args.eps=-1"], "model.recipe.optimizer"),
    "no name": ("fit", ["--run.name="], "run.name ('')"),
    "name of this folder": ("fit", ["--run.name=."], "run.name ('.')"),
    "name of the folder above": ("fit", ["--run.name=.."], "run.name ('..')"),
    "name with a folder": ("fit", ["--run.name=a/b"], "run.name ('a/b')"),
    "absolute name": ("fit", ["--run.name=/tmp/elsewhere"], "run.name ('/tmp/elsewhere')"),
    "name of two lines": ("fit", ["--run.name=a\nb"], "run.name ('a\\nb')"),
    "name that ends early": ("fit", ["--run.name=a\0b"], "run.name ('a\\x00b')"),
    "name that is too long": ("fit", ["--run.name=" + 300 * "n"], "run.name ('nnn"),
    "root in a file": ("fit", [f"--run.root={__file__}/runs"], "test_bad_input.py is a file"),
    "option without a value": ("fit", ["--trainer.max_steps"], "--trainer.max_steps"),
    "word that is no option": ("train", ["fast"], "fast is not an option"),
    "checkpoint that is absent": ("fit", ["--ckpt_path=nowhere.ckpt"], "nowhere.ckpt does not exist"),
}


@pytest.mark.parametrize("case", CASES)
def test_an_error_is_one_line_and_exit_code_2(case: str, dbl: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a traceback, a page of usage, another exit code, or a message that does not name the key."""
    command, options, named = CASES[case]
    assert dbl(command, "digits_dit", *options) == 2
    line = refusal(capsys)
    assert named in line


BROKEN = {
    "a package that is absent": ("import a_package_that_is_absent", "No module named 'a_package_that_is_absent'"),
    "a name that is absent": ("from dbl import Nonsense", "cannot import name 'Nonsense'"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_an_import_that_fails_within_a_module_of_the_user_is_told(
    case: str, dbl: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a message that says only which classes dbl has, though the user's own module was found."""
    line, reason = BROKEN[case]
    Path("my_broken_network.py").write_text(f"{line}\nclass Net: ...\n")
    monkeypatch.syspath_prepend(Path.cwd())
    assert dbl("plan", "digits_dit", "--contract.network=my_broken_network.Net") == 2
    refused = refusal(capsys)
    assert "contract.network.class_path (my_broken_network.Net) could not be imported" in refused
    assert reason in refused


def refusal(capsys: pytest.CaptureFixture[str]) -> str:
    """The one short line that was printed on standard error."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("dbl: ")
    assert len(lines[0]) <= 200
    return lines[0]


FILES = {
    "bytes": (bytes(range(128, 256)), "bad.yaml is not UTF-8 text"),
    "a list": (b"- 1\n", "bad.yaml holds no keys, but list"),
    "nothing": (b"", "bad.yaml holds no keys"),
    "an open bracket": (b"run:\n  name: [a\n", "bad.yaml, line 3: not YAML"),
    "a tab": (b"run:\n\tname: a\n", "bad.yaml, line 2: not YAML"),
    "depth": (1000 * b"[" + 1000 * b"]", "bad.yaml is nested too deeply"),
    "a loop": (b"run: {name: '${run.name}'}\n", "run.name"),
    "a reference to nothing": (b"run: {name: '${run.nam}'}\n", "run.nam"),
    "a key that is unknown": (b"trainer: {max_step: 3}\n", "did you mean trainer.max_steps?"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_is_no_config_is_named(case: str, dbl: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a traceback of the parser, or of the library of references."""
    content, named = FILES[case]
    Path("bad.yaml").write_bytes(content)
    assert dbl("train", "digits_dit", "--config", "bad.yaml") == 2
    assert named in refusal(capsys)


PLAIN = {
    "assemble without a run": (["assemble"], "run"),
    "assemble other weights": (["assemble", "a", "--weights=best"], "weights"),
    "assemble an unknown option": (["assemble", "a", "--weihgts=ema"], "--weihgts=ema is not known"),
    "tokenizer without files": (["tokenizer"], "files"),
    "tokenizer of no size": (["tokenizer", "--files=a", "--output=b", "--vocab_size=many"], "vocab_size (many)"),
    "sample without a run": (["sample"], "run"),
}


@pytest.mark.parametrize("case", PLAIN)
def test_commands_without_a_config_refuse_alike(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a page of usage from a command with a parser of its own."""
    arguments, named = PLAIN[case]
    assert main(arguments) == 2
    assert named in refusal(capsys)


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
    assert "--from_scratch" in message


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


@pytest.mark.parametrize("command", ["train", "compare", "plan", "bench"])
def test_data_of_another_kind_is_named_before_any_training(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a traceback from the report, at the end of the training."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("points_of_a_test.py").write_text(_POINTS)
    Path("points.yaml").write_text(_BARE.replace("DATA", "points_of_a_test.Points"))
    assert main([command, "--config", "points.yaml"]) == 2
    assert "Points has neither images, vectors nor text" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_config_without_a_precision_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches Lightning's own default, null, refused as a precision that is not supported."""
    monkeypatch.chdir(tmp_path)
    Path("bare.yaml").write_text(_BARE.replace("DATA", "dbl.data.Digits"))
    assert main(["plan", "--config", "bare.yaml"]) == 0
