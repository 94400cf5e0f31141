"""docs/faults.md quotes messages as the code writes them."""

import ast
import re
from collections.abc import Iterator

import pytest

from .pages import ROOT

_ROWS = re.findall(r"^\| ([^|]*`[^|]*) \|", (ROOT / "docs" / "faults.md").read_text(encoding="utf-8"), re.MULTILINE)
MESSAGES = [span for row in _ROWS for span in re.findall(r"`([^`]+)`", row) if " " in span and not span.startswith("-")]
# Words that stand for a value in a quoted message: the system's reason, a class of warning, an example.
_VALUES = {"No", "space", "left", "device", "DblWarning", "karras", "nan", "inf", "loss", "gradient", "block"}


def _phrases(text: str) -> list[str]:
    """Runs of plain words; a number, path, key or placeholder ends one, and so does punctuation behind a word."""
    phrases: list[list[str]] = [[]]
    for token in text.split():
        word = token.strip("`'\"(),:;")
        if re.fullmatch(r"[A-Za-z]+", word) and word not in _VALUES and token[0] not in "'\"":
            phrases[-1].append(word)
        if word != token or not phrases[-1] or phrases[-1][-1] != word:
            phrases.append([])
    return [" ".join(words) for words in phrases if words]


def _strings(tree: ast.AST) -> Iterator[str]:
    """The strings of a file except its docstrings; what is formatted into a string becomes an ellipsis."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            yield from _strings(node)


CODE = [
    " ".join(phrase) + " "
    for path in (ROOT / "dbl").rglob("*.py")
    for text in _strings(ast.parse(path.read_text(encoding="utf-8")))
    if (phrase := [f" {one} " for one in _phrases(text)])
]


def test_messages_are_found() -> None:
    """Catches a pattern that reads nothing from the page."""
    assert len(MESSAGES) > 40


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_is_written_by_the_code(message: str) -> None:
    """Catches a message that was reworded in the code only."""
    phrases = _phrases(message)
    assert phrases or "…" in message
    assert [phrase for phrase in phrases if not any(f" {phrase} " in text for text in CODE)] == []
