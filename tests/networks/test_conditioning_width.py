"""The width of the vector from which layers compute their modulation, in every network that modulates.

N = 3 samples, 5 classes, C = 11 tokens, T = 6 of a sequence, D = 16 token width, W = 4 conditioning width.
"""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dbl.data.spec import DataSpec, ImageSpec, TextSpec
from dbl.denoising.targets import MaskTarget, PixelTarget, Target, TokenTarget
from dbl.diffusion.masking import MaskingNoise
from dbl.diffusion.noise import LogNormalNoise, NoiseDistribution
from dbl.diffusion.partition import PartitionConfig
from dbl.networks import CausalLM, DiT, MaskedLM, RecurrentLM, ViT
from dbl.run.contract import ContractConfig
from dbl.training.config import TrainingConfig
from dbl.training.memory.planner import Planner
from dbl.utils.errors import UserError

N, T, C, D, W = 3, 6, 11, 16, 4
TEXT = TextSpec("toy", "toy-1", C, (1 / C,) * C, seq_len=T, tokenizer="letters")
IMAGES = ImageSpec("toy", "toy-1", 5, (0.2,) * 5, shape=(3, 4, 4), mean=(0.0,) * 3, std=(1.0,) * 3)
C_NOISE = torch.linspace(-1.0, 0.8, N)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


TOKENS = torch.randint(0, C, (N, T), generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 3, 5])


@dataclass(frozen=True)
class _Case:
    """A network with `layers` of its layers, and its inputs besides the noise level."""

    sizes: Any
    data: DataSpec
    target_shape: tuple[int, ...]
    noisy: Tensor
    cond: Tensor
    layers: int = 2
    # Embedding of labels, [classes + 1, W].
    num_embedded: int = 0

    def build(self, conditioning_width: int | None) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            sizes = replace(self.sizes, conditioning_width=conditioning_width)
            return sizes.build(self.data, self.target_shape, self.layers).eval()


TEXT_SIZES: dict[str, Any] = {"width": D, "num_heads": 2, "mlp_width": 20}
CASES = {
    "DiT": _Case(DiT(2, D, 2), IMAGES, IMAGES.shape, random(N, *IMAGES.shape), LABELS, num_embedded=6),
    "ViT": _Case(ViT(2, D, 2, patch_size=2), IMAGES, (9,), random(N, 9), random(N, *IMAGES.shape)),
    "CausalLM": _Case(CausalLM(2, **TEXT_SIZES), TEXT, (T, 5), random(N, T, 5), TOKENS),
    "MaskedLM": _Case(MaskedLM(2, **TEXT_SIZES), TEXT, (T,), TOKENS, TOKENS),
    "RecurrentLM": _Case(
        RecurrentLM(3, **TEXT_SIZES, prelude=1, coda=1), TEXT, (T, 5), random(N, T, 5), TOKENS, layers=3
    ),
}
every_network = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def randomise(module: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, 0.3, generator=generator)


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@every_network
def test_a_narrow_vector_saves_what_arithmetic_says(case: _Case) -> None:
    """Catches a network that ignores the width, and a part of the conditioning that keeps the token width."""
    wide, narrow = case.build(None), case.build(W)
    modulated = sum(layer.modulation is not None for layer in wide.layers)
    assert modulated == 2
    vectors = 6 * modulated + 2  # two for the head
    of_modulations = vectors * D * (D - W)
    # Linear layers from 128 sines and cosines, and from the vector to itself, with biases.
    of_embedding = 128 * (D - W) + (D**2 - W**2) + 2 * (D - W)
    of_labels = case.num_embedded * (D - W)
    assert num_parameters(wide) - num_parameters(narrow) == of_modulations + of_embedding + of_labels


@every_network
def test_null_is_the_token_width(case: _Case) -> None:
    """Catches another default, with which the weights of earlier runs would not be drawn again."""
    ours, theirs = case.build(None).state_dict(), case.build(D).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@every_network
@pytest.mark.parametrize("width", [1, W, D + 3])
def test_the_level_reaches_every_output_of_its_own_sample_alone(case: _Case, width: int) -> None:
    """Catches a vector that is cut, padded or laid on another axis than the samples', wider ones too."""
    network = case.build(width)
    randomise(network)
    before = network(case.noisy, C_NOISE, case.cond)
    assert before.shape == (N, *case.target_shape, *((C,) if isinstance(case.sizes, MaskedLM) else ()))
    assert before.isfinite().all()
    after = network(case.noisy, C_NOISE + torch.tensor([0.0, 0.3, 0.0]), case.cond)
    moved = (after - before).abs().flatten(1)
    assert moved[1].min() > 0
    assert moved[[0, 2]].max() == 0


