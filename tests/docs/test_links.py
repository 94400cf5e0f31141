"""Links and paths in the pages lead somewhere, and every page can be found."""

import re
from pathlib import Path
from textwrap import dedent
from urllib.parse import unquote

import pytest

from .pages import ROOT, all_pages, anchors, links, notebook_pages, paths, slug_of

PAGES = [*all_pages(), *notebook_pages(), *(ROOT / f"{name}.md" for name in ("CHANGELOG", "CONTRIBUTING", "SECURITY"))]


def _fault(page: Path, target: str) -> str | None:
    path, _, anchor = unquote(target).partition("#")
    file = (page.parent / path).resolve() if path else page
    if not file.is_relative_to(ROOT) or not file.exists():
        return f"{target}: there is no such file"
    if anchor and (file.suffix != ".md" or anchor not in anchors(file)):
        return f"{target}: {file.name} has no heading for it"
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    """Catches a page or heading that was renamed, moved or never written."""
    assert [fault for target in links(page) if (fault := _fault(page, target))] == []


def test_every_page_is_linked_from_the_start() -> None:
    """Catches a page that no reader finds."""
    starts = [page for page in (ROOT / "README.md", ROOT / "docs" / "README.md") if page.is_file()]
    linked = {
        (start.parent / unquote(target).partition("#")[0]).resolve() for start in starts for target in links(start)
    }
    pages = {page.resolve() for page in (ROOT / "docs").glob("*.md")} - {ROOT / "docs" / "README.md"}
    assert sorted(page.name for page in pages - linked) == []


@pytest.mark.parametrize("page", all_pages(), ids=lambda page: page.name)
def test_every_path_leads_somewhere(page: Path) -> None:
    """Catches a file of the package or a test that was moved after a page named it."""
    assert sorted(path for path in paths(page) if not any((ROOT / base / path).exists() for base in ("", "dbl"))) == []


@pytest.mark.parametrize("name", ["docs/architecture.md"])
def test_the_tree_is_that_of_the_package(name: str) -> None:
    """Catches a folder that is missing from the tree, and a folder or file in the tree that was renamed or removed."""
    after = (ROOT / name).read_text(encoding="utf-8").partition("dbl/\n")[2]
    tree = dedent(re.split(r"\n```|\n\n", after, maxsplit=1)[0])
    folders: list[str] = []
    for indent, entry in re.findall(r"^( *)(\w+/?) {2,}\S", tree, re.MULTILINE):
        folders += [] if indent else [entry.rstrip("/")]
        path = ROOT / "dbl" / (f"{folders[-1]}/{entry}" if indent else entry)
        assert path.is_dir() if entry.endswith("/") else path.with_suffix(".py").is_file(), path
    assert sorted(folders) == sorted(path.parent.name for path in (ROOT / "dbl").glob("*/__init__.py"))


def test_a_wrong_link_is_found(tmp_path: Path) -> None:
    """Catches a check that sees no link, or that takes every anchor; links in code are only text."""
    page = tmp_path / "page.md"
    page.write_text(
        "# A `b.c` heading, twice\n\n# A `b.c` heading, twice\n\n[here](#a-bc-heading-twice-1) ![p](missing.png)\n"
        "[web](https://example.org) `[code](x.md)`\n\n```python\n[0](y.md)\n# no heading\n```\n[there](page.md#none)\n"
    )
    assert links(page) == ["#a-bc-heading-twice-1", "missing.png", "page.md#none"]
    assert anchors(page) == {"a-bc-heading-twice", "a-bc-heading-twice-1"}


@pytest.mark.parametrize(
    ("heading", "slug"), [("Memory: what counts?", "memory-what-counts"), ("`dbl train` & co", "dbl-train--co")]
)
def test_anchors_follow_the_rule_of_github(heading: str, slug: str) -> None:
    """Catches punctuation that is turned into a hyphen: GitHub leaves it out and keeps each space."""
    assert slug_of(heading) == slug
