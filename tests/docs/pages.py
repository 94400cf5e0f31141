"""Reads the Markdown pages, their fenced blocks with marks, headings, links and paths, and the notebooks."""

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NEEDS = {"gpu", "network", "cluster", "DBL_DATA"}
_FENCE = re.compile(r"^( *)```(\w*)$\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"<!-- needs: (.+?) -->\s*$")


@dataclass(frozen=True)
class Fence:
    """A fenced block of a page.

    Attributes:
        place: page and line, for test names.
        language: word after the opening backticks.
        text: content of the block.
        needs: requirements of the block, from the mark on the line before; None if it runs anywhere.
    """

    place: str
    language: str
    text: str
    needs: str | None

    def commands(self) -> list[str]:
        """The command lines of a shell block, without comments; a backslash at the end joins two lines."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [shlex.join(words) for line in lines if (words := shlex.split(line, comments=True))]


def all_pages() -> list[Path]:
    """The README and the pages in docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def notebook_pages() -> list[Path]:
    """The list of notebooks, and their copies with pictures."""
    return [ROOT / "notebooks" / "README.md", *sorted((ROOT / "docs" / "notebooks").glob("*.md"))]


def code_of(notebook: Path) -> str:
    """The code of a notebook, without the lines that are commands to Jupyter."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    lines = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code").splitlines()
    return "\n".join(line for line in lines if not line.startswith("%"))


def fences(page: Path, language: str) -> Iterator[Fence]:
    """The blocks of a page in a language, in order."""
    text = page.read_text(encoding="utf-8")
    for match in _FENCE.finditer(text):
        mark = _MARK.search(text[: match.start()].rpartition("\n\n")[2])
        line = text.count("\n", 0, match.start()) + 1
        if match[2] == language:
            yield Fence(f"{page.name}:{line}", language, dedent(match[3]), mark[1] if mark else None)


def without_code(text: str) -> str:
    """A page without fenced blocks and code spans, where a link is only text."""
    return re.sub(r"`[^`\n]+`", "``", _FENCE.sub("", text))


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page, and those written as HTML."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    seen: dict[str, int] = {}
    found = set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", text))
    for heading in re.findall(r"^#+ +(.+?) *#*$", text, re.MULTILINE):
        slug = slug_of(heading)
        found.add(f"{slug}-{seen[slug]}" if slug in seen else slug)
        seen[slug] = seen.get(slug, 0) + 1
    return found


def slug_of(heading: str) -> str:
    """GitHub's anchor of a heading: lower case, without punctuation, hyphens for spaces."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")


def links(page: Path) -> list[str]:
    """The targets of links and pictures of a page, without those on the web."""
    found = re.findall(
        r"\[[^\]]*\]\(\s*<?([^)>\s]+)>?(?:\s+\"[^\"]*\")?\)", without_code(page.read_text(encoding="utf-8"))
    )
    return [target for target in found if not re.match(r"[a-z]+:", target)]


def paths(page: Path) -> set[str]:
    """Paths of Python files and tests that a page names in code spans; those in `dbl/` may be written from there on."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    spans = re.findall(r"`([\w./-]+)`", text)
    return {
        span for span in spans if ("/" in span and re.search(r"\.pyi?$", span)) or re.match(r"(dbl|tests)/\w", span)
    }
