"""`dbl convert`: blocks that start from the layers of a network which was trained whole."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from forked import run_dbl
from tiny_run import TINY

from dbl.inference.stack import BlockStack
from dbl.run.assembly import read_block
from dbl.run.folder import RunFolder
from dbl.run.model_folder import ModelFolder, load_denoiser
from dbl.run.start_weights import start_weights
from dbl.utils.files import read_metadata

CONFIGS = Path(__file__).parents[2] / "configs"
ONE_BLOCK = ["--contract.partition.num_blocks=1", "--contract.partition.overlap=0"]
NOTHING_MORE = ["--diagnostics.num_samples=0", "--model.recipe.optimizer.lr=0", "--ema.decay=0"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny network of three layers, trained whole, and one trained in three blocks."""
    folder = tmp_path_factory.mktemp("converted")
    config = f"--config={CONFIGS / 'digits_dit.yaml'}"
    whole = run_dbl(folder, "train", config, *TINY, *ONE_BLOCK, "--run.name=whole", time_limit_s=600)
    assert whole.code == 0, whole
    blocks = run_dbl(folder, "train", config, *TINY, "--diagnostics.num_samples=0", "--run.name=blocks")
    assert blocks.code == 0, blocks
    return folder


def test_blocks_start_from_the_layers_of_the_network(folder: Path) -> None:
    """Catches a start that is read nowhere: at learning rate 0 each block is its layer, with copies of all the rest."""
    made = run_dbl(folder, "convert", "runs/whole", "--num_blocks=3", "--run.name=three", "--cut=[[2],[0],[1]]")
    assert made.code == 0, made
    assert "block 0: layers 2\n" in made.output
    trained = run_dbl(folder, "train", "--config=runs/three/config.yaml", *NOTHING_MORE, time_limit_s=600)
    assert trained.code == 0, trained
    assert re.findall(r"block \d +layer (\d)", trained.output) == ["2", "0", "1"]
    source = ModelFolder(folder / "runs/whole/model").denoiser(0).state_dict()
    model = ModelFolder(folder / "runs/three/model")
    for block, layer in enumerate([2, 0, 1]):
        for name, tensor in model.denoiser(block).state_dict().items():
            assert torch.equal(tensor, source[name.replace("layers.0.", f"layers.{layer}.")]), name
    assert model.contract.start_sha256 == (ModelFolder(folder / "runs/whole/model").block_hashes[0],)
    report = (folder / "runs/three/report/report.md").read_text()
    assert "started from layers of a network that was trained whole before" in report


def test_one_block_is_the_network_itself(folder: Path) -> None:
    """Catches a conversion that loses something: fine-tuning goes on from the network's own images."""
    assert run_dbl(folder, "convert", "runs/whole", "--num_blocks=1", "--run.name=again").code == 0
    trained = run_dbl(folder, "train", "--config=runs/again/config.yaml", *NOTHING_MORE, time_limit_s=600)
    assert trained.code == 0, trained
    ours, theirs = (
        BlockStack.from_pretrained(folder / "runs" / run).generate(num_images=4, seed=1) for run in ("again", "whole")
    )
    assert torch.equal(ours, theirs)


def test_blocks_learn_from_the_network_across_a_resume(folder: Path) -> None:
    """Catches a teacher that is not there after a resume, or that changes nothing."""
    fit = ["--model.block=1", "--model.recipe.distillation=1", "--model.recipe.decay=constant"]
    lengths = {"straight": [4], "resumed": [2, 4], "plain": [4]}
    for name, steps in lengths.items():
        assert run_dbl(folder, "convert", "runs/whole", "--num_blocks=3", f"--run.name={name}").code == 0
        for number in steps:
            options = [*fit, f"--trainer.max_steps={number}"]
            options += ["--model.recipe.distillation=0"] if name == "plain" else []
            trained = run_dbl(folder, "fit", f"--config=runs/{name}/config.yaml", *options, time_limit_s=600)
            assert trained.code == 0, trained
    straight, resumed, plain = (
        read_block(run := RunFolder(name, str(folder / "runs")), run.load_contract(), 1).weights for name in lengths
    )
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    assert not all(torch.equal(straight[name], plain[name]) for name in straight)


