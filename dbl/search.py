"""The largest number whose size stays within a limit, found with few looks at the size."""

import math
from collections.abc import Callable

# A line through two small sizes may be almost flat: no guess goes farther beyond what fits than by this factor.
_FARTHEST = 4096


def largest_within(size_of: Callable[[int], int], limit: int, near: int) -> int:
    """The largest n >= 1 with `size_of(n) <= limit`; 0 if there is none.

    Each guess is where the line through the last two sizes meets the limit: four calls where the growth is linear, a
    few more where it is linear in pieces. Every sixth guess halves what remains, so that the search ends soon for
    any growth.

    Args:
        size_of: grows with n, in the end beyond every limit; it may be slow.
        limit: of the size.
        near: where the search begins.
    """
    low, high = 0, math.inf  # the first fits or is 0, the second does not fit
    seen: list[tuple[int, int]] = []
    guess = max(near // 2, 1)
    while True:
        seen.append((guess, size_of(guess)))
        low, high = (max(low, guess), high) if seen[-1][1] <= limit else (low, min(high, guess))
        if high - low <= 1:
            return low
        if len(seen) % 6 == 0 and high < math.inf:
            guess = (low + int(high)) // 2
        else:
            guess = _crossing(seen[-2], seen[-1], limit) if len(seen) > 1 else 2 * guess
        guess = int(min(max(guess, low + 1), high - 1 if high < math.inf else _FARTHEST * low))


def _crossing(earlier: tuple[int, int], latest: tuple[int, int], limit: int) -> int:
    """Where the line through two (n, size) reaches the limit."""
    slope = (latest[1] - earlier[1]) / (latest[0] - earlier[0])
    return int(latest[0] + (limit - latest[1]) / max(slope, 1e-9))
