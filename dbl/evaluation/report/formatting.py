"""Filters of the templates: numbers as text, and text that cannot leave its place in Markdown."""

import re
from collections.abc import Callable, Mapping, Sequence
from math import log
from statistics import fmean
from typing import Any

from dbl.evaluation.figures import readable_bytes
from dbl.utils.markdown import plain

# Characters of a generated text that are shown.
_MOST_SHOWN = 1200


def number(value: float | None) -> str:
    """Four significant digits; nothing for None."""
    return "" if value is None else f"{value:.4g}"


def with_spread(found: Mapping[str, Any] | None) -> str:
    """The mean, and the range if there are several values."""
    if found is None:
        return ""
    if len(found["values"]) == 1:
        return number(found["mean"])
    return f"{number(found['mean'])} ({number(found['min'])} to {number(found['max'])})"


def signed_spread(values: Sequence[float]) -> str:
    """The mean of differences, and the range if there are several."""
    mean, *ends = (f"{value:+.3g}" for value in (fmean(values), min(values), max(values)))
    return mean if len(values) == 1 else f"{mean} ({ends[0]} to {ends[1]})"


def rise(control: Mapping[str, Any]) -> str:
    """The rise of a loss under a shuffled condition, relative to the loss; the shuffled loss itself if that is 0."""
    if not control["loss"]:
        return number(control["loss_shuffled"])
    change = (control["loss_shuffled"] - control["loss"]) / control["loss"]
    return f"{change:+.1%} ± {control['standard_error'] / control['loss']:.1%}"


def fenced(text: str) -> str:
    """A text as a code block that nothing in the text can end; a long text is cut."""
    shown = text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]} … (cut)"
    # Longer than any run of backticks in the text.
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", shown)), default=0))
    return "\n".join([f"{fence}text", *shown.splitlines(), fence])


FILTERS: dict[str, Callable[..., Any]] = {
    "number": number,
    "spread": with_spread,
    "signed": signed_spread,
    "rise": rise,
    "plain": plain,
    "fenced": fenced,
    "code": lambda text: f"`{' '.join(text.split()).replace('`', chr(39))}`",
    "bytes": lambda size, absent="": absent if size is None else readable_bytes(size),
    "thousands": lambda value: f"{value:,}",
    "fixed": lambda value, digits: f"{value:.{digits}f}",
    "whole": lambda value, absent: absent if value is None else f"{value:.0f}",
    "milliseconds": lambda seconds: "" if seconds is None else f"{1000 * seconds:.3g}",
    "general": lambda value: f"{value:g}",
    "ln": log,
    "bits": lambda nats: nats / log(2),
}