def test_adapters_are_merged_into_the_model_and_exported_for_peft(folder: Path) -> None:
    """Catches a model that lacks what was trained, and files that peft reads as something else."""
    peft = pytest.importorskip("peft")
    assert run_dbl(folder, "convert", "runs/whole", "--num_blocks=3", "--run.name=adapted").code == 0
    options = ["--model.recipe.lora={rank: 2, alpha: 5}", "--model.recipe.optimizer.lr=0.1"]
    train = ["train", "--config=runs/adapted/config.yaml", "--diagnostics.num_samples=0", *options]
    trained = run_dbl(folder, *train, time_limit_s=600)
    assert trained.code == 0, trained
    exported = run_dbl(folder, "export", "runs/adapted", "--format=lora")
    assert exported.code == 0, exported
    assert exported.output.endswith("exported: runs/adapted/adapters\n")
    run = RunFolder("adapted", str(folder / "runs"))
    model = ModelFolder(run.model)
    inputs = torch.randn(4, 1, 8, 8), torch.tensor([0.1, 0.5, 2.0, 9.0]), torch.arange(4)
    head = torch.randn(16, 16)  # in place of one that is hardly trained, and near 0
    for block in range(3):
        start, assembled = start_weights(run, model.contract, block), model.denoiser(block)
        assert start is not None
        network = load_denoiser(model.contract, block, start.weights, start.path).eval()
        for denoiser in (network, assembled):
            denoiser.get_parameter("network.head.project.weight").data.copy_(head)
        before = network(*inputs)
        network.network = peft.PeftModel.from_pretrained(network.network, run.path / f"adapters/block_{block}").eval()
        torch.testing.assert_close(network(*inputs), assembled(*inputs), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(before, assembled(*inputs), rtol=1e-2, atol=1e-2)
    facts = json.loads(read_metadata(run.path / "adapters/block_1/adapter_model.safetensors")["dbl"])
    assert facts == {
        "contract": model.contract.hash,
        "block": 1,
        "start_sha256": model.contract.start_sha256[0],
        "layers": [1],
    }


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train", "--config=runs/blocks/config.yaml", "--run.name=new"], "those of this run are random at first"),
        (["train", "--config=runs/for_adapters/config.yaml"], "no linear layer is called 'none'"),
        (["export", "runs/blocks", "--format=lora"], "block 0 was trained without model.recipe.lora"),
    ],
)
def test_adapters_that_cannot_be_had_end_in_one_line(folder: Path, arguments: list[str], expected: str) -> None:
    """Catches a run folder that is left behind, and files without adapters."""
    if not (folder / "runs/for_adapters").exists():
        assert run_dbl(folder, "convert", "runs/whole", "--num_blocks=3", "--run.name=for_adapters").code == 0
    options = ["--model.recipe.lora.layers=[none]"] if arguments[0] == "train" else []
    refused = run_dbl(folder, *arguments, *options)
    assert refused.problem() is None
    assert expected in refused.errors
    assert not (folder / "runs/new/contract.json").exists()
    assert not (folder / "runs/for_adapters/contract.json").exists()
    assert not (folder / "runs/blocks/adapters").exists()


def test_other_weights_in_the_place_of_the_network_are_refused(folder: Path) -> None:
    """Catches blocks of one run that start from unlike networks."""
    assert run_dbl(folder, "convert", "runs/whole", "--num_blocks=3", "--run.name=other").code == 0
    fit = ["fit", "--config=runs/other/config.yaml", "--trainer.max_steps=1"]
    assert run_dbl(folder, *fit, "--model.block=0").code == 0
    (folder / "runs/other/source/model/block_0.safetensors").write_bytes(
        (folder / "runs/blocks/model/block_0.safetensors").read_bytes()
    )
    refused = run_dbl(folder, *fit, "--model.block=1")
    assert refused.problem() is None
    assert "is not the one on which the blocks of this run agreed" in refused.errors


def test_a_plain_network_is_not_converted(folder: Path) -> None:
    """Catches a message that sends in a circle: a classifier trained end to end has no block to assemble."""
    shutil.copytree(
        folder / "runs/whole", folder / "runs/classifier", ignore=shutil.ignore_patterns("model", "block_0")
    )
    (folder / "runs/classifier/end_to_end").mkdir()
    refused = run_dbl(folder, "convert", "runs/classifier", "--num_blocks=3", "--run.name=refused")
    assert refused.problem() is None
    assert "is a plain network, which knows no noise level" in refused.errors


def test_the_config_of_a_source_is_data(folder: Path) -> None:
    """Catches a downloaded run whose config runs code of its choice when it is converted."""
    shutil.copytree(folder / "runs/whole", folder / "runs/foreign")
    (folder / "trap.py").write_text("from pathlib import Path\nPath('sprung').touch()\n")
    config = folder / "runs/foreign/config.yaml"
    config.write_text(config.read_text().replace("dbl.Digits", "trap.Digits"))
    made = run_dbl(folder, "convert", "runs/foreign", "--num_blocks=3", "--run.name=from_foreign")
    assert made.code == 0, made
    config.write_text("data: !!python/object/apply:pathlib.Path.touch [sprung]\n")
    refused = run_dbl(folder, "convert", "runs/foreign", "--num_blocks=3", "--run.name=refused")
    assert refused.problem() is None
    assert "config.yaml" in refused.errors
    assert not (folder / "sprung").exists()


ERRORS = {
    "no run": (["runs/nobody", "--num_blocks=3"], "runs/nobody is not a run folder"),
    "a network in blocks": (["runs/blocks", "--num_blocks=3"], "is a network in 3 blocks: dbl convert needs one"),
    "more blocks than layers": (["runs/whole", "--num_blocks=4"], "layers"),
    "no block": (["runs/whole", "--num_blocks=0"], "num_blocks"),
    "a run that exists": (["runs/whole", "--num_blocks=3", "--run.name=blocks"], "runs/blocks exists already"),
    "a place outside": (["runs/whole", "--num_blocks=3", "--run.name=../a"], "run.name"),
    "another cut": (["runs/whole", "--num_blocks=3", "--cut=by_hand"], "cut (by_hand) must be interleaved"),
    "a layer twice": (["runs/whole", "--num_blocks=3", "--cut=[[0],[0],[1]]"], "must have each layer from 0 to 2 once"),
    "no number of blocks": (["runs/whole"], "num_blocks"),
}


@pytest.mark.parametrize("options", ERRORS)
def test_what_cannot_be_converted_ends_in_one_line(options: str, folder: Path) -> None:
    """Catches a traceback, and a folder that is left behind."""
    arguments, expected = ERRORS[options]
    before = {path.name for path in (folder / "runs").iterdir()}
    name = [] if any("run.name" in argument for argument in arguments) else ["--run.name=refused"]
    outcome = run_dbl(folder, "convert", *arguments, *name)
    assert outcome.problem() is None
    assert expected in outcome.errors
    assert {path.name for path in (folder / "runs").iterdir()} == before
