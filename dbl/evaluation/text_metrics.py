"""Variety of texts, and the distance of generated texts from real ones (MAUVE).

Variety is measured over words (`words`), not over tokens, so that different tokenizers can be compared.
Axes: n texts, D features.
"""

import math
import os
import sys
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from dbl.utils.errors import UserError, how_to_install
from dbl.utils.seeding import derive_seed

# mauve-text makes one cluster for every ten texts of a set, and at least two clusters.
LEAST_TEXTS = 20

_MOST_SEED = 2**31 - 16  # faiss takes a signed int of 32 bits, and mauve-text adds a little to the seed
_MAUVE_STARTS = 5


def words(text: str) -> list[str]:
    """The parts of a text between white space, as written: `Not,` and `not` differ."""
    return text.split()


def distinct_n(sequences: Sequence[Sequence[Hashable]], n: int = 2) -> float:
    """Different n-grams divided by all n-grams of all sequences together (Li et al. 2016, arXiv 1510.03055).

    It falls with the amount of text, so compare it at equal numbers and lengths of sequences only. Raises UserError if
    n is below 1.

    Args:
        sequences: sequences of words or tokens; no n-gram reaches from one sequence into the next.
        n: length of the n-grams, at least 1.

    Returns:
        In (0, 1]; 0 if no sequence has n items.
    """
    if n < 1:
        raise UserError(f"distinct_n: n ({n}) must be at least 1")
    counts = Counter(gram for items in sequences for gram in zip(*(items[start:] for start in range(n)), strict=False))
    return len(counts) / counts.total() if counts else 0.0


def unigram_entropy(sequences: Sequence[Sequence[Hashable]]) -> float:
    """Entropy in nats of the frequencies of single items over all sequences together; 0 if there are none.

    It is low where a few words are repeated, and rises with the amount of text: see `distinct_n`.
    """
    counts = Counter(item for items in sequences for item in items)
    total = counts.total()
    return math.fsum(-count / total * math.log(count / total) for count in counts.values())


def check_mauve() -> None:
    """Check that MAUVE can be computed on this machine. Raises UserError if mauve-text cannot be imported."""
    try:
        import mauve  # noqa: F401
    except ImportError as error:
        raise UserError(f"mauve: mauve-text cannot be imported ({error}): {how_to_install('text')}") from None


def mauve_scores(real: np.ndarray, generated: np.ndarray, seed: int) -> list[float]:
    """MAUVE for several random starts of its clusters, which alone change it by .03 to .07; see `mauve_score`."""
    return [mauve_score(real, generated, seed, start) for start in range(_MAUVE_STARTS)]


def mauve_score(real: np.ndarray, generated: np.ndarray, seed: int, start: int = 0) -> float:
    """MAUVE of two sets of texts (Pillutla et al. 2021, arXiv 2102.01454), as mauve-text computes it by default.

    It is high if both sets share the same clusters of features. It depends on the number of texts (5,000 are usual) and
    on the features, so compare it at equal ones only. Raises UserError if mauve-text is missing, texts are too few, or
    the features differ in width, are not finite or are the same for all texts.

    Args:
        real: [n, D] features of the real texts.
        generated: [m, D] features of the generated texts, from the same network; m may differ from n.
        seed: random seed of the clusters.
        start: number of their random start.

    Returns:
        In (0, 1]; 1 is best.
    """
    check_mauve()
    _check_features(real, generated)
    import mauve

    with _quiet():
        result = mauve.compute_mauve(
            p_features=real, q_features=generated, seed=derive_seed(seed, "mauve", start) % _MOST_SEED, verbose=False
        )
    return min(float(result.mauve), 1.0)  # the area under its curve may exceed 1 by rounding


def _check_features(real: np.ndarray, generated: np.ndarray) -> None:
    for name, features in (("real", real), ("generated", generated)):
        if len(features) < LEAST_TEXTS:
            raise UserError(f"mauve: {len(features)} {name} texts are too few; it needs at least {LEAST_TEXTS}")
        if not np.isfinite(features).all():
            raise UserError(f"mauve: features of the {name} texts are not finite; check the scoring model")
    if real.shape[1] != generated.shape[1]:
        raise UserError(
            f"mauve: {generated.shape[1]} features of the generated texts cannot be compared with {real.shape[1]} of "
            "the real ones; take both from the same scoring model"
        )
    if (np.concatenate([real, generated]) == real[0]).all():
        raise UserError(
            "mauve: all texts have the same features, so there is nothing to cluster; check the scoring model"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Discard standard error: faiss always warns that it wants more texts than mauve-text gives it.

    faiss writes in C++, past `sys.stderr`, so the file descriptor itself is exchanged.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
