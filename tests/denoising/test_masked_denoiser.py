"""The denoiser of hidden tokens against plain loops; N = 3, T = 5, C = 4, the mask is token 4."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy_text import text_contract

from dbl.data.spec import IGNORED
from dbl.denoising.denoiser import GaussianDenoiser, MaskedDenoiser
from dbl.denoising.readout import Prediction, hidden_labels
from dbl.denoising.targets import Clean, MaskTarget, TokenTarget
from dbl.diffusion.masking import MaskingNoise

N, T, C, MASK = 3, 5, 4, 4
LEVELS = torch.tensor([0.25, 0.5, 0.8])
LABELS = torch.tensor([[0, 1, 2, 3, 1], [2, 2, 0, 1, IGNORED], [3, 0, IGNORED, IGNORED, IGNORED]])
HIDDEN = torch.tensor([[0, 1, 0, 1, 1], [1, 0, 0, 0, 1], [0, 1, 1, 1, 1]]).bool()


class Table(nn.Module):
    """Logits that depend on the place, the token and the level; notes what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = torch.randn(T, C + 1, C, generator=torch.Generator().manual_seed(0))
        self.given: list[Any] = []

    def forward(self, noisy: Tensor, c_noise: Tensor, cond: Any) -> Tensor:
        self.given.append((noisy, c_noise, cond))
        return self.logits[torch.arange(T), noisy] + c_noise.reshape(-1, 1, 1) * torch.arange(C)


def clean() -> Clean:
    tokens = LABELS.masked_fill(LABELS == IGNORED, MASK)
    return Clean(tokens, tokens[:, :0], LABELS)


def noisy() -> Tensor:
    return clean().clean.masked_fill(HIDDEN, MASK)


def denoiser(schedule: str = "linear") -> MaskedDenoiser:
    return MaskedDenoiser(Table(), MaskingNoise(schedule=schedule).weight, MASK)  # type: ignore[arg-type]


def plain_nats(logits: Tensor) -> list[list[float]]:
    """Cross-entropy of the tokens that are hidden and scored, 0 elsewhere."""
    rows = []
    for n in range(N):
        row = []
        for t in range(T):
            label, values = int(LABELS[n, t]), [math.exp(value) for value in logits[n, t].tolist()]
            counts = bool(HIDDEN[n, t]) and label != IGNORED
            row.append(-math.log(values[label] / sum(values)) if counts else 0.0)
        rows.append(row)
    return rows


def test_the_loss_is_the_weighted_cross_entropy_of_hidden_tokens() -> None:
    """Catches shown or padded tokens that are scored, a mean over the hidden ones, and a weight of another sample."""
    model = denoiser()
    logits = model.predict(noisy(), LEVELS, None).logits
    assert logits is not None
    scored = [5, 4, 2]
    expected = [sum(row) / num / level for row, num, level in zip(plain_nats(logits), scored, LEVELS, strict=True)]
    assert model.loss(clean(), noisy(), LEVELS).tolist() == pytest.approx([float(value) for value in expected])


def test_the_cosine_schedule_weighs_by_its_own_slope() -> None:
    """Catches the weight of the linear schedule under every schedule: here it is by finite differences of alpha(t)."""
    model = denoiser("cosine")
    ratio = model.loss(clean(), noisy(), LEVELS) / denoiser().loss(clean(), noisy(), LEVELS)
    for level, found in zip(LEVELS.tolist(), ratio.tolist(), strict=True):
        time = 1 - 2 / math.pi * math.acos(level)
        alpha = [1 - math.cos(math.pi / 2 * (1 - time - step)) for step in (-1e-5, 1e-5)]
        assert found * 1 / level == pytest.approx(-(alpha[1] - alpha[0]) / 2e-5 / level, rel=1e-3)


def test_nats_are_kept_for_each_token() -> None:
    """Catches nats of one token at the place of another."""
    logits = denoiser().predict(noisy(), LEVELS, None).logits
    assert logits is not None
    found = Prediction(noisy(), logits).nats(hidden_labels(LABELS, noisy(), MASK))
    torch.testing.assert_close(found, torch.tensor(plain_nats(logits)))


def test_a_sequence_with_nothing_to_score_has_no_loss() -> None:
    """Catches a division by zero, which would be NaN for the whole batch."""
    labels = torch.full((N, T), IGNORED)
    found = denoiser().loss(Clean(torch.full((N, T), MASK), labels[:, :0], labels), torch.full((N, T), MASK), LEVELS)
    assert found.tolist() == [0, 0, 0]


def test_denoised_are_tokens_and_shown_ones_stay() -> None:
    """Catches shown tokens replaced by the network's opinion, and hidden ones that stay hidden."""
    prediction = denoiser().predict(noisy(), LEVELS, None)
    assert prediction.logits is not None
    assert torch.equal(prediction.denoised[~HIDDEN], noisy()[~HIDDEN])
    assert torch.equal(prediction.denoised[HIDDEN], prediction.logits.argmax(-1)[HIDDEN])
    assert prediction.denoised.max() < C


def test_the_network_is_given_the_level_itself() -> None:
    """Catches a level scaled like that of Gaussian noise, whose logarithm network and block would disagree on."""
    model = denoiser()
    model.predict(noisy(), LEVELS.double(), None)
    tokens, level, _ = model.network.given[0]
    assert torch.equal(tokens, noisy())
    assert level.dtype == torch.float32
    torch.testing.assert_close(level, LEVELS)


def test_an_adjustment_changes_the_logits() -> None:
    """Catches decoding that masked text ignores."""
    plain, twice = (denoiser().predict(noisy(), LEVELS, None, adjust).logits for adjust in (None, lambda x: 2 * x))
    assert plain is not None
    torch.testing.assert_close(twice, 2 * plain)


def test_the_target_decides_on_the_denoiser() -> None:
    """Catches a masked target under Gaussian preconditioning, and a mask that is a token of the vocabulary."""
    table = text_contract("clean").table
    masked = MaskTarget().make_denoiser(nn.Identity(), None, MaskingNoise(), num_classes=C)
    assert isinstance(masked, MaskedDenoiser)
    assert masked.mask == C
    gaussian = TokenTarget(dim=8).make_denoiser(nn.Identity(), table, text_contract("clean").noise, num_classes=5)
    assert isinstance(gaussian, GaussianDenoiser)
