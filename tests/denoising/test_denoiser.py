"""The denoiser: preconditioning, precision and the weighted loss of each sample; N = 3."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from dbl.data.spec import ImageSpec
from dbl.denoising.denoiser import GaussianDenoiser
from dbl.denoising.targets import ClassTarget, Clean, PixelTarget
from dbl.utils.errors import UserError

SIGMAS = [0.05, 0.6, 9.0]


class Recorded(nn.Module):
    """A network that gives a fixed answer and keeps what it was asked."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer = answer
        self.asked: tuple[Tensor, ...] = ()

    def forward(self, *asked: Tensor) -> Tensor:
        self.asked = asked
        return self.answer


@pytest.fixture
def images() -> Iterator[Tensor]:
    """Noisy images, clean images and network answers: [3, 3, 8, 6] each."""
    return iter(torch.randn(3, 3, 3, 8, 6, generator=torch.Generator().manual_seed(0)))


def pixel_denoiser(network: nn.Module, sigma_data: float = 0.5) -> GaussianDenoiser:
    target = PixelTarget(sigma_data=sigma_data)
    return GaussianDenoiser(network, target.readout(None), target.sigma_data, target.loss_weight)


def test_a_silent_network_leaves_c_skip_times_the_input(images: Iterator[Tensor]) -> None:
    """Catches a skip connection of another sigma_data than the target's: per sample sd^2 / (s^2 + sd^2)."""
    noisy = next(images)
    denoised = pixel_denoiser(Recorded(torch.zeros_like(noisy)), sigma_data=0.3)(noisy, torch.tensor(SIGMAS), None)
    for n, s in enumerate(SIGMAS):
        torch.testing.assert_close(denoised[n], 0.3**2 / (s**2 + 0.3**2) * noisy[n])


def test_an_answer_of_another_shape_is_not_trained(images: Iterator[Tensor]) -> None:
    """Catches a network of one channel whose loss is broadcast over three, in silence."""
    noisy, clean = next(images), next(images)
    batch = Clean(clean, torch.arange(3), torch.arange(3))
    with pytest.raises(UserError, match=r"blocks return \[3, 1, 8, 6\] for targets \[3, 3, 8, 6\]"):
        pixel_denoiser(Recorded(noisy[:, :1])).loss(batch, noisy, torch.tensor(SIGMAS))


def test_the_answer_of_the_network_is_scaled_by_c_out(images: Iterator[Tensor]) -> None:
    """Catches an output that is not scaled, or scaled with another sample's level."""
    noisy, answer = next(images), next(images)
    denoised = pixel_denoiser(Recorded(answer))(noisy, torch.tensor(SIGMAS), None)
    for n, s in enumerate(SIGMAS):
        root = math.sqrt(s**2 + 0.25)
        torch.testing.assert_close(denoised[n], 0.25 / root**2 * noisy[n] + 0.5 * s / root * answer[n])


def test_the_network_is_asked_with_scaled_inputs(images: Iterator[Tensor]) -> None:
    """Catches a network that sees the raw input, or sigma in place of ln(sigma) / 4, or not the condition."""
    noisy, cond = next(images), torch.tensor([4, 0, 2])
    network = Recorded(torch.zeros_like(noisy))
    pixel_denoiser(network)(noisy, torch.tensor(SIGMAS), cond)
    scaled, c_noise, passed = network.asked
    for n, s in enumerate(SIGMAS):
        torch.testing.assert_close(scaled[n], noisy[n] / math.sqrt(s**2 + 0.25))
        assert c_noise[n].item() == pytest.approx(math.log(s) / 4, rel=1e-6)
    assert c_noise.shape == (3,)
    assert passed is cond


@pytest.mark.parametrize("sigma", [torch.tensor([[0.1], [0.2], [0.3]]), torch.tensor(0.5), torch.tensor([0.5])])
def test_levels_of_another_shape_are_refused(sigma: Tensor, images: Iterator[Tensor]) -> None:
    """Catches levels [N, 1] or one level for all, which would broadcast into a wrong but plausible result."""
    noisy = next(images)
    with pytest.raises(ValueError, match="sigma must have shape"):
        pixel_denoiser(Recorded(torch.zeros_like(noisy)))(noisy, sigma, None)


def test_pixel_loss_weighs_each_sample_by_its_own_level(images: Iterator[Tensor]) -> None:
    """Catches weights [N, 1] against losses [N], whose mean is mean(loss) times mean(weight)."""
    noisy, target, answer = images
    clean = Clean(target, torch.zeros(3), torch.zeros(3))
    denoiser = pixel_denoiser(Recorded(answer))
    loss = denoiser.loss(clean, noisy, torch.tensor(SIGMAS))
    denoised = denoiser(noisy, torch.tensor(SIGMAS), None)
    assert loss.shape == (3,)
    for n, s in enumerate(SIGMAS):
        pairs = zip(denoised[n].flatten().tolist(), target[n].flatten().tolist(), strict=True)
        error = sum((a - b) ** 2 for a, b in pairs) / (3 * 8 * 6)
        assert loss[n].item() == pytest.approx((s**2 + 0.25) / (0.5 * s) ** 2 * error, rel=1e-4)


