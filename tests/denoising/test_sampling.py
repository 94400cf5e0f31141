"""Samplers against closed forms: Gaussian data, a small table, and the levels that they step along."""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from dbl.denoising.sampling import (
    Sampler,
    guided,
    karras_levels,
    quantile_levels,
    sample_dpmpp_2m,
    sample_euler,
    sample_heun,
)
from dbl.diffusion.gaussian import scalings
from dbl.diffusion.noise import LogNormalNoise, UniformNoise
from dbl.diffusion.partition import PartitionConfig
from dbl.utils.errors import DblWarning, UserError

SIGMA_DATA = 0.5
PAPER = LogNormalNoise()
SAMPLERS = {"euler": sample_euler, "heun": sample_heun, "dpmpp_2m": sample_dpmpp_2m}
every_sampler = pytest.mark.parametrize("method", SAMPLERS)


def denoise_gaussian(noisy: Tensor, sigma: Tensor) -> Tensor:
    """The best denoiser of data from N(0, SIGMA_DATA^2): c_skip times the input."""
    return scalings(sigma.reshape(1), SIGMA_DATA).c_skip * noisy


def gaussian_path(start: Tensor, first: float, last: float) -> Tensor:
    """Where the probability-flow ODE of Gaussian data carries a start at level `first`."""
    return start * math.sqrt((last**2 + SIGMA_DATA**2) / (first**2 + SIGMA_DATA**2))


def uneven_levels(num_steps: int, high: float, low: float) -> Tensor:
    """[K+1] decreasing levels whose steps in ln sigma are alternately short and twice as long; the last is above 0."""
    widths = torch.tensor([1.0, 2.0], dtype=torch.float64).repeat(num_steps // 2)
    shares = torch.cat([torch.zeros(1, dtype=torch.float64), widths.cumsum(0) / widths.sum()])
    return high * torch.exp(shares * math.log(low / high))


class Counted:
    """A denoiser that counts its calls and keeps the levels at which it was called."""

    def __init__(self, denoise: Callable[[Tensor, Tensor], Tensor] = denoise_gaussian) -> None:
        self.denoise = denoise
        self.sigmas: list[float] = []

    def __call__(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        self.sigmas.append(sigma.item())
        return self.denoise(noisy, sigma)


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("heun", 2), ("dpmpp_2m", 2)])
def test_sampler_converges_to_the_gaussian_path_with_its_order(method: str, order: int) -> None:
    """Catches a wrong sign, a missing correction or a wrong factor: the order is measured by halving steps."""
    start = torch.tensor([[3.0, -8.0], [12.0, 5.0], [-1.0, 7.0]], dtype=torch.float64)
    exact = gaussian_path(start, 10.0, 0.1)
    errors = []
    for num_steps in (32, 64, 128, 256):
        end = SAMPLERS[method](denoise_gaussian, start, uneven_levels(num_steps, 10.0, 0.1))
        errors.append((end - exact).abs().max().item())
    orders = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert orders[-1] == pytest.approx(order, abs=0.1)
    assert errors[-1] < 0.05 / 10**order


@every_sampler
def test_sampler_ends_at_level_zero_on_the_gaussian_data(method: str) -> None:
    """Catches a last step to 0 that divides by 0 or leaves noise: N(0, sigma_max^2 + s_d^2) must become N(0, s_d^2)."""
    start = torch.linspace(-90, 90, 7, dtype=torch.float64).reshape(7, 1, 1).expand(7, 2, 3)
    end = SAMPLERS[method](denoise_gaussian, start, karras_levels(200, 0.002, 80.0))
    torch.testing.assert_close(
        end, gaussian_path(start, 80.0, 0.0), rtol=0.05 if method == "euler" else 2e-3, atol=1e-12
    )


def test_heun_is_the_trapezoid_rule_by_hand() -> None:
    """Catches a slope taken at the wrong level: EDM's Algorithm 1 with numbers, for two steps of one coordinate."""

    def slope(z: float, s: float) -> float:
        return (z - SIGMA_DATA**2 / (s**2 + SIGMA_DATA**2) * z) / s

    z, levels = 4.0, [3.0, 1.0, 0.2]
    for s, s_next in pairwise(levels):
        ahead = z + (s_next - s) * slope(z, s)
        z = z + (s_next - s) * (slope(z, s) + slope(ahead, s_next)) / 2
    start = torch.full((1, 1), 4.0, dtype=torch.float64)
    end = sample_heun(denoise_gaussian, start, torch.tensor(levels, dtype=torch.float64))
    assert end.item() == pytest.approx(z, rel=1e-12)


