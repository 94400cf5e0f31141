"""Temperature, top-k and top-p: on known logits, and through a chain of blocks that know what comes next."""

import math

import pytest
import torch
from torch import Tensor
from toy_text import NUM_TOKENS, known_denoiser

from dbl.denoising.decoding import Decoding, draw_tokens, gumbel_bound
from dbl.denoising.sampling import Sampler
from dbl.diffusion.noise import LogNormalNoise
from dbl.diffusion.partition import PartitionConfig
from dbl.inference.generation import BlockDecoder, BlockSampling, CausalGenerator
from dbl.utils.errors import UserError
from dbl.utils.seeding import SampleDraws

# [C] sorted in no way; the most probable two have 0.72 together.
PROBABILITIES = torch.tensor([0.12, 0.42, 0.06, 0.30, 0.10], dtype=torch.float64)
NUM_DRAWS = 4000


def decoded(decoding: Decoding, probabilities: Tensor = PROBABILITIES) -> list[float]:
    found: list[float] = decoding(probabilities.log()).softmax(-1).tolist()
    return found


def entropy(probabilities: Tensor) -> float:
    return float(torch.special.entr(probabilities).sum())


def test_temperature_is_a_power_of_the_probabilities() -> None:
    """Catches logits multiplied by the temperature, and one that changes the order of tokens."""
    powers = [p**2 for p in PROBABILITIES.tolist()]
    assert decoded(Decoding(temperature=0.5)) == pytest.approx([p / sum(powers) for p in powers])
    assert decoded(Decoding()) == pytest.approx(PROBABILITIES.tolist())


@pytest.mark.parametrize(("top_k", "kept"), [(1, [1]), (2, [1, 3]), (4, [0, 1, 3, 4]), (9, [0, 1, 2, 3, 4])])
def test_top_k_keeps_the_most_probable(top_k: int, kept: list[int]) -> None:
    """Catches tokens kept by their number, the least probable ones kept, and a k above the vocabulary."""
    expected = [p if i in kept else 0.0 for i, p in enumerate(PROBABILITIES.tolist())]
    assert decoded(Decoding(top_k=top_k)) == pytest.approx([p / sum(expected) for p in expected])


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.01, [1]), (0.41, [1]), (0.43, [1, 3]), (0.73, [0, 1, 3]), (1.0, [0, 1, 2, 3, 4])]
)
def test_top_p_keeps_what_reaches_the_probability(top_p: float, kept: list[int]) -> None:
    """Catches a nucleus without the token that crosses the bound, an empty one, and one in the order of the sort."""
    expected = [p if i in kept else 0.0 for i, p in enumerate(PROBABILITIES.tolist())]
    assert decoded(Decoding(top_p=top_p)) == pytest.approx([p / sum(expected) for p in expected])


def test_the_nucleus_is_that_of_the_tempered_law() -> None:
    """Catches top-p before the temperature: at temperature 1/2 the first token alone has more than half."""
    assert decoded(Decoding(temperature=0.5, top_p=0.5)) == pytest.approx([0, 1, 0, 0, 0])
    assert decoded(Decoding(top_p=0.5))[3] > 0


@pytest.mark.parametrize("decoding", [Decoding(0.7), Decoding(top_k=2), Decoding(top_p=0.6)], ids=["t", "k", "p"])
def test_each_place_is_decoded_for_itself(decoding: Decoding) -> None:
    """Catches sorts and largest values taken over another axis than the vocabulary."""
    rows = torch.stack([PROBABILITIES.roll(i) for i in range(6)])
    changed = decoding(rows.log().reshape(2, 3, NUM_TOKENS)).softmax(-1).flatten(0, 1)
    for row, found in zip(rows, changed, strict=True):
        assert found.tolist() == pytest.approx(decoded(decoding, row))


@pytest.mark.parametrize(
    ("change", "named"),
    [({"temperature": 0.0}, "temperature"), ({"temperature": math.inf}, "temperature"), ({"top_k": 0}, "top_k")]
    + [({"top_p": top_p}, "top_p") for top_p in (0.0, 1.01)],
)
def test_impossible_values_are_refused(change: dict[str, float], named: str) -> None:
    """Catches a division by zero and an empty set of tokens that would only show as NaN."""
    with pytest.raises(UserError, match=named):
        Decoding(**change)  # type: ignore[arg-type]


def test_draws_follow_the_probabilities() -> None:
    """Catches noise that is no Gumbel noise, and a token drawn whose probability is 0."""
    logits = Decoding(top_k=4)(PROBABILITIES.log()).expand(20, 500, NUM_TOKENS)
    tokens = draw_tokens(logits, SampleDraws(0, ("test",), torch.arange(20)))
    assert tokens.shape == (20, 500)
    assert_drawn_from(tokens.flatten(), torch.tensor(decoded(Decoding(top_k=4))))


