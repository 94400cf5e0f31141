"""`dbl train`, `compare` and `test` on text, and what they refuse."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from dbl.run.folder import RunFolder
from dbl.run.model_folder import ModelFolder

from .text_runs import CONFIGS, KINDS, TINY, compared, run_command

BASELINES = {"pydoc_ar": "end_to_end", "pydoc_mdm": "block_0", "pydoc_huginn": "end_to_end"}


def report(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "report" / "report.json").read_text())
    return found


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["dbl"])
    return tmp_path


@pytest.fixture(params=KINDS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compared(request.param, tmp_path_factory)


def test_a_comparison_leaves_all_files(run: Path) -> None:
    """Catches a file that is missing, has another name or is left behind half written, and a lost tokenizer."""
    blocks = range(1 if run.name == "pydoc_huginn" else 2)
    expected = ["config.yaml", "contract.json", "tokenizer.json", "model/config.json", "report/report.md"]
    expected += [f"model/block_{block}.safetensors" for block in blocks]
    expected += [f"block_{block}/checkpoints/last.ckpt" for block in blocks]
    expected += ["baseline/contract.json", "baseline/tokenizer.json"]
    expected += [f"baseline/{BASELINES[run.name]}/checkpoints/last.ckpt"]
    assert [file for file in expected if not (run / file).is_file()] == []
    assert not [path for path in run.rglob("*") if ".tmp" in path.name]
    folder = RunFolder.at(run)
    assert json.loads(folder.tokenizer.read_text())["identity"] == folder.load_contract().data.tokenizer  # type: ignore[attr-defined]
    assert len(list((run / "model").glob("block_*.safetensors"))) == len(blocks)
    ModelFolder(run / "model").denoiser(0)


def test_both_sides_are_measured_alike(run: Path) -> None:
    """Catches a side without its nats, its texts or its memory, and figures of the other side."""
    blocks, whole, *_ = report(run)["sides"]
    assert (blocks["name"], whole["name"]) == ("blocks", "end_to_end")
    assert [part["part"] for part in whole["parts"]] == [BASELINES[run.name]]
    for side in (blocks, whole):
        assert side["text_quality"]["num_texts"] == 2
        assert len(side["text_quality"]["texts"][0]["generated"]) == 8
        assert side["memory"] is not None
        likelihood = side["likelihood"]
        assert likelihood["num_bytes"] >= likelihood["num_scored"] > 1000
        assert 3 < likelihood["nats"] < 7  # ln 107 = 4.7 for what knows nothing
        assert side["test"]["test/nats"] == pytest.approx(likelihood["nats"], rel=1e-5)
        assert side["image_quality"] is None
    assert blocks["likelihood"]["exact"] is False
    assert whole["likelihood"]["exact"] is (run.name != "pydoc_mdm")
    assert blocks["likelihood"]["num_scored"] == whole["likelihood"]["num_scored"]
    assert blocks["text_quality"]["texts"][0]["prompt"] == whole["text_quality"]["texts"][0]["prompt"]
    assert blocks["text_quality"]["texts"] != whole["text_quality"]["texts"]


def test_both_sides_had_the_same_compute(run: Path) -> None:
    """Catches layers, streams or iterations that are not counted: they decide on the steps of the baseline."""
    blocks, whole, *rivals = report(run)["sides"]
    # The core of one of three layers is passed thrice forward and thrice backward, which counts twice.
    passes = {"pydoc_ar": (2 * 2, 2), "pydoc_mdm": (2, 2), "pydoc_huginn": (3, (2 + 3 + 2 * (2 + 3)) / 3)}
    of_blocks, of_whole = passes[run.name]
    batch = 16
    steps = round(6 * of_blocks / of_whole)
    assert whole["parts"][0]["steps"] == steps != blocks["parts"][0]["steps"] or run.name == "pydoc_mdm"
    assert blocks["layer_passes"] == 6 * of_blocks * batch
    assert whole["layer_passes"] == pytest.approx(steps * of_whole * batch)
    assert abs(whole["layer_passes"] - blocks["layer_passes"]) <= of_whole * batch
    assert all(rival["layer_passes"] == blocks["layer_passes"] for rival in rivals)
    assert len(rivals) == (run.name != "pydoc_huginn")  # it has one block alone


def test_train_then_test_gives_the_figures_of_the_report(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a test of a fresh network, or with other draws than those of the report; here a ensemble."""
    options = ["--trainer.max_steps=2", "--contract.network.init_args.streams=clean", "--inference.ensemble=true"]
    options.append("--text_quality.num_texts=0")
    assert run_command("train", "pydoc_ar", *options) == 0
    (side,) = report(here / "runs" / "pydoc_ar")["sides"]
    capsys.readouterr()
    assert run_command("test", "pydoc_ar", *options) == 0
    printed = capsys.readouterr().out
    for name in ("test/nats", "test/loss", "test/perplexity"):
        assert f"{side['test'][name]:.5f}"[:6] in printed
    assert run_command("predict", "pydoc_ar", *options) == 2
    assert "use dbl sample for text" in capsys.readouterr().err


def test_another_tokenizer_is_another_run(
    here: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches blocks of one run that were trained on other tokens."""
    shutil.copytree(compared("pydoc_huginn", tmp_path_factory), here / "runs" / "pydoc_huginn")
    assert run_command("compare", "pydoc_huginn", "--data.init_args.tokenizer=dbl.data.Bytes") == 2
    assert "on which the blocks of this run agreed" in capsys.readouterr().err


MASKING = '{"class_path": "dbl.MaskingNoise", "init_args": {"sigma_max": 1.0}}'
LOG_NORMAL = '{"class_path": "dbl.LogNormalNoise"}'
FAULTS = {
    "mask target, Gaussian noise": ("pydoc_mdm", [f"--contract.noise={LOG_NORMAL}"], "needs contract.noise"),
    "token target, masking noise": ("pydoc_ar", [f"--contract.noise={MASKING}"], "contract.noise MaskingNoise is for"),
    "text that is never wholly hidden": ("pydoc_mdm", ["--contract.noise.init_args.sigma_max=0.9"], "must be 1"),
    "recurrent network in blocks": ("pydoc_huginn", ["--contract.partition.num_blocks=3"], "partition.num_blocks=1"),
    "image network": ("pydoc_ar", ['--contract.network={"class_path": "dbl.DiT"}'], "DiT is for image data"),
    "masked network, token target": (
        "pydoc_ar",
        ['--contract.network={"class_path": "dbl.MaskedLM"}'],
        "dbl.MaskTarget",
    ),
    "Gaussian sampler for masks": (
        "pydoc_mdm",
        ["--inference.sampler.method=euler"],
        "inference.sampler.method (euler)",
    ),
    "ancestral sampler for tokens": ("pydoc_ar", ["--inference.sampler.method=ancestral"], "inference.sampler.method"),
    "too long a sequence": ("pydoc_ar", ["--data.init_args.seq_len=7000"], "data.init_args.seq_len"),
    "no such streams": ("pydoc_ar", ["--contract.network.init_args.streams=three"], "streams"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_fault_is_one_line_and_exit_code_2(case: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a traceback, a page of usage, another exit code, or a message that does not name the key."""
    kind, options, named = FAULTS[case]
    assert kind in TINY
    assert (CONFIGS / f"{kind}.yaml").is_file()
    assert run_command("train", kind, *options) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dbl: ")]
    assert len(lines) == 1
    assert named in lines[0]
