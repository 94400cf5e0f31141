"""`dbl convert` from networks that were trained elsewhere: folders of diffusers, and weights of own classes."""

import json
import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
import torch
from forked import run_dbl
from safetensors.torch import load_file, save_file
from torch import Tensor

from dbl.commands.main import main
from dbl.denoising.sampling import sample_euler
from dbl.denoising.targets import PixelTarget
from dbl.diffusion.preconditioning import VP
from dbl.inference.stack import BlockStack
from dbl.run.assembly import read_block
from dbl.run.folder import RunFolder

diffusers = pytest.importorskip("diffusers")
from dbl.inference.routed_transformer import PixelDecoder  # noqa: E402  it imports diffusers

CONFIG = """
data: {class_path: dbl.Digits, init_args: {batch_size: 32, eval_batch_size: 256}}
trainer: {max_steps: 2, accelerator: cpu, val_check_interval: 1, enable_progress_bar: false}
image_quality: {features: none}
inference: {num_images: 4, sampler: {num_steps: 6}}
diagnostics: {num_samples: 6, levels_per_block: 2}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a config, and `dit`: a transformer of four layers and its scheduler, as diffusers saves them."""
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "config.yaml").write_text(CONFIG)
    torch.manual_seed(0)
    model = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=1, out_channels=2, num_layers=4, sample_size=8,
        patch_size=4, num_embeds_ada_norm=10,
    )  # fmt: skip
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    diffusers.DiTPipeline(model, diffusers.AutoencoderKL(), scheduler).save_pretrained(folder / "dit")
    return folder


def convert(folder: Path, source: str, name: str, *options: str) -> list[str]:
    return ["convert", source, "--num_blocks=2", "--config=config.yaml", f"--run.name={name}", *options]


def test_blocks_start_from_layers_of_diffusers(folder: Path) -> None:
    """Catches layers that go to another block, copies that are left out, and a run that cannot be trained."""
    made = run_dbl(folder, *convert(folder, "dit", "two"))
    assert made.code == 0, made
    assert "runs/two: 2 blocks from the 4 layers of dit" in made.output
    still = ["--model.recipe.optimizer.lr=0", "--ema.decay=0"]
    trained = run_dbl(folder, "train", "--config=runs/two/config.yaml", *still, time_limit_s=600)
    assert trained.code == 0, trained
    source = load_file(folder / "dit/transformer/diffusion_pytorch_model.safetensors")
    run = RunFolder("two", str(folder / "runs"))
    for block, layers in enumerate(([0, 2], [1, 3])):
        weights = read_block(run, run.load_contract(), block).weights
        assert len(weights) == sum("transformer_blocks" not in name or f"blocks.{layers[0]}." in name
                                   or f"blocks.{layers[1]}." in name for name in source)  # fmt: skip
        for name, tensor in weights.items():
            theirs = name.removeprefix("network.module.")
            for place, layer in enumerate(layers):
                if theirs.startswith(f"transformer_blocks.{place}."):
                    theirs = theirs.replace(f"blocks.{place}.", f"blocks.{layer}.", 1)
                    break
            assert torch.equal(tensor, source[theirs]), name


@torch.no_grad()
def test_blocks_go_back_to_diffusers(folder: Path) -> None:
    """Catches a pipeline that routes a step to another block, or whose images are not those of the assembled stack."""
    assert run_dbl(folder, *convert(folder, "dit", "back")).code == 0
    trained = run_dbl(folder, "train", "--config=runs/back/config.yaml", time_limit_s=600)
    assert trained.code == 0, trained
    exported = run_dbl(folder, "export", "runs/back", "--format=diffusers", "--output=pipeline")
    assert exported.code == 0, exported
    stack = BlockStack.from_pretrained(folder / "runs/back")
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder / "pipeline")
    labels, scheduler = torch.tensor([3, 7, 3, 0]), pipeline.scheduler
    theirs = pipeline(labels.tolist(), 1.0, torch.manual_seed(0), num_inference_steps=12, output_type="pt").images
    target = stack.contract.config.target
    assert isinstance(target, PixelTarget)
    assert isinstance(target.preconditioning, VP)
    scheduler.set_timesteps(12)
    levels = torch.tensor(target.preconditioning.levels(), dtype=torch.float64)[scheduler.timesteps]
    assert set(stack.contract.partition.block_for(levels).tolist()) == {0, 1}

    def denoise(noisy: Tensor, sigma: Tensor) -> Tensor:
        return stack(noisy.float(), sigma.float(), labels).double()

    start = torch.randn(4, 1, 8, 8, generator=torch.manual_seed(0)).double() * (1 + levels[0].square()).sqrt()
    ours = sample_euler(denoise, start, torch.cat([levels, levels.new_zeros(1)]))
    torch.testing.assert_close(theirs, (ours.float() / 2 + 0.5).clamp(0, 1), rtol=0, atol=1e-4)
    again = pipeline(labels.tolist(), 3.0, torch.manual_seed(0), num_inference_steps=3, output_type="pt").images
    assert again.std() > 0  # 1000, by which this pipeline means no class, is none of 11 embeddings