@every_network
def test_layers_start_as_the_identity(case: _Case) -> None:
    """Catches a projection from a narrow vector that does not start at 0: gates must be closed at every level."""
    network = case.build(W)
    for layer in network.layers:
        if layer.modulation is not None:
            assert all(vector.count_nonzero() == 0 for vector in layer.modulation(random(N, W)))


def test_a_label_enters_by_the_narrow_vector() -> None:
    """Catches labels that are embedded in another width than the level, or lost on the way."""
    case = CASES["DiT"]
    network = case.build(W)
    randomise(network)
    assert network.label_embedding.weight.shape == (6, W)
    moved = network(case.noisy, C_NOISE, torch.tensor([0, 2, 5])) - network(case.noisy, C_NOISE, LABELS)
    assert [(of_sample != 0).any().item() for of_sample in moved] == [False, True, False]


def test_a_noisy_vector_still_sees_no_token_that_comes_later() -> None:
    """Catches a leak by the narrow vector, which all tokens of a sequence share: it must not depend on any of them."""
    case = CASES["CausalLM"]
    network = case.build(W)
    randomise(network)
    before = network(case.noisy, C_NOISE, TOKENS)
    for j in range(T):
        other, noisy = TOKENS.clone(), case.noisy.clone()
        other[:, j] = (TOKENS[:, j] + 1) % C
        noisy[:, j] += 1
        by_token = (network(case.noisy, C_NOISE, other) != before).any(2).any(0)
        by_vector = (network(noisy, C_NOISE, TOKENS) != before).any(2).any(0)
        assert by_token.tolist() == [position >= j for position in range(T)]
        assert by_vector.tolist() == [position == j for position in range(T)]


PLANS: list[tuple[Any, Target, NoiseDistribution, DataSpec]] = [
    (DiT(4, 64, 2), PixelTarget(), LogNormalNoise(), IMAGES),
    (MaskedLM(4, width=64, num_heads=2, mlp_width=172), MaskTarget(), MaskingNoise(0.01), TEXT),
]


@pytest.mark.parametrize(("sizes", "target", "noise", "data"), PLANS, ids=["DiT", "MaskedLM"])
def test_planned_memory_falls(sizes: Any, target: Target, noise: NoiseDistribution, data: DataSpec) -> None:
    """Catches a plan that does not know the option: weights, optimizer state and average all shrink as counted."""
    config = ContractConfig(sizes, target, noise, PartitionConfig(num_blocks=2))
    peaks, counts = [], []
    for width in (None, 8):
        narrower = replace(config, network=replace(sizes, conditioning_width=width))
        planner = Planner(narrower, data, TrainingConfig())
        make_part = planner.block(narrower.partition, planner.recipe)
        peaks.append(planner.peak(make_part, 2))
        counts.append(num_parameters(make_part().backbone))
    saved = 4 * (counts[0] - counts[1])
    assert counts[1] < 0.8 * counts[0]
    assert peaks[0]["parameters"] - peaks[1]["parameters"] == saved
    assert peaks[0]["average"] - peaks[1]["average"] == pytest.approx(saved, abs=64)
    assert peaks[0]["optimizer"] - peaks[1]["optimizer"] == pytest.approx(2 * saved, abs=64)
    assert sum(peaks[1].values()) < 0.85 * sum(peaks[0].values())


def test_the_whole_language_model_has_no_modulation() -> None:
    """Catches a baseline that is refused, since its one stream has no use for the width of the blocks' levels."""
    config = ContractConfig(CausalLM(2, **TEXT_SIZES, conditioning_width=4), TokenTarget(dim=8), LogNormalNoise())
    planner = Planner(config, TEXT, TrainingConfig())
    assert sum(planner.peak(planner.end_to_end(planner.recipe), 2).values()) > 0


def test_a_width_without_modulation_is_refused() -> None:
    """Catches an option that has no effect: a clean stream alone is not modulated."""
    with pytest.raises(UserError, match=r"conditioning_width \(4\) has no use with streams=clean") as caught:
        CausalLM(2, **TEXT_SIZES, streams="clean", conditioning_width=4)
    assert len(str(caught.value)) <= 200
