"""Target spaces and readouts against plain loops; N = 3, C = 5, D = 7."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from dbl.data.spec import ImageSpec
from dbl.denoising.targets import (
    ClassSpace,
    ClassTarget,
    Clean,
    PixelReadout,
    PixelTarget,
    Prediction,
    TableReadout,
    unit_rows,
)
from dbl.utils.errors import UserError

SIGMAS = [0.3, 1.0, 4.0]


@pytest.fixture
def table(data_spec: ImageSpec) -> Tensor:
    return ClassTarget(dim=7).make_table(data_spec, seed=0)


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Estimate, output, noisy [3, 7] each, all different, and sigma [3]."""
    estimate, output, noisy = torch.randn(3, 3, 7, generator=torch.Generator().manual_seed(0))
    return estimate, output, noisy, torch.tensor(SIGMAS)


def dot(a: Tensor, b: Tensor) -> float:
    return sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True))


def test_pixels_get_the_measured_scale(data_spec: ImageSpec) -> None:
    """Catches images scaled to [-1, 1] by assumption: each channel must have mean 0 and deviation sigma_data."""
    gains, offsets = torch.tensor([9.0, 20.0, 40.0]), torch.tensor([200.0, 120.0, 60.0])
    noise = torch.randn(11, 3, 8, 6, generator=torch.Generator().manual_seed(0))
    images = (noise * gains.reshape(-1, 1, 1) + offsets.reshape(-1, 1, 1)).clamp(0, 255).to(torch.uint8)
    channels = [images[:, c].double() for c in range(3)]
    spec = replace(
        data_spec,
        mean=tuple(c.mean().item() for c in channels),
        std=tuple(c.std(correction=0).item() for c in channels),
    )
    space = PixelTarget(sigma_data=0.4).space(spec, None)
    labels = torch.arange(11) % 5
    clean = space.encode({"image": images, "label": labels})
    for channel in range(3):
        values = clean.clean[:, channel]
        assert values.std(correction=0).item() == pytest.approx(0.4, rel=1e-4)
        assert values.mean().item() == pytest.approx(0.0, abs=1e-4)
    assert torch.equal(clean.cond, labels)
    assert torch.equal(clean.labels, labels)
    torch.testing.assert_close(space.decode(clean.clean), images.float(), rtol=0, atol=1e-3)


def test_class_targets_are_table_rows_and_images_the_condition(data_spec: ImageSpec, table: Tensor) -> None:
    """Catches labels that fetch the wrong rows, and an image condition that is not standardised channel by channel."""
    space = ClassSpace(data_spec, table)
    images = torch.randint(0, 255, (4, 3, 8, 6), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    labels = torch.tensor([4, 0, 3, 1])
    clean = space.encode({"image": images, "label": labels})
    for n, label in enumerate(labels.tolist()):
        assert torch.equal(clean.clean[n], table[label])
        for channel in range(3):
            expected = (images[n, channel, 5, 2].item() - data_spec.mean[channel]) / data_spec.std[channel]
            assert clean.cond[n, channel, 5, 2].item() == pytest.approx(expected, rel=1e-5)
    assert torch.equal(clean.labels, labels)


def test_class_answer_is_the_nearest_row(data_spec: ImageSpec, table: Tensor) -> None:
    """Catches an answer that depends on the length of the denoised vector or on the order of the classes."""
    space = ClassSpace(data_spec, table)
    labels = torch.tensor([3, 1, 4, 0, 2, 2])
    nudge = 0.2 * torch.randn(6, 7, generator=torch.Generator().manual_seed(1))
    denoised = table[labels] + nudge
    nearest = [min(range(5), key=lambda c: (row - table[c]).norm().item()) for row in denoised]
    assert space.decode(denoised).tolist() == nearest == labels.tolist()
    assert space.decode(0.01 * denoised).tolist() == nearest


def test_unit_rows_normalises_the_last_axis() -> None:
    """Catches normalising columns or the whole table."""
    rows = unit_rows(torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, -2.0]]))
    torch.testing.assert_close(rows, torch.tensor([[0.6, 0.8, 0.0], [0.0, 0.0, -1.0]]))


@pytest.mark.parametrize("dim", [5, 7, 128])
def test_table_is_orthonormal_where_there_is_room(data_spec: ImageSpec, dim: int) -> None:
    """Catches rows that are only random: with C <= D no two classes may be alike; C = D is the narrowest case."""
    table = ClassTarget(dim=dim).make_table(data_spec, seed=0)
    assert table.shape == (5, dim)
    assert table.dtype == torch.float32
    torch.testing.assert_close(table @ table.T, torch.eye(5), rtol=0, atol=1e-6)