@torch.no_grad()
def test_one_block_goes_back_as_it_came(folder: Path) -> None:
    """Catches anything that is lost on the way there and back: the pipeline makes the images of its source."""
    assert run_dbl(folder, "convert", "dit", "--num_blocks=1", "--config=config.yaml", "--run.name=one").code == 0
    still = ["--model.recipe.optimizer.lr=0", "--ema.decay=0"]
    assert run_dbl(folder, "train", "--config=runs/one/config.yaml", *still, time_limit_s=600).code == 0
    assert run_dbl(folder, "export", "runs/one", "--format=diffusers", "--output=same").code == 0
    images = []
    for place in ("dit", "same"):
        pipeline = diffusers.DiffusionPipeline.from_pretrained(folder / place, vae=PixelDecoder([0.0], [1.0]))
        images.append(pipeline([1, 2], 1.0, torch.manual_seed(0), num_inference_steps=5, output_type="pt").images)
    assert images[0].std() > 0.1
    torch.testing.assert_close(*images, rtol=0, atol=1e-5)


def test_only_networks_of_diffusers_go_back(folder: Path) -> None:
    """Catches a traceback for a network of `dbl` itself."""
    data = "{class_path: dbl.DiT, init_args: {num_layers: 2, width: 8, num_heads: 2, patch_size: 4}}"
    (folder / "own.yaml").write_text(CONFIG + f"contract: {{network: {data}, partition: {{num_blocks: 2}}}}")
    assert run_dbl(folder, "train", "--config=own.yaml", "--run.name=own", time_limit_s=600).code == 0
    refused = run_dbl(folder, "export", "runs/own", "--format=diffusers")
    assert refused.problem() is None, refused
    assert "DiT is not of diffusers" in refused.errors


def _unet(folder: Path) -> None:
    config = json.loads((folder / "transformer/config.json").read_text()) | {"_class_name": "UNet2DConditionModel"}
    (folder / "transformer/config.json").write_text(json.dumps(config))


def _unet_pipeline(folder: Path) -> None:
    (folder / "transformer").rename(folder / "unet")


def _change(key: str, value: object, file: str = "transformer/config.json") -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / file).read_text()) | {key: value}
        (folder / file).write_text(json.dumps(config))

    return change


def _pickled(folder: Path) -> None:
    weights = folder / "transformer/diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_name("diffusion_pytorch_model.bin"))


def _wrong_weights(folder: Path) -> None:
    weights = folder / "transformer/diffusion_pytorch_model.safetensors"
    changed = load_file(weights) | {"proj_out_1.weight": torch.zeros(3, 16)}
    save_file(changed, weights)


def _no_weights(folder: Path) -> None:
    (folder / "transformer/diffusion_pytorch_model.safetensors").write_bytes(b"")


def _link_out(folder: Path) -> None:
    weights = folder / "transformer/diffusion_pytorch_model.safetensors"
    weights.rename(folder.parent / "outside.safetensors")
    weights.symlink_to(folder.parent / "outside.safetensors")


