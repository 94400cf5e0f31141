"""The search for the largest batch that fits."""

from collections.abc import Callable

import pytest

from dbl.training.memory.planner import largest_within

SizeOf = Callable[[int], int]


@pytest.mark.parametrize("near", [1, 3, 500])
@pytest.mark.parametrize("limit", [1, 105, 999, 5_000, 123_456])
@pytest.mark.parametrize(
    "size_of",
    [
        lambda n: 5 * n + 100,
        lambda n: max(1_000, 3 * n),
        lambda n: n * n,
        lambda n: 7 * (n // 5) + 20,
        lambda n: max(3_000 + 10 * n, 20 * n, 23 * n - 900),
    ],
    ids=["linear", "flat first", "square", "steps", "linear in pieces"],
)
def test_the_largest_batch_fits_and_one_more_does_not(near: int, limit: int, size_of: SizeOf) -> None:
    """Catches a search that stops at its first guess, or that looks at hundreds of sizes, a second each."""
    seen: list[int] = []
    found = largest_within(lambda n: seen.append(n) or size_of(n), limit, near)  # type: ignore[func-returns-value]
    assert len(seen) <= 16
    assert size_of(found + 1) > limit
    assert found == 0 or size_of(found) <= limit


def test_linear_growth_takes_four_looks() -> None:
    """Catches a search that does not use the line through two sizes."""
    seen: list[int] = []
    assert largest_within(lambda n: seen.append(n) or 5 * n + 100, 123_456, 64) == 24_671  # type: ignore[func-returns-value]
    assert len(seen) == 4
