"""Diagnostics of blocks whose behaviour is known, and of toy stacks after a test."""

import json
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluation_toy import evaluation, logged_tags, toy_contract, toy_stack
from torch import Tensor, nn
from torch.nn import functional as F
from toy import Stripes

from dbl.data.spec import IGNORED
from dbl.data.splits import evenly_spaced
from dbl.denoising.denoiser import Denoiser, GaussianDenoiser
from dbl.denoising.sampling import Sampler
from dbl.denoising.targets import ClassTarget, Clean, PixelTarget, Prediction
from dbl.diffusion.noise import LogUniformNoise
from dbl.diffusion.partition import Partition, PartitionConfig
from dbl.evaluation import diagnostics
from dbl.evaluation.callbacks.diagnostics import Diagnostics
from dbl.evaluation.diagnostics import Probe, diagnose, follow_path, measure_blocks, partners
from dbl.evaluation.figures import loss_figure, trajectory_figure
from dbl.evaluation.stack_evaluation import StackEvaluation
from dbl.inference.stack import BlockStack
from dbl.run.inference import InferenceConfig
from dbl.utils.errors import UserError

NOISE = LogUniformNoise(sigma_min=0.02, sigma_max=20.0)
SHAPE = (2, 3, 4)
COORDINATES = 24
Answer = Callable[[Tensor, Tensor, Tensor], Tensor]


class StandIn(GaussianDenoiser):
    """A block for images that answers as it is told: denoised from (noisy [N, 2, 3, 4], sigma [N, 1, 1, 1], cond)."""

    def __init__(self, answer: Answer) -> None:
        target = PixelTarget()
        super().__init__(nn.Identity(), target.readout(None), target.sigma_data, target.loss_weight)
        self.answer = answer

    def predict(self, noisy: Tensor, sigma: Tensor, cond: Tensor) -> Prediction:
        return Prediction(self.answer(noisy, sigma.reshape(-1, 1, 1, 1), cond))


def cut(num_blocks: int) -> Partition:
    return PartitionConfig(num_blocks=num_blocks).build(NOISE, num_layers=num_blocks)


def images_as_conditions(num: int = 80) -> Probe:
    """Images of variance 1/4, each of which is its own condition, so that a stand-in knows the right answer."""
    clean = 0.5 * torch.randn(num, *SHAPE, generator=torch.Generator().manual_seed(0))
    return Probe.of(Clean(clean, clean, torch.arange(num) % 4), torch.arange(num))


def labels_as_conditions(num: int = 90) -> Probe:
    """Images of two classes around -1 and 1, with the label as the condition."""
    labels = torch.arange(num) % 2
    around = 0.5 * torch.randn(num, *SHAPE, generator=torch.Generator().manual_seed(1))
    return Probe.of(Clean(around + class_means(labels), labels, labels), torch.arange(num))


def class_means(labels: Tensor) -> Tensor:
    return (2.0 * labels - 1).reshape(-1, 1, 1, 1)


def measured(answers: list[Answer], probe: Probe, levels_per_block: int = 4) -> dict[str, Any]:
    blocks = [StandIn(answer) for answer in answers]
    return measure_blocks(blocks.__getitem__, NOISE, cut(len(blocks)), probe, levels_per_block)


def unrelated(noisy: Tensor, sigma: Tensor, cond: Tensor) -> Tensor:
    """An answer that reads the condition, to no effect on average."""
    return 0.3 * torch.sin(1e4 * cond.sum((1, 2, 3), keepdim=True)) + 0 * noisy


def test_a_block_that_ignores_its_condition_is_flagged() -> None:
    """Catches shuffled conditions that are not shuffled, and other noise for the two losses of a pair."""
    probe = labels_as_conditions()
    uses = measured([lambda z, s, c: class_means(c).expand_as(z), lambda z, s, c: z / (1 + s**2)], probe)["condition"]
    assert [block["uses_condition"] for block in uses] == [True, False]
    assert uses[0]["loss_shuffled"] - uses[0]["loss"] == pytest.approx(4, rel=0.05)  # the means are 2 apart
    assert uses[1]["loss_shuffled"] == uses[1]["loss"]
    assert uses[1]["standard_error"] == 0


def test_small_and_random_effects_are_no_use() -> None:
    """Catches a rule without its two thresholds: an effect below 1 % of the loss, and one within its error."""
    tiny = measured([lambda z, s, c: 1e-3 * class_means(c).expand_as(z)], labels_as_conditions())["condition"][0]
    assert tiny["loss_shuffled"] - tiny["loss"] > 2 * tiny["standard_error"] > 0
    assert not tiny["uses_condition"]
    random = measured([unrelated], images_as_conditions())["condition"][0]
    assert abs(random["loss_shuffled"] - random["loss"]) < 2 * random["standard_error"]
    assert not random["uses_condition"]


