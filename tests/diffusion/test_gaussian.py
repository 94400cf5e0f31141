"""Corruption, preconditioning, weight and step against plain loops with another level for every sample."""

import math

import pytest
import torch

from dbl.diffusion.gaussian import append_axes, corrupt, edm_weight, euler_step, scalings

SIGMAS = [0.002, 0.4, 3.0, 80.0]  # N = 4
SIGMA_DATA = 0.5


def test_corrupt_scales_the_noise_of_each_sample_by_its_own_level() -> None:
    """Catches a level that is broadcast along another axis than the batch: N = 4, targets [4, 3, 2]."""
    clean, noise = torch.randn(2, 4, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    noisy = corrupt(clean, noise, torch.tensor(SIGMAS, dtype=torch.float64))
    for n in range(4):
        for i in range(3):
            for j in range(2):
                expected = clean[n, i, j].item() + SIGMAS[n] * noise[n, i, j].item()
                assert noisy[n, i, j].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("shape", [(4,), (4, 5), (4, 3, 2), (4, 3, 5, 2)])
def test_append_axes_fits_any_target(shape: tuple[int, ...]) -> None:
    """Catches a fixed number of axes: vectors and images share the function."""
    out = append_axes(torch.tensor(SIGMAS), torch.zeros(shape))
    assert out.shape == (4, *(1,) * (len(shape) - 1))
    assert out.flatten().tolist() == pytest.approx(SIGMAS)


@pytest.mark.parametrize("shape", [(4, 1), (3,), (1,), (), (1, 4)])
def test_append_axes_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    """Catches a level [N, 1], a single level or another batch's levels that would broadcast without a word."""
    with pytest.raises(ValueError, match=r"sigma must have shape \[4\]"):
        append_axes(torch.ones(shape), torch.zeros(4, 6))


def test_scalings_are_those_of_edm() -> None:
    """Catches a wrong formula in EDM's Table 1, such as a missing square root; one scalar at a time."""
    c_skip, c_out, c_in, c_noise = scalings(torch.tensor(SIGMAS, dtype=torch.float64), SIGMA_DATA)
    for n, s in enumerate(SIGMAS):
        total = s**2 + SIGMA_DATA**2
        assert c_skip[n].item() == pytest.approx(SIGMA_DATA**2 / total, rel=1e-12)
        assert c_out[n].item() == pytest.approx(s * SIGMA_DATA / math.sqrt(total), rel=1e-12)
        assert c_in[n].item() == pytest.approx(1 / math.sqrt(total), rel=1e-12)
        assert c_noise[n].item() == pytest.approx(math.log(s) / 4, rel=1e-12)


def test_scalings_keep_unit_variance() -> None:
    """Catches scalings that break what they are for: input and training target of the network have variance 1."""
    sigma = torch.tensor(SIGMAS, dtype=torch.float64)
    c_skip, c_out, c_in, _ = scalings(sigma, SIGMA_DATA)
    ones = torch.ones(4, dtype=torch.float64)
    torch.testing.assert_close(c_in.square() * (sigma.square() + SIGMA_DATA**2), ones)
    target_variance = ((1 - c_skip).square() * SIGMA_DATA**2 + (c_skip * sigma).square()) / c_out.square()
    torch.testing.assert_close(target_variance, ones)


def test_weight_is_that_of_edm() -> None:
    """Catches a wrong weight: it must undo c_out^2, so that the network's own loss has weight 1 at every level."""
    sigma = torch.tensor(SIGMAS, dtype=torch.float64)
    weight = edm_weight(sigma, SIGMA_DATA)
    for n, s in enumerate(SIGMAS):
        assert weight[n].item() == pytest.approx((s**2 + SIGMA_DATA**2) / (s * SIGMA_DATA) ** 2, rel=1e-12)
    torch.testing.assert_close(weight * scalings(sigma, SIGMA_DATA).c_out.square(), torch.ones_like(sigma))


def test_euler_step_against_a_plain_loop() -> None:
    """Catches the sign with which the paper prints its step: the noise must shrink by sigma' / sigma."""
    noisy, denoised = torch.randn(2, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    sigma, sigma_next = torch.tensor(2.0, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    stepped = euler_step(noisy, denoised, sigma, sigma_next)
    for n in range(3):
        for d in range(5):
            slope = (noisy[n, d].item() - denoised[n, d].item()) / 2.0
            assert stepped[n, d].item() == pytest.approx(noisy[n, d].item() + (0.5 - 2.0) * slope, rel=1e-12)
    torch.testing.assert_close(stepped - denoised, 0.25 * (noisy - denoised))


def test_euler_step_to_zero_gives_the_denoised() -> None:
    """Catches a last step that leaves noise behind, or divides by the level 0 that it steps to."""
    noisy, denoised = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(2))
    assert torch.equal(euler_step(noisy, denoised, torch.tensor(0.002), torch.tensor(0.0)), denoised)


def test_euler_step_keeps_the_dtype_of_the_state() -> None:
    """Catches a float32 state that float64 levels turn into float64, or the reverse."""
    sigma, sigma_next = torch.tensor(2.0, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    for dtype in (torch.float32, torch.float64):
        assert (
            euler_step(torch.ones(2, 3, dtype=dtype), torch.zeros(2, 3, dtype=dtype), sigma, sigma_next).dtype == dtype
        )