def test_class_loss_weighs_each_sample_by_its_own_level(data_spec: ImageSpec) -> None:
    """Catches the same for cross-entropy, and a loss that looks at the clean vector instead of the label."""
    target = ClassTarget(dim=7, weight="edm", kind="posterior")
    table = target.make_table(data_spec, seed=0)
    noisy, answer = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([4, 1, 3])
    denoiser = GaussianDenoiser(Recorded(answer), target.readout(table), target.sigma_data, target.loss_weight)
    loss = denoiser.loss(Clean(table[labels], torch.zeros(3), labels), noisy, torch.tensor(SIGMAS))
    logits = denoiser.predict(noisy, torch.tensor(SIGMAS), torch.zeros(3)).logits
    assert loss.shape == (3,)
    for n, s in enumerate(SIGMAS):
        row = logits[n].double().tolist()
        entropy = max(row) + math.log(sum(math.exp(value - max(row)) for value in row)) - row[labels[n]]
        assert loss[n].item() == pytest.approx((s**2 + 0.25) / (0.5 * s) ** 2 * entropy, rel=1e-4, abs=1e-4)


def test_the_gaussian_optimum_has_no_better_answer_than_silence() -> None:
    """Catches a preconditioning under which c_skip is not optimal: for data N(0, sd^2) any fixed answer costs more."""
    generator = torch.Generator().manual_seed(2)
    clean = 0.5 * torch.randn(3, 4000, generator=generator)
    sigma = torch.tensor(SIGMAS)
    noisy = clean + sigma.unsqueeze(1) * torch.randn(3, 4000, generator=generator)
    batch = Clean(clean, torch.zeros(3), torch.zeros(3))
    silent = pixel_denoiser(Recorded(torch.zeros(3, 4000))).loss(batch, noisy, sigma)
    torch.testing.assert_close(silent, torch.ones(3), rtol=0.1, atol=0)  # the EDM weight makes it 1 at every level
    for sign in (-1, 1):
        answer = sign * 0.3 * noisy / (sigma.square() + 0.25).sqrt().unsqueeze(1)
        assert (pixel_denoiser(Recorded(answer)).loss(batch, noisy, sigma) > silent).all()


class Low(nn.Module):
    """A network whose answer is bfloat16 under autocast."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(7, 7)

    def forward(self, noisy: Tensor, c_noise: Tensor, cond: Tensor) -> Tensor:
        self.answer: Tensor = self.linear(noisy)
        return self.answer


@pytest.mark.parametrize("kind", ["cosine", "linear", "posterior"])
def test_everything_around_a_low_precision_network_is_float32(kind: str, data_spec: ImageSpec) -> None:
    """Catches scalings, cosine, evidence and expected embedding in bfloat16, wherever a prediction is used."""
    target = ClassTarget(dim=7, kind=kind)  # type: ignore[arg-type]
    table = target.make_table(data_spec, seed=0)
    network, sigma = Low(), torch.tensor(SIGMAS)
    denoiser = GaussianDenoiser(network, target.readout(table), target.sigma_data, target.loss_weight)
    noisy = torch.randn(3, 7, generator=torch.Generator().manual_seed(3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = denoiser.predict(noisy, sigma, torch.zeros(3))
        denoised = low.denoised
    assert network.answer.dtype == torch.bfloat16
    assert denoised.dtype == low.logits.dtype == torch.float32
    if kind == "cosine":
        denoiser.network = Recorded(network.answer.float())
        expected = denoiser.predict(noisy, sigma, torch.zeros(3)).logits
    else:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            expected = denoiser.readout.linear(network.answer).float()  # type: ignore[operator]
    if kind == "posterior":
        expected = expected + (noisy @ table.T) / sigma.square().unsqueeze(1)
    assert torch.equal(low.logits, expected)
    assert torch.equal(denoised, expected.softmax(-1) @ table)


def test_pixels_stay_float32_under_autocast(images: Iterator[Tensor]) -> None:
    """Catches a denoised image in the network's precision: bfloat16 keeps three digits, too few at low noise."""
    noisy, answer = next(images), next(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        denoised = pixel_denoiser(Recorded(answer.bfloat16()))(noisy, torch.tensor(SIGMAS), None)
    assert denoised.dtype == torch.float32
    answer = answer.bfloat16().float()
    torch.testing.assert_close(denoised[0], noisy[0] / 1.01 + 0.05 / math.sqrt(1.01) * answer[0])


def test_a_float64_sampler_state_is_accepted(images: Iterator[Tensor]) -> None:
    """Catches a denoiser that fails on, or runs the network in, the float64 of the samplers."""
    noisy = next(images)
    network = Recorded(torch.zeros_like(noisy))
    denoised = pixel_denoiser(network)(noisy.double(), torch.tensor(SIGMAS, dtype=torch.float64), None)
    assert network.asked[0].dtype == network.asked[1].dtype == denoised.dtype == torch.float32