def test_the_error_of_a_rise_is_that_of_its_images() -> None:
    """Catches an error over levels, or of the two losses apart, whose common part is much larger than the rise."""
    probe = labels_as_conditions()
    rise = measured([lambda z, s, c: class_means(c).expand_as(z)], probe)["condition"][0]
    # |y - other|^2 - |y - own|^2 is 4 -+ 4 mean(around), by hand from the images.
    around = (probe.clean.clean - class_means(probe.clean.labels)).mean((1, 2, 3))
    assert rise["standard_error"] == pytest.approx(4 * around.std().item() / math.sqrt(90), rel=0.05)


@pytest.mark.parametrize("counts", [(7, 7), (3, 5, 4, 3), (1, 1), (2, 9, 7)])
def test_partners_are_others_of_another_class(counts: tuple[int, ...]) -> None:
    """Catches conditions of the same class, which tell a block all that it needs."""
    labels = torch.cat([torch.full((count,), index) for index, count in enumerate(counts)])
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    found = partners(labels)
    assert sorted(found.tolist()) == list(range(len(labels)))
    assert (labels[found] != labels).all()


def test_images_are_spread_over_the_split() -> None:
    """Catches the first images of a split that is sorted by class, and indices beyond a small one."""
    assert evenly_spaced(10, 4).tolist() == [0, 2, 5, 7]
    assert evenly_spaced(3, 256).tolist() == [0, 1, 2]


def test_identical_neighbours_agree_and_shifted_ones_differ_by_the_shift() -> None:
    """Catches neighbours that are asked at different levels, with different noise or about different images."""
    shifts = [0.0, 0.0, 0.3, -0.1]

    def block(shift: float) -> Answer:
        return lambda z, s, c: z / (1 + s) + 0.1 * c + shift

    probe = images_as_conditions()
    found = measured([block(shift) for shift in shifts], probe)["boundaries"]
    assert [boundary["blocks"] for boundary in found] == [[0, 1], [1, 2], [2, 3]]
    assert [boundary["sigma"] for boundary in found] == list(cut(4).boundaries[1:-1])
    assert [boundary["difference"] for boundary in found] == pytest.approx([0, 0.3, 0.4], abs=1e-5)
    for boundary, shift in zip(found, shifts, strict=False):
        # D - y = (0.1 - s / (1 + s)) y + s / (1 + s) noise + shift, with y of variance 1/4.
        share = boundary["sigma"] / (1 + boundary["sigma"])
        # The images have 2,000 coordinates, so that a mean square is known to 3 %.
        expected = math.sqrt((0.1 - share) ** 2 / 4 + share**2 + shift**2)
        assert boundary["error"] == pytest.approx(expected, rel=0.05)


def test_information_of_a_known_error_is_its_integral() -> None:
    """Catches a wrong power of sigma, an error per coordinate, and levels that stand for the wrong widths."""
    found = measured(
        [lambda z, s, c: c + 0.7 * s, lambda z, s, c: c - 0.1 * s, lambda z, s, c: c], images_as_conditions()
    )
    width = math.log(20 / 0.02) / 3
    nats = [0.7**2 * COORDINATES * width, 0.1**2 * COORDINATES * width, 0]
    assert [block["nats"] for block in found["information"]] == pytest.approx(nats, rel=1e-4)
    shares = [value / sum(nats) for value in nats]
    assert [block["share"] for block in found["information"]] == pytest.approx(shares, rel=1e-4)


def test_information_of_gaussian_images_is_the_known_logarithm() -> None:
    """Catches an integral over levels in place of ln sigma: c_skip z is the best answer, and its error is known."""
    target = PixelTarget()

    class Silent(nn.Module):
        def forward(self, noisy: Tensor, c_noise: Tensor, cond: Tensor) -> Tensor:
            return torch.zeros_like(noisy)

    block, partition = GaussianDenoiser(Silent(), target.readout(None), target.sigma_data, target.loss_weight), cut(3)
    found = measure_blocks(lambda index: block, NOISE, partition, images_as_conditions(400), levels_per_block=16)
    for index, information in enumerate(found["information"]):
        low, high = partition.interval(index)
        # The integral of sigma^-3 sd^2 sigma^2 / (sd^2 + sigma^2) with sd^2 = 1/4.
        exact = COORDINATES * 0.5 * math.log((1 + 0.25 / low**2) / (1 + 0.25 / high**2))
        assert information["nats"] == pytest.approx(exact, rel=0.03)
    assert sum(information["share"] for information in found["information"]) == pytest.approx(1)


