"""The stored notebooks; `make notebooks` runs them."""

import json
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

from docs.notebook_pages import page_of

from .pages import NOTEBOOKS, ROOT

# A white pixel.
_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4//8/AAX+Av4N70a4AAAAAElFTkSuQmCC"
_PAGES = ROOT / "docs" / "notebooks"


def _code(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def test_the_notebooks_of_the_readme_are_there() -> None:
    """Catches a notebook that was renamed, one that the README does not list, and one without its page or with two."""
    names = ["01_idea", "02_your_network", "03_what_did_it_cost", "04_text", "05_your_run", "06_convert"]
    assert [path.stem for path in NOTEBOOKS] == names
    assert re.findall(r"^\| \[(\w+)\]", (ROOT / "notebooks" / "README.md").read_text(), re.MULTILINE) == names
    assert sorted(path.name for path in _PAGES.iterdir()) == sorted([*names, *(f"{name}.md" for name in names)])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs(path: Path) -> None:
    """Catches pictures of an older version, and differences in every commit."""
    cells = _code(path)
    assert cells
    assert [cell for cell in cells if cell["outputs"] or cell["execution_count"] is not None] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_page_shows_the_code_of_its_notebook(path: Path) -> None:
    """Catches a notebook that was changed after its page was written: `make pages` writes it anew."""
    page = (_PAGES / f"{path.stem}.md").read_text(encoding="utf-8")
    sources = ["".join(cell["source"]) for cell in _code(path)]
    assert [source for source in sources if source not in page] == []
    assert f"![output]({path.stem}/" in page
    # What `display` prints of a picture that is not drawn, what a slider leaves, and paths of one machine.
    assert [sign for sign in ("<Figure size", "VBox(", "<pre", "Warning") if sign in page] == []
    assert re.findall(r"(?<![\w.:/\])~`-])/(?!tmp/)[A-Za-z]\w*/[\w.]+", page) == []


def test_the_pages_are_small() -> None:
    """Catches pictures that make every clone large."""
    assert sum(path.stat().st_size for path in _PAGES.rglob("*.*")) < 1.5e6


def test_a_page_has_pictures_links_and_no_sliders() -> None:
    """Catches links that lead nowhere from there, code that is changed, and what belongs to one machine."""
    widget = {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "VBox(children=())"}
    code = "x = 1\n\n\n# [no link](02_next.ipynb)"
    outputs = [
        nbformat.v4.new_output("stream", name="stderr", text="UserWarning"),
        nbformat.v4.new_output("stream", text="folder /tmp/dbl_ab12cd_9/run\n"),
        nbformat.v4.new_output("display_data", data=widget),
        nbformat.v4.new_output("display_data", data={"text/html": "<pre>table", "text/plain": "\x1b[1;3mtable\x1b[0m"}),
        nbformat.v4.new_output(
            "display_data", data={"image/png": _PIXEL, "image/jpeg": _PIXEL, "text/plain": "<Figure>"}
        ),
    ]
    cells = [
        nbformat.v4.new_markdown_cell("# Title\n\n[next](02_next.ipynb), [why](../docs/method.md#why)"),
        nbformat.v4.new_code_cell(code, outputs=outputs),
    ]
    python = {"language_info": {"name": "python"}}
    text, pictures = page_of(nbformat.v4.new_notebook(cells=cells, metadata=python), "01_first.ipynb")
    assert text.startswith("# Title\n\n*[01_first.ipynb](../../notebooks/01_first.ipynb) after it ran")
    assert "[next](02_next.md), [why](../method.md#why)" in text
    assert f"```python\n{code}\n```" in text
    assert "    folder /tmp/dbl_folder/run\n" in text
    assert "\n    table\n" in text
    assert [sign for sign in ("UserWarning", "VBox", "<Figure", "<pre", "\x1b") if sign in text] == []
    ((path, content),) = pictures.items()
    assert f"![output]({path})" in text
    assert path.startswith("01_first/")
    assert content.startswith(b"\x89PNG")


def test_an_own_network_needs_under_sixty_lines() -> None:
    """Catches an interface that demands more and more of a user who brings a network."""
    (path,) = (path for path in NOTEBOOKS if path.stem == "02_your_network")
    lines = [line.strip() for cell in _code(path) for line in "".join(cell["source"]).splitlines()]
    assert 20 < len([line for line in lines if line and not line.startswith("#")]) < 60
