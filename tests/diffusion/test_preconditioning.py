"""Scalings of networks that were trained otherwise than EDM's, against the published formulas, one scalar at a time."""

import math

import pytest
import torch
from torch import Tensor

from dbl.denoising.targets import PixelTarget
from dbl.diffusion.noise import LogNormalNoise
from dbl.diffusion.preconditioning import VP, Betas, Flow, Preconditioning
from dbl.utils.errors import UserError

CLEAN, NOISE = torch.randn(2, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def denoised(preconditioning: Preconditioning, sigma: Tensor, output: Tensor) -> Tensor:
    """What the scalings make of the output of a network for `CLEAN + sigma NOISE`."""
    c_skip, c_out, _, _ = preconditioning.scalings(sigma, 0.7)
    return c_skip[:, None] * (CLEAN + sigma[:, None] * NOISE) + c_out[:, None] * output


def inputs(preconditioning: Preconditioning, sigma: Tensor) -> Tensor:
    return preconditioning.scalings(sigma, 0.7).c_in[:, None] * (CLEAN + sigma[:, None] * NOISE)


def ddpm_alpha_bars(first: float = 1e-4, last: float = 0.02, steps: int = 1000) -> list[float]:
    """The product of 1 - beta up to each step, in a loop (DDPM, Sec. 2 and 4)."""
    product, products = 1.0, []
    for step in range(steps):
        product *= 1 - (first + (last - first) * step / (steps - 1))
        products.append(product)
    return products


STEPS = [0, 1, 250, 500, 998, 999]


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_vp_is_the_process_of_ddpm(prediction: str) -> None:
    """Catches a wrong scaling: a perfect network sees `sqrt(a) y + sqrt(1 - a) n` and the step, and gives back y."""
    vp = VP(prediction)  # type: ignore[arg-type]
    alpha_bar = torch.tensor([ddpm_alpha_bars()[step] for step in STEPS], dtype=torch.float64)
    sigma = ((1 - alpha_bar) / alpha_bar).sqrt()
    signal, noise = alpha_bar.sqrt()[:, None], (1 - alpha_bar).sqrt()[:, None]
    torch.testing.assert_close(inputs(vp, sigma), signal * CLEAN + noise * NOISE)
    perfect = NOISE if prediction == "epsilon" else signal * NOISE - noise * CLEAN  # arXiv 2202.00512, App. D
    torch.testing.assert_close(denoised(vp, sigma, perfect), CLEAN)
    assert vp.scalings(sigma.float(), 0.7).c_noise.tolist() == STEPS
    for step, level in zip(STEPS, sigma.tolist(), strict=True):
        assert vp.levels()[step] == pytest.approx(level, rel=1e-9)


def test_flow_is_a_straight_path() -> None:
    """Catches a velocity of the wrong sign or time: a perfect network sees `(1 - t) y + t n` and gives back y."""
    sigma = torch.tensor([0.002, 0.1, 1.0, 3.0, 99.0, 998.0], dtype=torch.float64)
    time = torch.tensor([level / (1 + level) for level in sigma.tolist()], dtype=torch.float64)
    torch.testing.assert_close(inputs(Flow(), sigma), (1 - time)[:, None] * CLEAN + time[:, None] * NOISE)
    torch.testing.assert_close(denoised(Flow(), sigma, NOISE - CLEAN), CLEAN)
    torch.testing.assert_close(Flow(500).scalings(sigma, 0.7).c_noise, 500 * time)


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_levels_are_those_of_the_schedulers_of_diffusers(schedule: Betas) -> None:
    """Catches a schedule that has only its name in common with the one the network was trained with."""
    diffusers = pytest.importorskip("diffusers")
    alpha_bar = diffusers.DDPMScheduler(beta_schedule=schedule).alphas_cumprod.double()
    theirs = ((1 - alpha_bar) / alpha_bar).sqrt()  # of float32 numbers near 1
    torch.testing.assert_close(torch.tensor(VP(schedule=schedule).levels()).double(), theirs, rtol=5e-4, atol=0)


def test_a_level_between_two_steps_is_the_nearer_one() -> None:
    """Catches steps that are cut off rather than rounded, and levels outside the table."""
    vp = VP()
    low, high = vp.levels()[400:402]
    levels = torch.tensor([low * 1.001, high / 1.001, 0.001, 1e5])
    assert vp.scalings(levels, 0.7).c_noise.tolist() == [400, 401, 0, 999]


@pytest.mark.parametrize("preconditioning", [VP(), Flow()])
def test_levels_that_the_network_never_saw_are_refused(preconditioning: Preconditioning) -> None:
    """Catches blocks that are trained where their network's answer means nothing."""
    assert preconditioning.range is not None
    low, high = preconditioning.range
    target = PixelTarget(preconditioning=preconditioning)
    target.check(LogNormalNoise(low, high))
    for noise in (LogNormalNoise(low * 0.9, high), LogNormalNoise(low, high * 1.1)):
        with pytest.raises(UserError, match=r"sigma_min .* must lie within"):
            target.check(noise)


def test_variances_that_give_no_levels_are_refused() -> None:
    """Catches levels that are infinite or do not grow, found only when a schedule is built."""
    with pytest.raises(UserError, match="give levels that are no noise levels"):
        VP(num_steps=100_000, beta_start=0.9, beta_end=0.9)
    assert math.isfinite(VP(num_steps=2).levels()[1])