def test_levels_decrease_and_belong_to_their_block() -> None:
    """Catches rising levels, levels at the ends of an interval or of the widened one, and weighted losses."""
    partition = cut(3)
    found = measured([lambda z, s, c: c + 0.5 * s] * 3, images_as_conditions(), levels_per_block=5)["levels"]
    sigmas = [level["sigma"] for level in found]
    assert len(found) == 15
    assert all(high > low for high, low in pairwise(sigmas))
    assert partition.block_for(torch.tensor(sigmas)).tolist() == [level["block"] for level in found]
    shares = NOISE.cdf(torch.tensor(sigmas, dtype=torch.float64))
    torch.testing.assert_close(shares, 1 - (torch.arange(15, dtype=torch.float64) + 0.5) / 15)
    for level in found:
        assert level["loss"] == pytest.approx(0.25 * level["sigma"] ** 2, rel=1e-3, abs=1e-9)
        assert level["weight"] == pytest.approx((level["sigma"] ** 2 + 0.25) / (0.5 * level["sigma"]) ** 2)


def test_losses_of_classes_are_cross_entropy_without_weight() -> None:
    """Catches weighted losses for discrete targets, and squared errors in their place."""
    target, table = ClassTarget(dim=4, weight="edm"), torch.eye(4)

    class Fixed(GaussianDenoiser):
        def predict(self, noisy: Tensor, sigma: Tensor, cond: Tensor) -> Prediction:
            logits = cond @ torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0]))
            return Prediction(logits.softmax(1) @ table, logits)

    labels = torch.arange(12) % 4
    probe = Probe.of(Clean(table[labels], table[labels], labels), torch.arange(12))
    block = Fixed(nn.Identity(), target.readout(table), target.sigma_data, target.loss_weight)
    found = measure_blocks(lambda index: block, NOISE, cut(1), probe, levels_per_block=2)["levels"]
    right = F.cross_entropy(table * torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.arange(4)).item()
    assert [level["loss"] for level in found] == pytest.approx([right, right])
    assert all(level["loss_shuffled"] > 2 * right for level in found)


