"""The likelihood bound against entropies: a denoiser that knows the posterior must reach them, in every block."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from evaluation_toy import evaluation, logged_tags, toy_stack
from lightning.pytorch import LightningModule
from torch import Tensor
from toy import Stripes

from dbl.data.spec import IGNORED
from dbl.denoising.channels import GaussianChannel, MaskingChannel
from dbl.denoising.likelihood import Bound, BoundEstimator, Predict, strata
from dbl.denoising.targets import Prediction
from dbl.diffusion.information import InformationNoise, information_density
from dbl.diffusion.masking import MaskingNoise
from dbl.diffusion.noise import LogNormalNoise, LogUniformNoise, NoiseDistribution
from dbl.diffusion.partition import PartitionConfig
from dbl.evaluation.callbacks.likelihood import Likelihood
from dbl.evaluation.figures import likelihood_figure
from dbl.evaluation.stack_evaluation import StackEvaluation
from dbl.utils.errors import UserError

UNEQUAL = torch.tensor([0.4, 0.25, 0.15, 0.1, 0.06, 0.04], dtype=torch.float64)
LAWS: dict[str, NoiseDistribution] = {
    "information": InformationNoise(sigma_min=0.05, sigma_max=20.0, num_draws=512),
    "log-normal": LogNormalNoise(sigma_min=0.02, sigma_max=40.0, p_mean=-0.5, p_std=1.2),
    "log-uniform": LogUniformNoise(sigma_min=0.05, sigma_max=20.0),
}


def random_table(num_rows: int, dim: int) -> Tensor:
    """Rows of unit length, orthonormal where there is room."""
    rows = torch.randn(dim, num_rows, generator=torch.Generator().manual_seed(3))
    rows = torch.linalg.qr(rows).Q if num_rows <= dim else rows
    return (rows / rows.norm(dim=0)).T.contiguous()


def uniform(num_rows: int) -> Tensor:
    return torch.full((num_rows,), 1 / num_rows, dtype=torch.float64)


def entropy(frequencies: Tensor) -> float:
    return -sum(p * math.log(p) for p in frequencies.tolist())


def posterior(table: Tensor, frequencies: Tensor, sharpness: float = 1.0) -> Predict:
    """The best denoiser of rows that have these frequencies; with a sharpness other than 1 a worse one."""

    def predict(block: int, noisy: Tensor, sigma: Tensor) -> Prediction:
        precision = sharpness / sigma.square().reshape(-1, *(1,) * (noisy.ndim - 1))
        logits = precision * (noisy @ table.T - 0.5 * table.square().sum(1)) + frequencies.float().log()
        return Prediction(logits.softmax(-1) @ table, logits)

    return predict


def draw_labels(frequencies: Tensor, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.multinomial(frequencies, math.prod(shape), replacement=True, generator=generator).reshape(shape)


def estimator(
    table: Tensor,
    frequencies: Tensor,
    distribution: NoiseDistribution,
    num_blocks: int,
    strata_in_all: int,
    seed: int = 0,
) -> BoundEstimator:
    noise = distribution.fit(table, frequencies)
    partition = PartitionConfig(num_blocks=num_blocks).build(noise, num_layers=num_blocks)
    return BoundEstimator(GaussianChannel(table, frequencies), noise, partition, strata_in_all // num_blocks, seed)


def bound(
    table: Tensor,
    frequencies: Tensor,
    distribution: NoiseDistribution,
    num_blocks: int = 3,
    num_samples: int = 2500,
    num_strata: int = 12,
    predict: Predict | None = None,
    seed: int = 0,
) -> Bound:
    """The bound with the exact posterior (or another denoiser) on labels that have the frequencies."""
    found = estimator(table, frequencies, distribution, num_blocks, num_strata, seed)
    labels = draw_labels(frequencies, (num_samples,), seed)
    predict = predict or posterior(table, frequencies)
    found.add(table[labels], labels, torch.arange(num_samples), predict)
    return found.result()


@pytest.mark.parametrize(
    ("distribution", "table", "frequencies"),
    [
        *((distribution, random_table(6, 9), UNEQUAL) for distribution in LAWS),
        ("information", random_table(10, 16), uniform(10)),
        ("information", random_table(40, 12), uniform(40)),
    ],
    ids=[*LAWS, "10 orthonormal rows", "40 crowded rows"],
)
def test_the_exact_posterior_reaches_the_entropy(distribution: str, table: Tensor, frequencies: Tensor) -> None:
    """Catches a wrong power of sigma, a factor 2, a stratum weighted by the distribution in place of its width."""
    found, truth = bound(table, frequencies, LAWS[distribution], num_samples=4000, num_strata=24), entropy(frequencies)
    assert found.standard_error < 0.02 * truth
    assert found.nats == pytest.approx(truth, abs=3 * found.standard_error)


@pytest.mark.parametrize("num_blocks", [1, 2, 6])
def test_each_block_has_the_information_of_its_interval(num_blocks: int) -> None:
    """Catches a bound that depends on the cut, widened training intervals, and nats given to the wrong block."""
    table, frequencies, distribution = random_table(6, 9), UNEQUAL, LAWS["log-normal"]
    found, truth = bound(table, frequencies, distribution, num_blocks), entropy(frequencies)
    assert found.nats == pytest.approx(truth, abs=3 * found.standard_error)
    partition = PartitionConfig(num_blocks=num_blocks).build(distribution, num_layers=num_blocks)
    for block, estimate in enumerate(found.blocks):
        low, high = partition.interval(block)
        logs = torch.linspace(math.log(high), math.log(low), 60, dtype=torch.float64)
        density = information_density(table, frequencies.float(), logs.exp(), num_draws=8000)
        exact = -torch.trapezoid(density, logs).item()
        assert estimate.nats == pytest.approx(exact, abs=3 * estimate.standard_error + 0.005)


@pytest.mark.parametrize("sigma_min", [0.4, 1.0])
def test_what_the_range_leaves_out_is_in_the_reconstruction(sigma_min: float) -> None:
    """Catches a cross-entropy at another level than sigma_min: the blocks have too little, the total must not."""
    table, frequencies = random_table(10, 16), uniform(10)
    found = bound(table, frequencies, LogUniformNoise(sigma_min, 20.0))
    assert found.reconstruction > 0.2
    assert found.nats == pytest.approx(math.log(10), abs=3 * found.standard_error)


def test_the_prior_is_the_divergence_at_sigma_max() -> None:
    """Catches a prior around 0 or around the plain mean row: here |y - m|^2 / 2 sigma_max^2 is computed by hand."""
    table, frequencies = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0.75, 0.25], dtype=torch.float64)
    found = estimator(table, frequencies, LogUniformNoise(0.1, 1.5), num_blocks=1, strata_in_all=2)
    labels = torch.tensor([0, 0, 0, 1])
    found.add(table[labels], labels, torch.arange(4), posterior(table, frequencies))
    # The mean row is (3/4, 1/4): three rows at squared distance 1/8, one at 9/8.
    assert found.result().prior == pytest.approx((3 / 8 + 9 / 8) / 4 / (2 * 1.5**2), rel=1e-6)


@pytest.mark.parametrize("sharpness", [0.3, 3.0])
def test_a_worse_denoiser_has_a_larger_bound(sharpness: float) -> None:
    """Catches a figure that is no bound, such as the entropy of the answers, which falls when they are too sure."""
    table, frequencies, distribution = random_table(10, 16), uniform(10), LAWS["information"]
    worse = bound(table, frequencies, distribution, predict=posterior(table, frequencies, sharpness))
    assert worse.nats > math.log(10) + 5 * worse.standard_error


def test_a_condition_that_tells_the_class_leaves_no_nats() -> None:
    """Catches a bound of p(y) in place of p(y | x), and a constant that is added to every answer."""
    table, frequencies = random_table(10, 16), uniform(10)
    labels = draw_labels(frequencies, (200,))
    sure = Prediction(table[labels], 60.0 * torch.eye(10)[labels])
    found = estimator(table, frequencies, LAWS["log-uniform"], num_blocks=3, strata_in_all=12)
    found.add(table[labels], labels, torch.arange(200), lambda block, noisy, sigma: sure)
    assert found.result().nats == pytest.approx(0.9 / (2 * 20.0**2), rel=1e-3)


def test_the_standard_error_is_that_of_repetitions() -> None:
    """Catches an error without the square root of N, and one that takes the strata of a sample for independent."""
    table, frequencies = random_table(6, 9), UNEQUAL
    runs = [bound(table, frequencies, LAWS["log-normal"], num_samples=100, seed=seed) for seed in range(50)]
    totals = torch.tensor([run.nats for run in runs])
    first_block = torch.tensor([run.blocks[0].nats for run in runs])
    claimed = torch.tensor([[run.standard_error, run.blocks[0].standard_error] for run in runs]).square().mean(0).sqrt()
    # The spread of 50 repetitions is known to a tenth of itself.
    assert totals.std().item() == pytest.approx(claimed[0].item(), rel=0.3)
    assert first_block.std().item() == pytest.approx(claimed[1].item(), rel=0.3)
    assert totals.mean().item() == pytest.approx(entropy(frequencies), abs=3 * claimed[0].item() / math.sqrt(50))


def test_the_error_of_sequences_counts_sequences() -> None:
    """Catches tokens that are taken for independent: with copies of one token a sequence tells no more than one."""
    table, frequencies, num_tokens = random_table(6, 9), UNEQUAL, 25
    labels = draw_labels(frequencies, (80, 1)).expand(80, num_tokens)
    halved = Prediction(table[labels] * 0.5, torch.zeros(80, num_tokens, 6))
    found = estimator(table, frequencies, LAWS["log-uniform"], num_blocks=1, strata_in_all=1)
    single = estimator(table, frequencies, LAWS["log-uniform"], num_blocks=1, strata_in_all=1)
    found.add(table[labels], labels, torch.arange(80), lambda *_: halved)
    one = Prediction(table[labels[:, 0]] * 0.5, torch.zeros(80, 6))
    single.add(table[labels[:, 0]], labels[:, 0], torch.arange(80), lambda *_: one)
    assert found.result().standard_error == pytest.approx(single.result().standard_error, rel=1e-5)
    assert found.result().num_samples == 80


def test_sequences_have_the_nats_of_their_tokens() -> None:
    """Catches an error summed over tokens, levels that are spread over tokens, or logits with mixed-up axes."""
    table, frequencies = random_table(6, 9), UNEQUAL
    labels, truth = draw_labels(frequencies, (400, 5)), entropy(frequencies)
    predict = posterior(table, frequencies)
    sequences = estimator(table, frequencies, LAWS["information"], num_blocks=3, strata_in_all=12)
    sequences.add(table[labels], labels, torch.arange(400), predict)
    tokens = estimator(table, frequencies, LAWS["information"], num_blocks=3, strata_in_all=12)
    tokens.add(table[labels.flatten()], labels.flatten(), torch.arange(2000), predict)
    long, short = sequences.result(), tokens.result()
    assert long.nats == pytest.approx(truth, abs=3 * long.standard_error)
    assert long.nats == pytest.approx(short.nats, abs=3 * math.hypot(long.standard_error, short.standard_error))
    one_token = estimator(table, frequencies, LAWS["information"], num_blocks=3, strata_in_all=12)
    flat = labels.reshape(2000, 1)
    one_token.add(table[flat], flat, torch.arange(2000), predict)
    assert one_token.result().nats == pytest.approx(short.nats, rel=1e-5)
    assert one_token.result().standard_error == pytest.approx(short.standard_error, rel=1e-4)


def test_the_size_of_batches_changes_nothing() -> None:
    """Catches levels and noise drawn for a batch as a whole, or from the global generator."""
    table, frequencies = random_table(6, 9), UNEQUAL
    labels, indices = draw_labels(frequencies, (60,)), torch.arange(60)
    results = []
    for size, global_seed in ((60, 0), (7, 1)):
        torch.manual_seed(global_seed)
        before = torch.get_rng_state()
        found = estimator(table, frequencies, LAWS["log-uniform"], num_blocks=3, strata_in_all=12)
        for part in indices.split(size):
            found.add(table[labels[part]], labels[part], part, posterior(table, frequencies))
        assert torch.equal(before, torch.get_rng_state())
        results.append(found.result())
    assert results[0].nats == pytest.approx(results[1].nats, rel=1e-6)
    assert results[0].standard_error == pytest.approx(results[1].standard_error, rel=1e-5)
    other_seed = bound(table, frequencies, LAWS["log-uniform"], num_samples=60, seed=1)
    assert other_seed.nats != pytest.approx(results[0].nats, rel=1e-3)


def test_levels_lie_in_the_strata_and_strata_fill_the_interval() -> None:
    """Catches gaps at the ends of an interval, levels of another stratum or block, and draws that all strata share."""
    table, frequencies, distribution = random_table(6, 9), UNEQUAL, LAWS["log-normal"]
    partition = PartitionConfig(num_blocks=2).build(distribution, num_layers=2)
    asked: list[tuple[int, Tensor]] = []

    def predict(block: int, noisy: Tensor, sigma: Tensor) -> Prediction:
        asked.append((block, sigma))
        return posterior(table, frequencies)(block, noisy, sigma)

    labels = draw_labels(frequencies, (300,))
    found = BoundEstimator(GaussianChannel(table, frequencies), distribution, partition, levels_per_block=3)
    found.add(table[labels], labels, torch.arange(300), predict)
    curve = found.result().curve
    assert [block for block, _ in asked] == [0, 0, 0, 1, 1, 1, 1]
    places: list[Tensor] = []  # of the levels within their strata
    for (block, sigma), step in zip(asked, curve, strict=False):
        places.append((sigma / step.sigma_low).log() / math.log(step.sigma_high / step.sigma_low))
        assert block == step.block
        assert step.sigma_low * (1 - 1e-6) <= sigma.min() < sigma.max() <= step.sigma_high * (1 + 1e-6)
        assert (places[-1] < 0.5).float().mean().item() == pytest.approx(0.5, abs=0.1)  # whatever the distribution
    assert torch.corrcoef(torch.stack(places)).triu(1).abs().max() < 0.25  # 4 standard errors for 300 samples
    assert (asked[-1][1] == distribution.sigma_min).all()
    assert [step.sigma_high for step in curve[1:]] == [step.sigma_low for step in curve[:-1]]
    assert (curve[0].sigma_high, curve[3].sigma_high, curve[-1].sigma_low) == partition.boundaries
    shares = distribution.cdf(strata(distribution, partition.interval(1), 4)).diff()
    torch.testing.assert_close(shares, torch.full((4,), -1 / 8, dtype=torch.float64))


def test_the_parts_add_up() -> None:
    """Catches a part that is left out of the total, or a curve in other units than the blocks."""
    found = bound(random_table(6, 9), UNEQUAL, LogUniformNoise(0.4, 2.0), num_samples=100)
    parts = found.prior + found.reconstruction + sum(block.nats for block in found.blocks)
    assert found.nats == pytest.approx(parts, rel=1e-9)
    for block, estimate in enumerate(found.blocks):
        steps = [step for step in found.curve if step.block == block]
        area = sum(step.nats_per_log_sigma * math.log(step.sigma_high / step.sigma_low) for step in steps)
        assert area == pytest.approx(estimate.nats, rel=1e-9)


def test_sums_of_two_processes_are_those_of_one() -> None:
    """Catches means of means: processes with unequal shares must give the figures of one process."""
    table, frequencies = random_table(6, 9), UNEQUAL
    labels, predict = draw_labels(frequencies, (50,)), posterior(table, frequencies)
    whole, first, second = (
        estimator(table, frequencies, LAWS["log-uniform"], num_blocks=2, strata_in_all=4) for _ in range(3)
    )
    for found, part in ((whole, torch.arange(50)), (first, torch.arange(10)), (second, torch.arange(10, 50))):
        found.add(table[labels[part]], labels[part], part, predict)
    others = iter([getattr(second.sums, name) for name in ("counts", "sums", "squares", "products", "strata")])
    first.sums.reduce(lambda part: part + next(others))
    one, two = whole.result(), first.result()
    assert (two.num_samples, two.nats) == (50, pytest.approx(one.nats, rel=1e-6))
    assert two.standard_error == pytest.approx(one.standard_error, rel=1e-5)
    assert two.curve[-1].nats_per_log_sigma == pytest.approx(one.curve[-1].nats_per_log_sigma, rel=1e-5, abs=1e-6)


def test_positions_that_are_not_scored_cost_nothing() -> None:
    """Catches padding that is counted, in the nats or in the number of tokens they are divided by."""
    table, frequencies = random_table(6, 9), UNEQUAL
    labels, predict = draw_labels(frequencies, (400, 5)), posterior(table, frequencies)
    labels[:, 3:] = IGNORED
    labels[::2, 1:] = IGNORED
    found = estimator(table, frequencies, LAWS["information"], num_blocks=3, strata_in_all=12)
    found.add(table[labels.clamp(min=0)], labels, torch.arange(400), predict)
    result = found.result()
    assert result.num_scored == 200 * 3 + 200 * 1
    assert result.nats == pytest.approx(entropy(frequencies), abs=3 * result.standard_error)


def pairs_posterior(joint: torch.Tensor, mask: int) -> Predict:
    """The best guesses for two tokens with joint probabilities [C, C], of which each may be hidden."""

    def predict(block: int, noisy: torch.Tensor, level: torch.Tensor) -> Prediction:
        shown = [torch.where(noisy[:, i] == mask, 0, noisy[:, i]) for i in range(2)]
        hidden = noisy == mask
        first = torch.where(hidden[:, 1, None], joint.sum(1), joint.T[shown[1]])
        second = torch.where(hidden[:, 0, None], joint.sum(0), joint[shown[0]])
        return Prediction(noisy, torch.stack([first, second], dim=1).log())

    return predict


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("num_blocks", [1, 3])
def test_the_masked_bound_of_the_exact_posterior_is_the_entropy(schedule: str, num_blocks: int) -> None:
    """Catches a wrong weight of the masked bound: two tokens that depend on each other, with their exact posterior."""
    joint = torch.tensor([[0.3, 0.05, 0.05], [0.02, 0.2, 0.08], [0.1, 0.05, 0.15]])
    distribution = MaskingNoise(sigma_min=0.001, schedule=schedule)
    partition = PartitionConfig(num_blocks, "uniform_sigma").build(distribution, num_blocks)
    drawn = torch.multinomial(joint.flatten(), 6000, replacement=True, generator=torch.Generator().manual_seed(0))
    labels = torch.stack([drawn // 3, drawn % 3], dim=1)
    found = BoundEstimator(MaskingChannel(mask=3), distribution, partition, 12 // num_blocks, seed=1)
    found.add(labels, labels, torch.arange(6000), pairs_posterior(joint, mask=3))
    result, truth = found.result(), -(joint * joint.log()).sum().item() / 2
    assert result.nats == pytest.approx(truth, abs=3 * result.standard_error)
    assert result.standard_error < 0.02
    assert len(result.blocks) == num_blocks
    assert result.prior == 0


def test_what_cannot_be_bounded_is_refused() -> None:
    """Catches a division by zero samples, and images, which have no logits."""
    found = estimator(random_table(6, 9), UNEQUAL, LAWS["log-uniform"], num_blocks=1, strata_in_all=1)
    with pytest.raises(ValueError, match="no samples"):
        found.result()
    with pytest.raises(ValueError, match="discrete"):
        found.add(torch.ones(1, 9), torch.zeros(1).long(), torch.arange(1), lambda _, noisy, __: Prediction(noisy))
    few = BoundEstimator(
        MaskingChannel(mask=3),
        distribution := MaskingNoise(sigma_max=0.9),
        PartitionConfig(1).build(distribution, 1),
        1,
    )
    with pytest.raises(ValueError, match=r"sigma_max 1, not 0\.9"):
        few.add(
            torch.zeros(1, 2).long(), torch.zeros(1, 2).long(), torch.arange(1), pairs_posterior(torch.eye(3), mask=3)
        )
    with pytest.raises(UserError, match=r"likelihood\.levels_per_block \(-1\)"):
        Likelihood(levels_per_block=-1)


@pytest.mark.parametrize("keep_in_memory", ["all", "one"])
def test_a_tested_stack_reports_its_bound(keep_in_memory: str, tmp_path: Path) -> None:
    """Catches a callback that skips batches, asks the wrong block or condition, or logs other values than it keeps."""
    stack, callback = toy_stack("vit", keep_in_memory=keep_in_memory), Likelihood(levels_per_block=3, seed=5)
    logged = evaluation(tmp_path, callback).test(
        StackEvaluation(stack), datamodule=Stripes(eval_batch_size=4), verbose=False
    )[0]
    contract, images = stack.contract, Stripes().split("test")
    batch = {"image": images.images[torch.arange(15)], "label": images.labels}
    clean = stack.space.encode(batch)
    channel = GaussianChannel(contract.table, torch.tensor(contract.data.class_frequencies))
    expected = BoundEstimator(channel, contract.noise, contract.partition, 3, seed=5)
    expected.add(
        clean.clean, clean.labels, torch.arange(15), lambda b, z, sigma: stack.denoiser(b).predict(z, sigma, clean.cond)
    )
    result, truth = callback.result, expected.result().to_plain()
    assert result is not None
    assert json.loads(json.dumps(result)) == result
    extra = {
        "exact": False,
        "own_blocks": None,
        "num_bytes": None,
        "perplexity": None,
        "bits_per_token": None,
        "bits_per_byte": None,
    }
    assert result.keys() == truth.keys() | extra.keys()
    assert {key: result[key] for key in extra} == extra
    assert (result["num_samples"], result["levels_per_block"], len(result["curve"])) == (15, 3, 9)
    for key in ("nats", "standard_error", "prior", "reconstruction"):
        assert result[key] == pytest.approx(truth[key], rel=1e-4)
    assert logged["test/nats"] == pytest.approx(result["nats"], rel=1e-5)
    assert logged["test/nats_standard_error"] == pytest.approx(result["standard_error"], rel=1e-5)
    assert logged["test/nats_prior"] == pytest.approx(result["prior"], rel=1e-5)
    assert logged["test/nats_reconstruction"] == pytest.approx(result["reconstruction"], rel=1e-5)
    for block in range(3):
        assert logged[f"test/nats_block_{block}"] == pytest.approx(truth["blocks"][block]["nats"], rel=1e-4)
    assert "whole_network/likelihood" in logged_tags(tmp_path, "images")


def test_validation_has_a_bound_too(tmp_path: Path) -> None:
    """Catches sums that go on from the run before, and values logged under the wrong stage."""
    stack, callback = toy_stack("vit"), Likelihood(levels_per_block=2)
    trainer = evaluation(tmp_path, callback)
    trainer.test(StackEvaluation(stack), datamodule=Stripes(), verbose=False)
    logged = trainer.validate(StackEvaluation(stack), datamodule=Stripes(), verbose=False)[0]
    assert callback.result is not None
    assert callback.result["num_samples"] == len(Stripes().split("validation"))
    assert logged["val/nats"] == pytest.approx(callback.result["nats"], rel=1e-5)


class Baseline(LightningModule):
    """Another model than a stack."""

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.log("test/count", float(len(batch["label"])))


@pytest.mark.parametrize("model", ["baseline", "images", "off"])
def test_it_leaves_other_models_alone(model: str, tmp_path: Path) -> None:
    """Catches a callback that fails on, or measures, what has no table; and a switch that does not switch off."""
    callback = Likelihood(levels_per_block=0 if model == "off" else 2)
    stack = StackEvaluation(toy_stack("dit" if model == "images" else "vit"))
    module = Baseline() if model == "baseline" else stack
    logged = evaluation(tmp_path, callback).test(module, datamodule=Stripes(), verbose=False)[0]
    assert callback.result is None
    assert not [name for name in logged if "nats" in name]


def test_the_figure_shows_each_block_in_its_interval() -> None:
    """Catches low noise on the left, and boundaries of strata drawn as if they were those of blocks."""
    found = bound(random_table(6, 9), UNEQUAL, LAWS["log-uniform"], num_blocks=3, num_samples=20)
    axes = likelihood_figure(found.to_plain()["curve"]).axes[0]
    assert axes.xaxis_inverted()
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["block 0", "block 1", "block 2"]
    drawn = [line.get_xdata()[0] for line in axes.lines]
    assert drawn == [step.sigma_high for step in found.curve if step.block and step == _first(found, step.block)]
    other = replace(found, curve=[step for step in found.curve if step.block == 1])
    assert not list(likelihood_figure(other.to_plain()["curve"]).axes[0].lines)


def _first(found: Bound, block: int) -> object:
    return next(step for step in found.curve if step.block == block)