SCHEDULER = "scheduler/scheduler_config.json"
DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a U-Net": (_unet, "is of class 'UNet2DConditionModel': dbl convert cuts DiTTransformer2DModel alone; a U-Net's"),
    "a pipeline of a U-Net": (_unet_pipeline, "is a pipeline with a U-Net"),
    "another class": (_change("_class_name", ["os", "system"]), "is of class"),
    "an extension": (_change("caption_channels", 8), "caption_channels (8) is nothing that dbl.DiffusersDiT has"),
    "a size of another type": (_change("num_layers", "four"), "num_layers ('four') must be a whole number"),
    "a size beyond all": (_change("attention_head_dim", 10**12), "attention_head_dim"),
    "other images": (_change("sample_size", 16), "is for images [1, 16, 16], and data digits has [1, 8, 8]"),
    "fewer layers": (_change("num_layers", 3), "give the weights of this network"),
    "pickled weights": (_pickled, ".bin file, which could run code"),
    "wrong weights": (_wrong_weights, "give the weights of this network"),
    "damaged weights": (_no_weights, "is damaged"),
    "a link that leads out": (_link_out, "is a link to a file outside"),
    "a prediction that is not known": (_change("prediction_type", "sample", SCHEDULER), "prediction ('sample')"),
    "betas of its own": (_change("trained_betas", [0.1, 0.2], SCHEDULER), "trained_betas"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_cannot_be_cut_ends_in_one_line(damage: str, folder: Path) -> None:
    """Catches a traceback, and a run that is left behind."""
    change, expected = DAMAGES[damage]
    source = folder / damage.replace(" ", "_")
    shutil.copytree(folder / "dit", source)
    change(source)
    before = {path.name for path in (folder / "runs").iterdir()} if (folder / "runs").is_dir() else set()
    refused = run_dbl(folder, *convert(folder, source.name, "refused"))
    assert refused.problem() is None, refused
    assert expected in refused.errors
    assert {path.name for path in (folder / "runs").iterdir()} == before


OWN = """
from dataclasses import dataclass
from torch import nn
from dbl import Architecture

class Net(nn.Module):
    def __init__(self, widths):
        super().__init__()
        self.units = nn.ModuleList(nn.Sequential(nn.Linear(64, w), nn.SiLU(), nn.Linear(w, 64)) for w in widths)

    def forward(self, x, step, labels):
        y = x.flatten(1)
        for unit in self.units:
            y = y + unit(y)
        return y.reshape(x.shape)

@dataclass(frozen=True)
class Equal(Architecture):
    layer_list = "units"
    reads_steps = True
    num_layers: int = 4

    def build(self, data, target_shape, num_layers, table=None):
        return Net([8] * num_layers)

@dataclass(frozen=True)
class Unlike(Equal):
    def build(self, data, target_shape, num_layers, table=None):
        return Net([8, 8, 16, 16][:num_layers])
"""
OF_OWN = """
contract:
  network: {class_path: own_net.NAME, init_args: {num_layers: 4}}
  target: {class_path: dbl.PixelTarget, init_args: {preconditioning: {class_path: dbl.Flow}, standardise: false}}
  noise: {class_path: dbl.LogNormalNoise, init_args: {sigma_min: 0.002, sigma_max: 80}}
"""


@pytest.mark.parametrize("name", ["Equal", "Unlike"])
def test_weights_of_an_own_class(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a list of layers of another name that is copied whole, and layers that fit no block."""
    (folder / "own_net.py").write_text(OWN)
    (folder / f"{name}.yaml").write_text(CONFIG + OF_OWN.replace("NAME", name))
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.chdir(folder)
    net = import_module("own_net").Net([8, 8, 8, 8] if name == "Equal" else [8, 8, 16, 16])
    save_file(net.state_dict(), "own.safetensors")
    arguments = ["convert", "own.safetensors", "--num_blocks=2", f"--config={name}.yaml", f"--run.name={name}"]
    if name == "Unlike":
        assert main(arguments) == 2
        assert "dbl convert needs layers of equal shapes" in capsys.readouterr().err
        assert not (folder / "runs" / name).exists()
        return
    assert main(arguments) == 0
    still = ["--model.recipe.optimizer.lr=0", "--ema.decay=0", "--model.block=1"]
    assert main(["fit", f"--config=runs/{name}/config.yaml", *still]) == 0
    run = RunFolder(name, str(folder / "runs"))
    weights = read_block(run, run.load_contract(), 1).weights
    assert torch.equal(weights["network.units.1.0.weight"], net.units[3][0].weight)


SOURCES = {
    "more blocks than layers": (["dit", "--config=config.yaml", "--num_blocks=5"], "must be at most the 4 layers"),
    "no config": (["dit", "--num_blocks=2"], "dit is no run of dbl: give --config"),
    "no source": (["nothing", "--config=config.yaml", "--num_blocks=2"], "there is no folder nothing"),
    "no folder of diffusers": (["runs", "--config=config.yaml", "--num_blocks=2"], "runs is no folder of diffusers"),
    "no file of weights": (["a.safetensors", "--config=config.yaml", "--num_blocks=2"], "a.safetensors does not exist"),
    "a name on the hub": (["owner/name", "--config=config.yaml", "--num_blocks=2"], "could not be read from the hub"),
}


@pytest.mark.parametrize("source", SOURCES)
def test_a_source_that_is_none_ends_in_one_line(source: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a traceback, and a wait for a network that is not there."""
    arguments, expected = SOURCES[source]
    (folder / "runs").mkdir(exist_ok=True)
    refused = run_dbl(folder, "convert", *arguments, "--run.name=refused")
    assert refused.problem() is None, refused
    assert expected in refused.errors