def test_table_has_unit_rows_where_there_is_no_room(data_spec: ImageSpec) -> None:
    """Catches orthonormal columns in place of unit rows, and two classes with one row, when C > D."""
    table = ClassTarget(dim=3).make_table(data_spec, seed=0)
    assert table.shape == (5, 3)
    for row in table:
        assert math.sqrt(dot(row, row)) == pytest.approx(1.0, abs=1e-6)
    assert torch.triu(table @ table.T, diagonal=1).max() < 0.999


@pytest.mark.parametrize("dim", [3, 7])
def test_table_is_a_function_of_the_seed(data_spec: ImageSpec, dim: int) -> None:
    """Catches a table from the global generator: blocks on different machines would aim at different targets."""
    target = ClassTarget(dim=dim)
    torch.manual_seed(0)
    table = target.make_table(data_spec, seed=3)
    torch.manual_seed(1)
    assert torch.equal(table, target.make_table(data_spec, seed=3))
    assert not torch.allclose(table, target.make_table(data_spec, seed=4))


def test_table_file_is_used_and_normalised(data_spec: ImageSpec, tmp_path: Path) -> None:
    """Catches a file that is ignored, or whose rows are taken as they are and not through `unit_rows`."""
    path = tmp_path / "table.safetensors"
    rows = torch.randn(5, 7, generator=torch.Generator().manual_seed(2)) * 4
    save_file({"table": rows.half()}, path)
    table = ClassTarget(dim=7, table_file=str(path)).make_table(data_spec, seed=0)
    assert table.dtype == torch.float32
    torch.testing.assert_close(table, unit_rows(rows.half().float()))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        ({"table": torch.ones(4, 7)}, r"shape \[4, 7\].*needs \[5, 7\]"),
        ({"table": torch.ones(5)}, r"shape \[5\]"),
        ({"weights": torch.ones(5, 7)}, "tensor `table`"),
        (b"no safetensors", "not a safetensors file"),
    ],
)
def test_unusable_table_files_are_refused(
    data_spec: ImageSpec, tmp_path: Path, content: dict[str, Tensor] | bytes | None, message: str
) -> None:
    """Catches a table of other classes or another width, and a damaged file, getting as far as training."""
    path = tmp_path / "table.safetensors"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        save_file(content, path)
    with pytest.raises(UserError, match=message) as refusal:
        ClassTarget(dim=7, table_file=str(path)).make_table(data_spec, seed=0)
    assert str(path) in str(refusal.value)


def test_cosine_readout_by_hand(table: Tensor, inputs: tuple[Tensor, ...]) -> None:
    """Catches a cosine not divided by the length, or of the raw output, and a scale that does not start at 16."""
    estimate = inputs[0]
    logits = TableReadout(table, "cosine")(*inputs).logits
    for n in range(3):
        for c in range(5):
            expected = 16 * dot(estimate[n], table[c]) / math.sqrt(dot(estimate[n], estimate[n]))
            assert logits[n, c].item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("kind", ["linear", "posterior"])
def test_linear_and_posterior_readout_by_hand(kind: str, table: Tensor, inputs: tuple[Tensor, ...]) -> None:
    """Catches evidence with another sample's level, with sigma in place of sigma^2, or in a readout that has none."""
    _, output, noisy, _ = inputs
    readout = TableReadout(table, kind)  # type: ignore[arg-type]
    weight, bias = readout.linear.weight, readout.linear.bias
    logits = readout(*inputs).logits
    for n in range(3):
        for c in range(5):
            expected = dot(weight[c], output[n]) + bias[c].item()
            if kind == "posterior":
                expected += dot(noisy[n], table[c]) / SIGMAS[n] ** 2
            assert logits[n, c].item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_posterior_readout_is_exact_when_the_network_says_the_prior(table: Tensor) -> None:
    """Catches any departure from Bayes' rule: with log prior as logits, denoised is the exact posterior mean."""
    prior = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05])
    readout = TableReadout(table, "posterior")
    with torch.no_grad():
        readout.linear.weight.zero_()
        readout.linear.bias.copy_(prior.log())
    generator = torch.Generator().manual_seed(3)
    noisy = table[[0, 2, 4]] + torch.tensor(SIGMAS).unsqueeze(1) * torch.randn(3, 7, generator=generator)
    denoised = readout(noisy, torch.randn(3, 7), noisy, torch.tensor(SIGMAS)).denoised
    for n in range(3):
        distances = [(noisy[n] - table[c]).double().square().sum().item() for c in range(5)]
        joint = [p * math.exp(-d / (2 * SIGMAS[n] ** 2)) for p, d in zip(prior.tolist(), distances, strict=True)]
        mean = sum(w / sum(joint) * table[c].double() for c, w in enumerate(joint))
        torch.testing.assert_close(denoised[n].double(), mean, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["cosine", "linear", "posterior"])