def test_dpmpp_2m_is_algorithm_2_by_hand() -> None:
    """Catches the ratio of step widths upside down, which keeps the order: arXiv 2211.01095, Algorithm 2, alpha = 1."""
    levels = [9.0, 6.0, 1.0, 0.7, 0.1]
    z, earlier, h_before = 4.0, None, None
    for s, s_next in pairwise(levels):
        h = math.log(s) - math.log(s_next)  # lambda = -ln sigma
        denoised = SIGMA_DATA**2 / (s**2 + SIGMA_DATA**2) * z
        direction = denoised
        if earlier is not None:
            r = h_before / h
            direction = (1 + 1 / (2 * r)) * denoised - 1 / (2 * r) * earlier
        z = s_next / s * z - math.expm1(-h) * direction
        earlier, h_before = denoised, h
    start = torch.full((1, 1), 4.0, dtype=torch.float64)
    end = sample_dpmpp_2m(denoise_gaussian, start, torch.tensor(levels, dtype=torch.float64))
    assert end.item() == pytest.approx(z, rel=1e-12)


@every_sampler
def test_perfect_denoiser_of_a_table_returns_its_rows_with_their_frequencies(method: str) -> None:
    """Catches a sampler that ends between the rows, or that prefers some of them."""
    table = torch.tensor([[1.0, 0.0], [-0.6, 0.8], [-0.6, -0.8]], dtype=torch.float64)
    frequencies = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)

    def posterior_mean(noisy: Tensor, sigma: Tensor) -> Tensor:
        logits = frequencies.log() - torch.cdist(noisy, table).square() / (2 * sigma**2)
        return logits.softmax(dim=1) @ table

    num = 4000
    start = 40 * torch.randn(num, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    end = SAMPLERS[method](posterior_mean, start, karras_levels(60, 0.01, 40.0))
    distances, rows = torch.cdist(end, table).min(dim=1)
    assert (distances < 1e-3).double().mean() > 0.995
    counts = [(rows == row).double().mean().item() for row in range(3)]
    assert counts == pytest.approx(frequencies.tolist(), abs=0.03)


@every_sampler
def test_state_stays_in_float64(method: str) -> None:
    """Catches a state that falls to float32, where many small steps lose digits."""
    end = SAMPLERS[method](denoise_gaussian, torch.ones(2, 3, dtype=torch.float64), karras_levels(5, 0.002, 80.0))
    assert end.dtype == torch.float64
    assert end.shape == (2, 3)


@pytest.mark.parametrize(("method", "num_calls"), [("euler", 9), ("heun", 17), ("dpmpp_2m", 9)])
def test_number_of_function_evaluations(method: str, num_calls: int) -> None:
    """Catches a call that is wasted or missing: K, 2K - 1 and K for K = 9; none at level 0."""
    denoise = Counted()
    SAMPLERS[method](denoise, torch.ones(1, 1, dtype=torch.float64), karras_levels(9, 0.002, 80.0))
    assert len(denoise.sigmas) == num_calls
    assert min(denoise.sigmas) > 0


def test_karras_levels_are_those_of_edm() -> None:
    """Catches a ramp in the wrong direction or of the wrong power: EDM, Eq. 5, one level at a time."""
    levels = karras_levels(6, 0.002, 80.0, rho=7.0)
    high, low = 80 ** (1 / 7), 0.002 ** (1 / 7)
    expected = [(high + i / 5 * (low - high)) ** 7 for i in range(6)]
    assert levels.tolist() == pytest.approx([*expected, 0.0], rel=1e-9)
    assert (levels.diff() < 0).all()
    assert levels[0].item() == pytest.approx(80.0, rel=1e-12)
    assert levels[-2].item() == pytest.approx(0.002, rel=1e-12)
    assert levels.dtype == torch.float64


def test_karras_levels_with_rho_1_are_evenly_spaced() -> None:
    """Catches a rho that is not used."""
    assert karras_levels(5, 1.0, 9.0, rho=1.0).tolist() == pytest.approx([9.0, 7.0, 5.0, 3.0, 1.0, 0.0], rel=1e-12)


def test_a_single_step_starts_at_the_highest_level() -> None:
    """Catches a division by K - 1 = 0 and a start at sigma_min."""
    assert karras_levels(1, 0.002, 80.0).tolist() == pytest.approx([80.0, 0.0], rel=1e-12)
    assert quantile_levels(1, PAPER).tolist() == pytest.approx([80.0, 0.0], rel=1e-9)


@pytest.mark.parametrize("noise", [PAPER, UniformNoise(0.1, 5.0)], ids=["log-normal", "uniform"])
def test_quantile_levels_are_the_upper_ends_of_the_blocks(noise: LogNormalNoise | UniformNoise) -> None:
    """Catches levels at the middles or lower ends, with which one call of each block would not be one call of each."""
    partition = PartitionConfig(num_blocks=4).build(noise, num_layers=4)
    levels = quantile_levels(4, noise)
    assert levels.tolist() == pytest.approx([*partition.boundaries[:-1], 0.0], rel=1e-9)
    assert partition.block_for(levels[:-1]).tolist() == [0, 1, 2, 3]


def test_calls_per_block_in_the_paper_setting() -> None:
    """Catches calls counted for the wrong block, or the level 0 counted as a call: B = 3, 50 Euler steps."""
    partition = PartitionConfig(num_blocks=3).build(PAPER, num_layers=12)
    high, low = 80 ** (1 / 7), 0.002 ** (1 / 7)
    expected = [0, 0, 0]
    for i in range(50):
        sigma = (high + i / 49 * (low - high)) ** 7
        expected[sum(sigma <= boundary for boundary in partition.boundaries[1:-1])] += 1
    counts = Sampler(num_steps=50).calls_per_block(PAPER, partition)
    assert counts == expected
    assert sum(counts) == 50
    assert counts != sorted(counts, reverse=True)


@pytest.mark.parametrize(("method", "expected"), [("euler", [1, 1, 1]), ("dpmpp_2m", [1, 1, 1]), ("heun", [1, 2, 2])])
def test_calls_per_block_with_one_step_for_each_block(method: str, expected: list[int]) -> None:
    """Catches counts that ignore Heun's second call, which belongs to the next level's block."""
    partition = PartitionConfig(num_blocks=3).build(PAPER, num_layers=3)
    sampler = Sampler(method=method, schedule="quantile", num_steps=3)  # type: ignore[arg-type]
    assert sampler.calls_per_block(PAPER, partition) == expected


def test_a_block_that_is_never_called_is_reported() -> None:
    """Catches a sampler that leaves trained blocks idle without a word."""
    partition = PartitionConfig(num_blocks=3, scheme="explicit", boundaries=[80.0, 79.0, 78.0, 0.002]).build(
        PAPER, num_layers=3
    )
    with pytest.warns(DblWarning, match="never calls block 1 "):
        counts = Sampler(num_steps=5).calls_per_block(PAPER, partition)
    assert counts == [1, 0, 4]


def test_sampler_runs_the_method_and_levels_that_it_names() -> None:
    """Catches a setting that is read nowhere: each method and schedule must give its own function's result."""
    start = torch.tensor([[3.0, -2.0, 1.0]], dtype=torch.float64)
    levels = {"karras": karras_levels(6, 0.002, 80.0, rho=3.0), "quantile": quantile_levels(6, PAPER)}
    ends = []
    for method, function in SAMPLERS.items():
        for schedule, sigmas in levels.items():
            sampler = Sampler(method=method, schedule=schedule, num_steps=6, rho=3.0)  # type: ignore[arg-type]
            assert torch.equal(sampler.levels(PAPER), sigmas)
            ends.append(sampler.run(denoise_gaussian, start, sampler.levels(PAPER)))
            assert torch.equal(ends[-1], function(denoise_gaussian, start, sigmas))
    assert len({end[0, 0].item() for end in ends}) == 6


def test_guidance_formula() -> None:
    """Catches the two scale conventions being mixed up: `uncond + scale (cond - uncond)`, per coordinate."""
    cond, uncond = torch.tensor([[1.0, 5.0, -2.0]]), torch.tensor([[0.5, 7.0, -2.5]])
    for scale in (0.0, 0.3, 1.0, 2.0):
        denoise = guided(lambda noisy, sigma: cond, lambda noisy, sigma: uncond, scale)
        expected = [u + scale * (c - u) for c, u in zip(cond[0].tolist(), uncond[0].tolist(), strict=True)]
        assert denoise(torch.zeros(1, 3), torch.tensor(1.0))[0].tolist() == pytest.approx(expected, rel=1e-6)


def test_guidance_ends_are_exact() -> None:
    """Catches rounding at scale 1 and 0, which must be the conditional and the unconditional model bit for bit."""
    cond, uncond = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    for scale, expected in ((1.0, cond), (0.0, uncond)):
        denoise = guided(lambda noisy, sigma: cond, lambda noisy, sigma: uncond, scale)
        assert torch.equal(denoise(torch.zeros(4, 3), torch.tensor(1.0)), expected)


def test_guidance_passes_on_the_noisy_input_and_its_level() -> None:
    """Catches a guided denoiser that evaluates one of its two halves at another point."""
    denoise = guided(lambda noisy, sigma: noisy * sigma, lambda noisy, sigma: noisy + sigma, 2.0)
    noisy = torch.tensor([[3.0, -1.0]])
    assert denoise(noisy, torch.tensor(5.0)).tolist() == [[2 * 15.0 - 8.0, 2 * -5.0 - 4.0]]


@pytest.mark.parametrize("change", [{"num_steps": 0}, {"rho": 0.0}, {"rho": -7.0}, {"temperature": -0.1}])
def test_impossible_samplers_are_refused(change: dict[str, int | float]) -> None:
    """Catches a sampler without steps, with a schedule that rises or with noise of negative size."""
    with pytest.raises(UserError, match=next(iter(change))):
        Sampler(**change)  # type: ignore[arg-type]
