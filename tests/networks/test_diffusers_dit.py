"""The DiT of diffusers inside `dbl`: its own answers, its own samplers' images, and labels that are hidden."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dbl.data.spec import ImageSpec
from dbl.denoising.denoiser import Denoiser
from dbl.denoising.sampling import per_sample, sample_euler
from dbl.denoising.targets import PixelTarget
from dbl.diffusion.noise import LogNormalNoise
from dbl.diffusion.partition import PartitionConfig
from dbl.diffusion.preconditioning import VP, Flow, Preconditioning
from dbl.networks import DiffusersDiT, DiT
from dbl.run.contract import ContractConfig
from dbl.run.diffusers_folder import read_diffusers
from dbl.utils.errors import UserError

diffusers = pytest.importorskip("diffusers")

DATA = ImageSpec("toy", "toy-1", 4, (0.25,) * 4, shape=(3, 8, 8), mean=(0.4,) * 3, std=(0.2,) * 3)
SIZES = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 3, "sample_size": 8, "patch_size": 4}


def saved(folder: Path, scheduler: Any = None, **changes: Any) -> Any:
    """A transformer with random weights, saved by diffusers."""
    torch.manual_seed(0)
    sizes = {"in_channels": 3, "out_channels": 6, "num_embeds_ada_norm": 5} | SIZES | changes
    model = diffusers.DiTTransformer2DModel(**sizes).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder / "transformer")
    if scheduler is not None:
        scheduler.save_pretrained(folder / "scheduler")
    return model


def whole(folder: Path) -> tuple[Denoiser, Preconditioning]:
    """The same network in `dbl`, in one block."""
    source = read_diffusers(folder)
    assert source.preconditioning is not None
    assert source.preconditioning.range is not None
    target = PixelTarget(preconditioning=source.preconditioning, standardise=False)
    noise = LogNormalNoise(*source.preconditioning.range)
    contract = ContractConfig(source.network, target, noise, PartitionConfig(num_blocks=1)).build(DATA)
    denoiser = contract.denoiser(0)
    denoiser.load_state_dict({f"network.{name}": tensor for name, tensor in source.weights.items()})
    return denoiser.eval(), source.preconditioning


SCHEDULERS = {
    "epsilon": lambda: diffusers.DDIMScheduler(clip_sample=False),
    "v_prediction": lambda: diffusers.DDIMScheduler(
        clip_sample=False, prediction_type="v_prediction", beta_schedule="squaredcos_cap_v2"
    ),
    "flow": lambda: diffusers.FlowMatchEulerDiscreteScheduler(),
}


@torch.no_grad()
def test_the_answer_is_that_of_diffusers(tmp_path: Path) -> None:
    """Catches other inputs, another step, the variance in place of the noise, and a label that is another class."""
    model = saved(tmp_path, SCHEDULERS["epsilon"]())
    denoiser, vp = whole(tmp_path)
    assert isinstance(vp, VP)
    steps, labels = torch.tensor([0, 17, 500, 999, 3]), torch.tensor([0, 1, 2, 3, 4])
    sigma = torch.tensor(vp.levels())[steps].float()
    x = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    theirs = model(x, timestep=steps, class_labels=torch.tensor([0, 1, 2, 3, 5])).sample[:, :3]  # 5: no class
    scale = (1 + sigma.square()).sqrt().reshape(-1, 1, 1, 1)
    ours = denoiser(x * scale, sigma, labels)
    expected = x * scale - sigma.reshape(-1, 1, 1, 1) * theirs
    assert theirs.std() > 0.1
    assert ((ours - expected).abs() / scale).max() < 1e-5


@pytest.mark.parametrize("kind", SCHEDULERS)
@torch.no_grad()
def test_images_are_those_of_its_own_sampler(kind: str, tmp_path: Path) -> None:
    """Catches a preconditioning that is not what the scheduler says: DDIM without noise is Euler's method here."""
    scheduler = SCHEDULERS[kind]()
    model = saved(tmp_path, scheduler, out_channels=3)
    denoiser, preconditioning = whole(tmp_path)
    labels, start = torch.tensor([0, 3]), torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    scheduler.set_timesteps(8)
    x = start
    for step in scheduler.timesteps:
        output = model(x, timestep=step.expand(2), class_labels=labels).sample
        x = scheduler.step(output, step, x).prev_sample
    if isinstance(preconditioning, Flow):
        times = scheduler.sigmas[
            1:-1
        ].double()  # from the second step on: the first is at time 1, where sigma is infinite
        levels, first = times / (1 - times), scheduler.timesteps[0]
        output = model(start, timestep=first.expand(2), class_labels=labels).sample
        begin = (start + (times[0] - 1) * output) / (1 - times[0])
    else:
        assert isinstance(preconditioning, VP)
        levels = torch.tensor(preconditioning.levels(), dtype=torch.float64)[scheduler.timesteps]
        begin = start * (1 + levels[0].square()).sqrt()

    def denoise(noisy: Tensor, sigma: Tensor) -> Tensor:
        return denoiser(noisy.float(), per_sample(sigma, noisy), labels).double()

    ours = sample_euler(denoise, begin.double(), torch.cat([levels, torch.zeros(1)]))
    assert x.std() > 0.1
    assert (ours - x).abs().max() < 1e-5 * x.abs().max()


def test_hidden_labels_are_hidden_from_all_layers(tmp_path: Path) -> None:
    """Catches the library's own dropout, by which each layer would see another label."""
    network = DiffusersDiT(3, 2, 8, patch_size=4, num_embeds_ada_norm=5, cond_dropout=1 - 1e-9)
    block = network.build(DATA, DATA.shape, 3)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    x, step = torch.randn(4, 3, 8, 8), torch.full((4,), 300.0)
    shown, hidden = torch.tensor([0, 1, 2, 3]), torch.full((4,), 4)
    without = block.eval()(x, step, hidden)
    assert not torch.allclose(block(x, step, shown), without)
    torch.testing.assert_close(block.train()(x, step, shown), without)


def test_unknown_sizes_are_refused() -> None:
    """Catches a traceback of the library in place of one line."""
    network = DiffusersDiT(3, 2, 8, patch_size=4, num_embeds_ada_norm=5)
    for other, message in (
        (replace(DATA, shape=(3, 8, 4)), "square images"),
        (replace(DATA, shape=(3, 6, 6)), "patch_size"),
        (replace(DATA, num_classes=6, class_frequencies=(1 / 6,) * 6), "num_embeds_ada_norm"),
    ):
        with pytest.raises(UserError, match=message):
            network.build(other, other.shape, 3)
    with pytest.raises(UserError, match="attention_head_dim"):
        DiffusersDiT(3, 1, 2)
    with pytest.raises(UserError, match="activation_fn"):
        DiffusersDiT(activation_fn="relu")  # type: ignore[arg-type]


def test_steps_are_given_to_networks_that_read_them() -> None:
    """Catches a network of `dbl` that gets 999 where it expects a number near 1, and the other way round."""
    low, high = VP().range
    for network, preconditioning in ((DiT(3, 16, 2), VP()), (DiffusersDiT(3, 2, 8), None)):
        target = PixelTarget() if preconditioning is None else PixelTarget(preconditioning=preconditioning)
        with pytest.raises(UserError, match="levels as training steps"):
            ContractConfig(network, target, LogNormalNoise(low, high)).build(DATA)
