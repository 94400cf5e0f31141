"""Bars that show how far a long evaluation is, in commands alone: code that is called from Python stays silent."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from tqdm import tqdm

Batch = TypeVar("Batch")

_SHOWN: ContextVar[bool] = ContextVar("shown", default=False)


@contextmanager
def progress_shown(shown: bool = True) -> Iterator[None]:
    """Whether `tracked` shows bars in what is called within the context."""
    token = _SHOWN.set(shown)
    try:
        yield
    finally:
        _SHOWN.reset(token)


def tracked(batches: Sequence[Batch], description: str, unit: str) -> Iterator[Batch]:
    """Yield the batches, with a bar of their items.

    Args:
        batches: batches with a length each, such as tensors [n, ...].
        description: name of the work on them.
        unit: name of one item, such as `image`.
    """
    lengths = [len(batch) for batch in batches]  # type: ignore[arg-type]
    with tqdm(total=sum(lengths), desc=description, unit=unit, disable=not _SHOWN.get(), **bar_options()) as bar:
        for batch, length in zip(batches, lengths, strict=True):
            yield batch
            bar.update(length)


def bar_options() -> dict[str, Any]:
    """Options of tqdm that all bars share. In a log file every update is a new line, so there are few of them."""
    in_terminal = sys.stderr.isatty()
    return {"mininterval": 0.2 if in_terminal else 10, "delay": 0 if in_terminal else 10, "dynamic_ncols": True}