def test_draws_belong_to_the_sample() -> None:
    """Catches draws that depend on the other samples of a batch, or that all samples share."""
    logits = PROBABILITIES.log().expand(4, 30, NUM_TOKENS)
    together = draw_tokens(logits, SampleDraws(3, ("test",), torch.tensor([5, 2, 9, 4])))
    alone = draw_tokens(logits[:1], SampleDraws(3, ("test",), torch.tensor([9])))
    assert torch.equal(together[2:3], alone)
    assert len({tuple(row) for row in together.tolist()}) == 4


def assert_drawn_from(tokens: Tensor, probabilities: Tensor, bias: float = 0.0) -> None:
    """Frequencies within 4 standard errors, and `bias`."""
    shares = torch.bincount(tokens, minlength=NUM_TOKENS) / len(tokens)
    for share, p in zip(shares.tolist(), probabilities.tolist(), strict=True):
        assert share == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / len(tokens)) + bias)


def chain_draws(decoding: Decoding, sigma_min: float = 0.05) -> Tensor:
    """First tokens after character 2, from three blocks that know the distribution of what follows it."""
    distribution = torch.full((NUM_TOKENS, NUM_TOKENS), 1 / NUM_TOKENS, dtype=torch.float64)
    distribution[2] = PROBABILITIES
    denoiser, noise = known_denoiser(distribution), LogNormalNoise(sigma_min, 60.0, p_mean=-0.7, p_std=1.2)
    partition, sampler = PartitionConfig(3).build(noise, num_layers=3), Sampler("heun", num_steps=24)
    chain = BlockDecoder(BlockSampling(lambda block: denoiser, noise, partition, sampler, decoding))
    prompts = torch.tensor([[4, 2]]).expand(NUM_DRAWS, -1)
    return CausalGenerator(chain, seq_len=6, seed=0).generate(prompts, 1, torch.arange(NUM_DRAWS))[:, 0]


@pytest.mark.parametrize(
    "decoding",
    [Decoding(), Decoding(0.6), Decoding(1.8), Decoding(top_k=2), Decoding(top_p=0.75), Decoding(0.7, 3, 0.8)],
    ids=["plain", "colder", "hotter", "top-k", "top-p", "all"],
)
def test_a_chain_draws_from_the_decoded_distribution(decoding: Decoding) -> None:
    """Catches decoding of the last, nearly certain logits, and evidence that is counted twice or not at all."""
    drawn, distribution = chain_draws(decoding), torch.tensor(decoded(decoding))
    assert_drawn_from(drawn, distribution, bias=0.004)  # the start is noise around 0, not around the mean row


@pytest.mark.parametrize(
    "decoding", [Decoding(), Decoding(0.5), Decoding(top_p=0.75)], ids=["plain", "colder", "top-p"]
)
def test_what_is_open_at_the_last_level_is_drawn(decoding: Decoding) -> None:
    """Catches the best token in place of a draw, and decoding that acts a second time on the last call."""
    assert_drawn_from(chain_draws(decoding, sigma_min=0.7), torch.tensor(decoded(decoding)), bias=0.004)


def test_the_entropy_of_what_a_chain_draws_falls_with_the_temperature() -> None:
    """Catches a temperature that is read nowhere, or that acts where the token is settled already."""
    found = []
    for temperature in (2.0, 1.0, 0.5, 0.2):
        drawn = chain_draws(Decoding(temperature))
        found.append(entropy(torch.bincount(drawn, minlength=NUM_TOKENS) / NUM_DRAWS))
        assert found[-1] == pytest.approx(entropy(torch.tensor(decoded(Decoding(temperature)))), abs=0.04)
    assert sorted(found, reverse=True) == found


@pytest.mark.parametrize("scale", [0.0, 0.01, 3.0, 1e4])
def test_tokens_are_those_of_gumbel_noise_in_float64(scale: float) -> None:
    """Catches tokens that float32 rules out too early, also among equal logits, excluded ones, and large ones."""
    logits = scale * torch.randn(3, 40, 2000, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    logits[:, ::2, 100:] = -math.inf
    draws = [SampleDraws(5, ("test",), torch.arange(3)) for _ in range(2)]
    wide = logits.double()
    uniform = torch.special.ndtr(draws[0].normal(wide)).clamp(1e-12, 1 - 1e-12)
    expected = (wide - (-uniform.log()).log()).argmax(dim=-1)
    assert torch.equal(draw_tokens(logits, draws[1]), expected)


def test_the_bound_of_gumbel_noise_holds() -> None:
    """Catches a token that wins although its bound rules it out."""
    normal = torch.linspace(-9, 9, 100_001, dtype=torch.float64)
    gumbel = -(-torch.special.ndtr(normal).clamp(1e-12, 1 - 1e-12).log()).log()
    above = gumbel_bound(normal) - gumbel
    assert above.min() > 0.01
    assert above[(normal > 0) & (normal < 5)].max() < 1
