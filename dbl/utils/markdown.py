"""Text from configs and files inside Markdown."""

import re
from collections.abc import Iterable, Sequence


def plain(name: str) -> str:
    """A name without effect as Markdown; underscores inside words have none anyway."""
    return re.sub(r"([\\`*\[\]<>|&]|\b_|_\b)", r"\\\1", " ".join(name.split()))


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; the text of a cell is `plain`, and None an empty cell."""
    lines = [[plain(name) for name in header], ["---"] * len(header)]
    lines += [["" if cell is None else plain(str(cell)) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def code_block(text: str, language: str = "") -> str:
    """A text as it is, whatever it holds; the name of its language, if any, is for highlighting."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"