def test_denoised_is_the_expected_embedding(kind: str, table: Tensor, inputs: tuple[Tensor, ...]) -> None:
    """Catches probabilities normalised over samples, and a denoised vector that is one row and no mean."""
    prediction = TableReadout(table, kind)(*inputs)  # type: ignore[arg-type]
    denoised, logits = prediction.denoised, prediction.logits
    for n in range(3):
        weights = [math.exp(value) for value in logits[n].tolist()]
        for d in range(7):
            expected = sum(w * table[c, d].item() for c, w in enumerate(weights)) / sum(weights)
            assert denoised[n, d].item() == pytest.approx(expected, abs=1e-5)


def test_class_loss_is_the_cross_entropy_of_each_sample(table: Tensor) -> None:
    """Catches a loss that is averaged over the batch, where weights could no longer act per sample."""
    logits = torch.tensor([[1.0, 2.0, 0.0, -1.0, 0.5], [0.0, 0.0, 3.0, 0.0, 0.0], [9.0, 1.0, 1.0, 2.0, 4.0]])
    labels = torch.tensor([3, 2, 4])
    clean = Clean(table[labels], torch.zeros(3), labels)
    loss = TableReadout(table, "cosine").loss(Prediction(logits @ table, logits), clean)
    expected = [
        math.log(sum(math.exp(value) for value in row)) - row[label]
        for row, label in zip(logits.tolist(), labels.tolist(), strict=True)
    ]
    assert loss.tolist() == pytest.approx(expected, rel=1e-5)


def test_pixel_loss_is_the_mean_squared_error_of_each_sample() -> None:
    """Catches a sum in place of a mean, or a mean over the batch: N = 2, images [3, 4, 5]."""
    denoised, target = torch.randn(2, 2, 3, 4, 5, generator=torch.Generator().manual_seed(4))
    clean = Clean(target, torch.zeros(2), torch.zeros(2))
    loss = PixelReadout().loss(Prediction(denoised), clean)
    for n in range(2):
        pairs = zip(denoised[n].flatten().tolist(), target[n].flatten().tolist(), strict=True)
        assert loss[n].item() == pytest.approx(sum((a - b) ** 2 for a, b in pairs) / 60, rel=1e-5)
    assert loss.shape == (2,)


def test_loss_weights() -> None:
    """Catches a weight setting that is read nowhere, and a weight with another sigma_data than the preconditioning."""
    sigma = torch.tensor(SIGMAS)
    expected = [(s**2 + 0.3**2) / (s * 0.3) ** 2 for s in SIGMAS]
    assert PixelTarget(sigma_data=0.3).loss_weight(sigma).tolist() == pytest.approx(expected, rel=1e-5)
    assert PixelTarget(weight="uniform").loss_weight(sigma).tolist() == [1, 1, 1]
    assert ClassTarget().loss_weight(sigma).tolist() == [1, 1, 1]
    assert ClassTarget(weight="edm", sigma_data=0.3).loss_weight(sigma).tolist() == pytest.approx(expected, rel=1e-5)


def test_shapes_of_targets(data_spec: ImageSpec) -> None:
    """Catches a target whose shape does not fit what its space encodes."""
    assert PixelTarget().shape(data_spec) == (3, 8, 6)
    assert ClassTarget(dim=7).shape(data_spec) == (7,)
    assert PixelTarget().make_table(data_spec, seed=0) is None


@pytest.mark.parametrize("sigma_data", [0.0, -0.5, math.nan])
def test_a_scale_that_is_not_positive_is_refused(sigma_data: float) -> None:
    """Catches a division by zero in preconditioning that would only show as NaN."""
    with pytest.raises(UserError, match="sigma_data"):
        PixelTarget(sigma_data=sigma_data)


@pytest.mark.parametrize("kind", ["cosine", "linear", "posterior"])
def test_the_table_is_frozen_and_not_stored_twice(kind: str, table: Tensor) -> None:
    """Catches a target table that an optimizer could move, or that each block's checkpoint carries along."""
    readout = TableReadout(table, kind)  # type: ignore[arg-type]
    assert all(
        parameter.shape != table.shape or name == "linear.weight" for name, parameter in readout.named_parameters()
    )
    assert not readout.table.requires_grad
    assert "table" not in readout.state_dict()