def test_chunks_keep_images_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches rows of targets, conditions and noise that slip against each other in a second network call."""
    results = []
    for size in (1000, 7):
        monkeypatch.setattr(diagnostics, "_CHUNK", size)
        results.append(measured([lambda z, s, c: c + 0.1 * z, lambda z, s, c: 0.9 * c], images_as_conditions()))
    numbers = [
        [value for rows in result.values() for row in rows for value in row.values() if not isinstance(value, list)]
        for result in results
    ]
    assert len(numbers[0]) > 50
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-5)


def known_stack(scale: float, **sampler: Any) -> BlockStack:
    """Blocks 0, 1, 2 answer with images full of 1, 2, 3; without a condition with images full of `scale`."""

    class Full(GaussianDenoiser):
        def predict(self, noisy: Tensor, sigma: Tensor, cond: Tensor) -> Prediction:
            value = torch.where(cond == 3, scale, self.value)
            return Prediction(value.reshape(-1, 1, 1, 1).expand_as(noisy).clone())

    contract = toy_contract("dit")

    def load(block: int) -> Denoiser:
        target = contract.config.target
        found = Full(nn.Identity(), target.readout(None), target.sigma_data, target.loss_weight)
        found.value = torch.tensor(1.0 + block)
        return found

    return BlockStack(contract, load, InferenceConfig(sampler=Sampler(num_steps=9, schedule="quantile", **sampler)))


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("method", ["euler", "heun"])
def test_the_trajectory_has_every_call_with_its_block_and_norm(method: str, guidance: float) -> None:
    """Catches norms of the noisy state, calls without condition, a wrong block, and a hook that stays."""
    stack = known_stack(50.0, method=method, guidance_scale=guidance)
    clean = Clean(torch.full((5, 1, 4, 6), -0.5), torch.tensor([0, 1, 2, 0, 1]), torch.tensor([0, 1, 2, 0, 1]))
    path = follow_path(stack, clean, torch.arange(5))
    calls = stack.inference.sampler.calls_per_block(stack.contract.noise, stack.contract.partition)
    assert [sum(call["block"] == block for call in path) for block in range(3)] == calls
    for call in path:
        assert call["block"] == stack.contract.partition.block_for(torch.tensor(call["sigma"]))
        assert call["norm"] == pytest.approx((call["block"] + 1) / 0.5, rel=1e-5)
    if method == "euler":
        levels = stack.inference.sampler.levels(stack.contract.noise)[:-1].tolist()
        assert [call["sigma"] for call in path] == levels
    assert not stack._forward_hooks


@pytest.mark.parametrize("kind", ["dit", "vit"])
def test_a_tested_stack_is_diagnosed(kind: str, tmp_path: Path) -> None:
    """Catches results that JSON cannot hold, logged values that differ from them, and a stack that must be
    keep_in_memory.
    """
    results = []
    for keep_in_memory in ("all", "one"):
        stack, callback = toy_stack(kind, keep_in_memory=keep_in_memory), Diagnostics(num_samples=9, levels_per_block=2)
        folder = tmp_path / keep_in_memory
        logged = evaluation(folder, callback).test(StackEvaluation(stack), datamodule=Stripes(), verbose=False)[0]
        assert callback.result is not None
        results.append(callback.result)
    result = results[0]
    assert result == results[1] == json.loads(json.dumps(result))
    assert (result["num_samples"], len(result["levels"]), len(result["condition"])) == (9, 6, 3)
    assert (len(result["information"]), len(result["boundaries"])) == (3, 2)
    assert result["loss_unit"] == ("cross-entropy in nats" if kind == "vit" else "squared error per coordinate")
    assert result["calls_per_block"] == [2, 2, 2]
    assert [call["block"] for call in result["trajectory"]] == [0, 0, 1, 1, 2, 2]
    for block in range(3):
        condition = result["condition"][block]
        rise = condition["loss_shuffled"] - condition["loss"]
        assert rise != 0  # random weights read the condition
        assert logged[f"test/condition_rise_block_{block}"] == pytest.approx(rise, rel=1e-4, abs=1e-7)
        share = result["information"][block]["share"]
        assert logged[f"test/information_share_block_{block}"] == pytest.approx(share, rel=1e-5)
    assert logged["test/boundary_difference_block_0_1"] == pytest.approx(
        result["boundaries"][0]["difference"], rel=1e-5
    )
    assert {"whole_network/loss over sigma", "whole_network/trajectory"} <= logged_tags(folder, "images")


def test_diagnostics_are_a_function_of_their_seed() -> None:
    """Catches draws from the global generator, and a seed that is ignored."""
    stack, data = toy_stack("vit"), Stripes()
    results = []
    for global_seed, seed in ((0, 0), (1, 0), (0, 1)):
        torch.manual_seed(global_seed)
        before = torch.get_rng_state()
        results.append(diagnose(stack, data, num_samples=6, levels_per_block=2, seed=seed))
        assert torch.equal(before, torch.get_rng_state())
    assert results[0] == results[1]
    assert results[0]["levels"] != results[2]["levels"]


def test_diagnostics_can_be_turned_off(tmp_path: Path) -> None:
    """Catches a switch that does not switch off, and numbers of levels or images that mean nothing."""
    callback = Diagnostics(num_samples=0)
    logged = evaluation(tmp_path, callback).test(
        StackEvaluation(toy_stack("vit")), datamodule=Stripes(), verbose=False
    )[0]
    assert callback.result is None
    assert not [name for name in logged if "condition" in name]
    with pytest.raises(UserError, match=r"diagnostics\.num_samples \(-1\)"):
        Diagnostics(num_samples=-1)
    with pytest.raises(UserError, match=r"diagnostics\.levels_per_block \(0\).*num_samples=0"):
        Diagnostics(levels_per_block=0)


def test_figures_have_high_noise_on_the_left_and_every_boundary() -> None:
    """Catches a reversed axis, losses under the wrong label, and boundaries that are left out."""
    result = measured([lambda z, s, c: 0.5 * c] * 3, images_as_conditions())
    boundaries = [boundary["sigma"] for boundary in result["boundaries"]]
    path = [{"sigma": 5.0, "block": 0, "norm": 0.5}, {"sigma": 0.1, "block": 2, "norm": 1.2}]
    losses = loss_figure(result["levels"], boundaries, "squared error per coordinate").axes[0]
    norms = trajectory_figure(path, boundaries).axes[0]
    for axes in (losses, norms):
        assert axes.xaxis_inverted()
        assert axes.get_xscale() == "log"
        assert "sigma" in axes.get_xlabel()
        assert {line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == ":"} == set(boundaries)
    assert losses.get_yscale() == "log"
    lines = {line.get_label(): line for line in losses.lines}
    second = [level for level in result["levels"] if level["block"] == 1]
    assert list(lines["block 1"].get_ydata()) == [level["loss"] for level in second]
    dashed = [line for line in losses.lines if line.get_linestyle() == "--"]
    assert list(dashed[1].get_ydata()) == [level["loss_shuffled"] for level in second]
    assert dashed[1].get_color() == lines["block 1"].get_color() != dashed[0].get_color()
    assert list({line.get_label(): line for line in norms.lines}["block 2"].get_ydata()) == [1.2]


def test_padding_has_no_error() -> None:
    """Catches positions that are not scored in the errors of a block."""
    labels = torch.tensor([[3, 1, IGNORED, IGNORED], [0, 2, 1, 3]])
    probe = Probe(Clean(torch.zeros(2, 4, 5), torch.zeros(2, 4), labels), torch.zeros(2, 4), torch.arange(2))
    values = torch.ones(2, 4, 5)
    values[0, 2:] = 100
    assert probe.mean_square(values).tolist() == [1, 1]
