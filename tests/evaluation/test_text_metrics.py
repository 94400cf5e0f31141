"""Variety of texts against values by hand, and MAUVE against what its authors say of it."""

import math
import sys

import numpy as np
import pytest

from dbl.evaluation import text_metrics
from dbl.evaluation.text_metrics import LEAST_TEXTS, distinct_n, mauve_score, mauve_scores, unigram_entropy, words
from dbl.utils.errors import UserError


def features(num: int, shift: float = 0.0, dim: int = 7, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(num, dim)) + shift).astype(np.float32)


@pytest.mark.parametrize(
    ("sequences", "n", "expected"),
    [
        ([[1, 2, 1, 2]], 2, 2 / 3),  # 12 21 12
        ([[1, 2], [1, 2], [2, 1]], 2, 2 / 3),  # 12 12 21, none across
        ([[1, 2, 3], [4]], 2, 1.0),
        ([[5, 5, 5, 5]], 1, 1 / 4),
        ([[1, 2, 3, 1, 2, 3]], 3, 3 / 4),
        ([[1], [], [2]], 2, 0.0),
        ([["a", "b"], ["a", "b"]], 2, 1 / 2),
    ],
)
def test_distinct_n_is_the_share_of_different_n_grams(sequences: list[list[int]], n: int, expected: float) -> None:
    """Catches n-grams across sequences, a mean of shares in place of a share of all, and a wrong length."""
    assert distinct_n(sequences, n) == pytest.approx(expected)


def test_n_grams_of_no_length_are_refused() -> None:
    """Catches a share of nothing that looks like a number."""
    with pytest.raises(UserError, match="at least 1"):
        distinct_n([[1, 2]], 0)


def test_entropy_is_that_of_the_frequencies_of_all() -> None:
    """Catches bits in place of nats, and a mean of entropies in place of the entropy of all."""
    assert unigram_entropy([[1, 1], [2, 3]]) == pytest.approx(1.5 * math.log(2))
    assert unigram_entropy([["a"], ["b"], ["c"], ["d"], ["e"]]) == pytest.approx(math.log(5))
    assert unigram_entropy([[4, 4, 4]]) == 0
    assert unigram_entropy([[], []]) == 0


def test_words_are_what_stands_between_white_space() -> None:
    """Catches empty words of double spaces and punctuation that is cut off."""
    assert words(" To be,\n or\tnot  to be ") == ["To", "be,", "or", "not", "to", "be"]


def test_mauve_is_high_for_like_texts_and_low_for_unlike_ones() -> None:
    """Catches two sides exchanged with something else, and a seed that is not used or does not fix the number."""
    pytest.importorskip("mauve")
    real = features(40)
    like = mauve_score(real, features(30, seed=1), seed=0)
    unlike = mauve_score(real, features(30, shift=4.0, seed=1), seed=0)
    assert unlike < 0.1 < 0.7 < like <= 1
    assert mauve_score(real, features(30, seed=1), seed=0) == like
    assert len({mauve_score(real, features(30, shift=0.4, seed=1), seed=seed) for seed in range(6)}) > 1


def test_mauve_is_repeated_with_other_clusters() -> None:
    """Catches one start of the clusters in place of five, or five times the same."""
    pytest.importorskip("mauve")
    real, generated = features(40), features(30, shift=0.4, seed=1)
    scores = mauve_scores(real, generated, seed=3)
    assert len(scores) == 5
    assert len(set(scores)) > 1
    assert scores == [mauve_score(real, generated, 3, start) for start in range(5)]


def test_mauve_is_that_of_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches settings that make the number another one than the literature's, or real and generated exchanged."""
    mauve = pytest.importorskip("mauve")
    given = {}
    compute = mauve.compute_mauve
    monkeypatch.setattr(mauve, "compute_mauve", lambda **options: given.update(options) or compute(**options))
    real, generated = features(50), features(30, shift=0.5, seed=1)
    score = mauve_score(real, generated, seed=3)
    assert given["p_features"] is real
    assert given["q_features"] is generated
    assert set(given) == {"p_features", "q_features", "seed", "verbose"}
    assert score == compute(p_features=real, q_features=generated, seed=given["seed"]).mauve


def test_any_seed_will_do() -> None:
    """Catches seeds that are too large for faiss or for scikit-learn."""
    pytest.importorskip("mauve")
    for seed in (2**31 - 1, 2**40, -1):
        assert 0 < mauve_score(features(20), features(20, seed=1), seed) <= 1


def test_mauve_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    """Catches the warnings of faiss, which come past Python, and standard error that stays closed after them."""
    pytest.importorskip("mauve")
    mauve_score(features(20), features(20, seed=1), seed=0)
    with text_metrics._quiet():
        pass
    print("after", file=sys.stderr)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == "after\n"


def test_features_that_cannot_be_compared_are_refused() -> None:
    """Catches numbers of too few texts, of two networks or of a network that diverged."""
    pytest.importorskip("mauve")
    good, few = features(LEAST_TEXTS), features(LEAST_TEXTS - 1)
    for pair, name in (((few, good), "real"), ((good, few), "generated")):
        with pytest.raises(UserError, match=f"19 {name} texts are too few"):
            mauve_score(*pair, seed=0)
    with pytest.raises(UserError, match="8 features of the generated texts"):
        mauve_score(good, features(LEAST_TEXTS, dim=8), seed=0)
    broken = good.copy()
    broken[3, 5] = np.inf
    with pytest.raises(UserError, match="generated texts are not finite"):
        mauve_score(good, broken, seed=0)
    with pytest.raises(UserError, match="nothing to cluster"):
        mauve_score(np.ones_like(good), np.ones_like(good), seed=0)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches an ImportError in place of one clear line."""
    monkeypatch.setitem(sys.modules, "mauve", None)
    with pytest.raises(UserError, match=r'pip install -e "\.\[text\]"'):
        mauve_score(features(20), features(20), seed=0)
