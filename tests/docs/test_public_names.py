"""What `import dbl` offers: every name has an example that works and a row in docs/api.md, and nothing else has."""

import ast
import doctest
import inspect
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import dbl
import dbl.evaluation.figures
from docs.tables.page import public_names

from .pages import NOTEBOOKS, ROOT, code_of

API = ROOT / "docs" / "api.md"
# Modules that a notebook may import from; `dbl.networks.layers` and others are for extensions.
PUBLIC: list[ModuleType] = [dbl, dbl.evaluation.figures]


@pytest.mark.parametrize("name", dbl.__all__)
def test_the_example_of_a_public_name_works(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a name without an example, and an example that uses what is not there or shows another answer."""
    monkeypatch.chdir(tmp_path)  # an example may write files
    docstring = inspect.getdoc(getattr(dbl, name)) or ""
    example = doctest.DocTestParser().get_doctest(docstring, {}, f"dbl.{name}", None, None)
    assert example.examples, f"dbl.{name} has no example"
    outcome = doctest.DocTestRunner().run(example)
    assert outcome.failed == 0, capsys.readouterr().out


@pytest.mark.parametrize("module", PUBLIC, ids=lambda module: module.__name__)
def test_the_public_names_are_those_documented(module: ModuleType) -> None:
    """Catches a name that was added or removed in the code alone, and one that is promised but not offered."""
    mark = re.escape(f"<!-- table: names {module.__name__} -->")
    (table,) = re.findall(rf"^{mark}$.*?^<!-- end -->$", API.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == public_names(module)


def test_names_are_imported_from_where_they_live() -> None:
    """Catches a name whose module was renamed: it is looked up when it is first used only."""
    assert {name: getattr(dbl, name).__name__ for name in dbl.__all__} == {name: name for name in dbl.__all__}


def test_names_are_offered_before_they_are_used() -> None:
    """Catches a notebook in which Tab shows nothing."""
    show = "import dbl, sys; assert 'torch' not in sys.modules; print(*dir(dbl))"
    shown = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True).stdout.split()
    assert set(dbl.__all__) <= set(shown)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_shows_public_names_only(path: Path) -> None:
    """Catches a notebook that reaches into a module whose names may change."""
    nodes = list(ast.walk(ast.parse(code_of(path))))
    offered = {module.__name__: public_names(module) for module in PUBLIC}
    imports = [node for node in nodes if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dbl")]
    taken = {(node.module, alias.name) for node in imports for alias in node.names}
    assert {(module, name) for module, name in taken if name not in offered.get(str(module), [])} == set()
    attributes = [node for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)]
    assert {node.attr for node in attributes if node.value.id == "dbl"} <= set(dbl.__all__)  # type: ignore[attr-defined]
