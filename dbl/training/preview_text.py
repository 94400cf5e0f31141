"""A text and what a block predicts for it at some levels, line below line, as Markdown."""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from torch import Tensor

from dbl.data.spec import IGNORED
from dbl.data.text.tokenizer import Tokenizer
from dbl.utils.markdown import code_block

_HIDDEN = "\N{LIGHT SHADE}"
_LINE = 100  # characters
_LINES = 3
# What would end a line stands for itself.
_BREAKS = {ord("\n"): "\N{RETURN SYMBOL}", ord("\t"): " ", ord("\r"): " "}


class LevelText(NamedTuple):
    """What a block predicts for a text.

    Attributes:
        level: noise level of the text.
        predicted: tokens [T].
        hidden: whether a token was hidden from the block, bool [T]; None where noise hides no token.
    """

    level: float
    predicted: Tensor
    hidden: Tensor | None


def denoising_text(labels: Tensor, rows: Sequence[LevelText], tokenizer: Tokenizer) -> str:
    """The beginning of a text and, below each line, what the block reads and predicts; one code block.

    Args:
        labels: tokens [T] of the text, IGNORED where nothing is scored.
        rows: predictions, one for each level.
        tokenizer: tokenizer of the text.
    """
    scored = labels != IGNORED
    tokens = labels[scored]
    lines = [("text", _one_line(tokenizer.decode(tokens)))]
    for level, predicted, hidden in rows:
        right, title = predicted[scored] == tokens, f"level {level:.3g}"
        if hidden is not None:
            lines.append((title, _one_line(_with_hidden(tokens, hidden[scored], tokenizer))))
            right, title = right[hidden[scored]], "  predicted"
        lines.append(
            (f"{title}, {int(right.sum())} of {len(right)} right", _one_line(tokenizer.decode(predicted[scored])))
        )
    parts = [_beside(lines, start) for start in range(0, _LINES * _LINE, _LINE)]
    return code_block("\n\n".join(filter(None, parts)))


def _one_line(text: str) -> str:
    return text.translate(_BREAKS)


def _with_hidden(tokens: Tensor, hidden: Tensor, tokenizer: Tokenizer) -> str:
    """The text with a mark for each hidden token."""
    runs = groupby(range(len(tokens)), key=lambda place: bool(hidden[place]))
    parts = [(is_hidden, list(places)) for is_hidden, places in runs]
    return "".join(
        _HIDDEN * len(places) if is_hidden else tokenizer.decode(tokens[places]) for is_hidden, places in parts
    )


def _beside(lines: Sequence[tuple[str, str]], start: int) -> str:
    """A part of each line behind its title; nothing behind the end of all lines."""
    width = max(len(title) for title, _ in lines) + 2
    parts = [(title, line[start : start + _LINE]) for title, line in lines]
    return "\n".join(f"{title:<{width}}{part}" for title, part in parts) if any(part for _, part in parts) else ""
