"""docs/method.md names functions that exist, in the files where they are."""

import re
from importlib import import_module
from operator import attrgetter

import pytest

from .pages import ROOT

_PLACE = re.compile(r"`([\w/]+)\.py`: ((?:`[\w.]+`(?:, )?)+)")
_TEXT = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
_SECTION = _TEXT.partition("## Formula by formula")[2].partition("\n## ")[0]
PLACES = [(file, name) for file, names in _PLACE.findall(_TEXT) for name in re.findall(r"`([\w.]+)`", names)]


def test_every_row_with_a_formula_names_a_function() -> None:
    """Catches a row that the pattern of this test does not read, and one without code."""
    rows = [line for line in _SECTION.splitlines() if line.startswith("|")][2:]
    assert len(rows) > 20
    assert [row for row in rows if not _PLACE.search(row)] == []


@pytest.mark.parametrize(("file", "name"), PLACES, ids=lambda part: part)
def test_a_formula_is_where_the_page_says(file: str, name: str) -> None:
    """Catches a function that was renamed or moved."""
    found = attrgetter(name)(import_module(f"dbl.{file.replace('/', '.')}"))
    assert found.__module__ == f"dbl.{file.replace('/', '.')}", "it is imported there, but lives elsewhere"
