"""Tokens and masks as targets; N = 2, T = 4, C = 5, D = 7."""

import math

import pytest
import torch
from torch import Tensor

from dbl.data.spec import IGNORED, ImageSpec, TextSpec
from dbl.denoising.targets import MaskTarget, PixelTarget, TokenTarget, mean_cross_entropy
from dbl.diffusion.information import InformationNoise
from dbl.diffusion.masking import MaskingNoise
from dbl.diffusion.noise import LogNormalNoise
from dbl.utils.errors import UserError

N, T, C, D = 2, 4, 5, 7
TOKENS = torch.tensor([[3, 0, 4, 1, 2], [1, 1, 2, IGNORED, IGNORED]])


@pytest.fixture
def text_spec() -> TextSpec:
    shares = (0.1, 0.15, 0.2, 0.25, 0.3)
    return TextSpec("toy", "toy-1", C, shares, seq_len=T, tokenizer="letters")


@pytest.fixture
def table(text_spec: TextSpec) -> Tensor:
    return TokenTarget(dim=D).make_table(text_spec, seed=0)


def test_a_token_is_the_target_of_the_one_before_it(text_spec: TextSpec, table: Tensor) -> None:
    """Catches a shift by one: then a token would be its own condition, or the one after the next would be asked for."""
    clean = TokenTarget(dim=D).space(text_spec, table).encode({"tokens": TOKENS})
    assert clean.clean.shape == (N, T, D)
    for t in range(T):
        assert clean.cond[0, t] == TOKENS[0, t]
        assert clean.labels[0, t] == TOKENS[0, t + 1]
        assert torch.equal(clean.clean[0, t], table[TOKENS[0, t + 1]])


def test_padding_is_a_token_in_the_condition_and_nothing_in_the_labels(text_spec: TextSpec, table: Tensor) -> None:
    """Catches -100 as an index, which reads the table from its end, and padding that is scored."""
    clean = TokenTarget(dim=D).space(text_spec, table).encode({"tokens": TOKENS})
    assert clean.labels[1].tolist() == [1, 2, IGNORED, IGNORED]
    assert clean.cond.min() >= 0
    assert clean.cond[1, :3].tolist() == [1, 1, 2]
    assert torch.equal(clean.clean[1, :2], table[[1, 2]])


def test_the_nearest_row_is_the_answer(text_spec: TextSpec, table: Tensor) -> None:
    """Catches an answer that mixes up places of a sequence or rows of the table."""
    noisy = table[TOKENS[:1, 1:]] * 3 + 0.1 * torch.randn(1, T, D, generator=torch.Generator().manual_seed(0))
    assert torch.equal(TokenTarget(dim=D).space(text_spec, table).decode(noisy), TOKENS[:1, 1:])


def test_noise_of_one_level_is_on_all_tokens_of_a_sequence(text_spec: TextSpec, table: Tensor) -> None:
    """Catches levels that are spread over tokens in place of sequences."""
    space = TokenTarget(dim=D).space(text_spec, table)
    clean = space.encode({"tokens": TOKENS}).clean
    noise = torch.randn(N, T, D, generator=torch.Generator().manual_seed(0))
    found = space.corrupt(clean, noise, torch.tensor([0.5, 3.0]))
    torch.testing.assert_close(found[0], clean[0] + 0.5 * noise[0])
    torch.testing.assert_close(found[1], clean[1] + 3.0 * noise[1])


def test_masked_text_scores_the_same_tokens(text_spec: TextSpec) -> None:
    """Catches masked and causal text that are scored on different tokens; the first one is a condition only there."""
    clean = MaskTarget().space(text_spec, None).encode({"tokens": TOKENS})
    causal = TokenTarget(dim=D)
    assert torch.equal(
        clean.labels, causal.space(text_spec, causal.make_table(text_spec, 0)).encode({"tokens": TOKENS}).labels
    )
    assert clean.clean.tolist() == [[0, 4, 1, 2], [1, 2, C, C]]
    assert clean.cond.shape == (N, 0)


def test_hidden_tokens_have_the_share_of_the_level(text_spec: TextSpec) -> None:
    """Catches a level taken as alpha, levels of the wrong sample, and tokens that change without being hidden."""
    space = MaskTarget().space(text_spec, None)
    tokens = torch.arange(2000) % C
    clean, levels = tokens.expand(3, -1), torch.tensor([0.1, 0.6, 1.0])
    found = space.corrupt(clean, torch.randn(3, 2000, generator=torch.Generator().manual_seed(0)), levels)
    for row, level in zip(found, levels.tolist(), strict=True):
        hidden = row == C
        assert hidden.double().mean().item() == pytest.approx(level, abs=4 * math.sqrt(level * (1 - level) / 2000))
        assert torch.equal(row[~hidden], tokens[~hidden])
    assert torch.equal(space.decode(found), found)


def test_the_loss_is_the_mean_over_scored_tokens() -> None:
    """Catches padding that lowers a mean, and one over a batch, where long sequences would dominate."""
    logits = torch.randn(N, T, C, generator=torch.Generator().manual_seed(0))
    expected = []
    for row, labels in zip(logits, TOKENS[:, 1:].tolist(), strict=True):
        nats = [-float(row[t].log_softmax(0)[label]) for t, label in enumerate(labels) if label >= 0]
        expected.append(sum(nats) / len(nats))
    assert mean_cross_entropy(logits, TOKENS[:, 1:]).tolist() == pytest.approx(expected)


def test_shapes_and_tables_of_text(text_spec: TextSpec, table: Tensor) -> None:
    """Catches a target whose shape does not fit what its space encodes, and a table for masks."""
    assert TokenTarget(dim=D).shape(text_spec) == (T, D)
    assert MaskTarget().shape(text_spec) == (T,)
    assert MaskTarget().make_table(text_spec, 0) is None
    assert table.shape == (C, D)
    assert TokenTarget(dim=D).kind == "posterior"


def test_targets_and_laws_that_do_not_fit_are_refused(text_spec: TextSpec) -> None:
    """Catches probabilities taken for standard deviations and the reverse, which would train without a word."""
    for noise in (LogNormalNoise(), InformationNoise()):
        with pytest.raises(UserError, match=f"needs contract.noise dbl.MaskingNoise, not {type(noise).__name__}"):
            MaskTarget().check(noise)
        TokenTarget().check(noise)
    for target in (TokenTarget(), PixelTarget()):
        with pytest.raises(UserError, match=f"not for {type(target).__name__}"):
            target.check(MaskingNoise())
    MaskTarget().check(MaskingNoise())


@pytest.mark.parametrize("target", [TokenTarget(), MaskTarget()])
def test_images_have_no_tokens(target: TokenTarget | MaskTarget, data_spec: ImageSpec) -> None:
    """Catches a target of text that takes class labels for tokens."""
    with pytest.raises(UserError, match=f"{type(target).__name__} is for text"):
        target.shape(data_spec)
    with pytest.raises(UserError, match="is for text"):
        target.space(data_spec, torch.zeros(5, 7))
