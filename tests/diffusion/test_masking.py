"""Masked diffusion: hiding, weights, the step back, and the distribution of the masking probability."""

import math

import pytest
import torch

from dbl.diffusion.masking import MaskingNoise, MaskSchedule, mask_tokens, unmask
from dbl.diffusion.noise import Interval
from dbl.diffusion.partition import PartitionConfig
from dbl.utils.errors import UserError

SCHEDULES: list[MaskSchedule] = ["linear", "cosine"]
MASK = 7


def alpha(schedule: MaskSchedule, time: torch.Tensor) -> torch.Tensor:
    """As MD4 writes it."""
    return 1 - time if schedule == "linear" else 1 - torch.cos(math.pi / 2 * (1 - time))


def test_each_token_is_hidden_with_its_sample_s_probability() -> None:
    """Catches a level that is used for the wrong sample, or a probability of showing in place of hiding."""
    tokens = torch.arange(7).repeat(3, 3000)
    noise = torch.randn(tokens.shape, generator=torch.Generator().manual_seed(0))
    noisy = mask_tokens(tokens, noise, torch.tensor([0.0, 0.2, 1.0]), MASK)
    assert (noisy == MASK).double().mean(1).tolist() == pytest.approx([0, 0.2, 1], abs=0.01)
    assert torch.equal(noisy[noisy != MASK], tokens[noisy != MASK])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_levels_follow_even_times(schedule: MaskSchedule) -> None:
    """Catches a schedule that is turned around, and a CDF that is not the inverse of the quantile."""
    distribution = MaskingNoise(sigma_min=1e-6, schedule=schedule)
    time = torch.linspace(0.01, 0.99, 9, dtype=torch.float64)
    torch.testing.assert_close(distribution.quantile(time), 1 - alpha(schedule, time), atol=1e-5, rtol=0)
    torch.testing.assert_close(distribution.cdf(distribution.quantile(time)), time)
    assert distribution.quantile(torch.tensor([0.0, 1.0])).tolist() == pytest.approx([1e-6, 1])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_weight_is_that_of_the_schedule(schedule: MaskSchedule) -> None:
    """Catches a weight without the schedule's slope: `-alpha'(t) / (1 - alpha(t))` by automatic differentiation."""
    time = torch.linspace(0.05, 0.95, 7, dtype=torch.float64, requires_grad=True)
    shown = alpha(schedule, time)
    (slope,) = torch.autograd.grad(shown.sum(), time)
    expected = -slope / (1 - shown.detach())
    torch.testing.assert_close(MaskingNoise(schedule=schedule).weight(1 - shown.detach()), expected)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_even_cuts_in_alpha(schedule: MaskSchedule) -> None:
    """Catches a partition that is even in time where the paper's is even in alpha."""
    distribution = MaskingNoise(sigma_min=0.001, schedule=schedule)
    cut = PartitionConfig(num_blocks=4, scheme="uniform_sigma", overlap=0).build(distribution, 4)
    assert cut.boundaries == pytest.approx((1.0, 0.75, 0.5, 0.25, 0.001), abs=1e-3)
    assert distribution.sample(Interval(0.25, 0.5), 100, torch.Generator().manual_seed(0)).max() <= 0.5


def test_a_step_shows_the_right_share_and_keeps_what_is_known() -> None:
    """Catches a share of hidden tokens that does not arrive at the next level, and known tokens that are drawn anew."""
    uniform = torch.rand(2, 20000, generator=torch.Generator().manual_seed(1))
    noisy = torch.full((2, 20000), MASK)
    noisy[:, ::5] = 3
    found = unmask(noisy, torch.ones_like(noisy), uniform, 0.8, 0.2, MASK)
    assert (found[:, ::5] == 3).all()
    hidden = (found == MASK).double().sum().item() / (noisy == MASK).double().sum().item()
    assert hidden == pytest.approx(0.25, abs=0.01)
    assert not (unmask(noisy, torch.ones_like(noisy), uniform, 0.2, 0.0, MASK) == MASK).any()


def test_a_probability_above_one_is_refused() -> None:
    """Catches levels of Gaussian noise that are left in a config of masked text."""
    with pytest.raises(UserError, match=r"sigma_max \(80\.0\) must be .*: it is a probability"):
        MaskingNoise(sigma_max=80.0)
    with pytest.raises(UserError, match="schedule"):
        MaskingNoise(schedule="square")  # type: ignore[arg-type]
