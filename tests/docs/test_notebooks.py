"""The stored notebooks; `make notebooks` runs them."""

import json
from pathlib import Path
from typing import Any

import pytest

from .pages import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def _code(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def test_the_notebooks_of_the_readme_are_there() -> None:
    """Catches a notebook that was renamed."""
    assert [path.stem for path in NOTEBOOKS] == ["01_idea", "02_your_network", "03_what_did_it_cost", "04_text"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs(path: Path) -> None:
    """Catches pictures of an older version, and differences in every commit."""
    cells = _code(path)
    assert cells
    assert [cell for cell in cells if cell["outputs"] or cell["execution_count"] is not None] == []


def test_an_own_network_needs_under_sixty_lines() -> None:
    """Catches an interface that demands more and more of a user who brings a network."""
    (path,) = (path for path in NOTEBOOKS if path.stem == "02_your_network")
    lines = [line.strip() for cell in _code(path) for line in "".join(cell["source"]).splitlines()]
    assert 20 < len([line for line in lines if line and not line.startswith("#")]) < 60
