"""The structure that a reader relies on: imports point down the floors, and the public names exist."""

import ast
from pathlib import Path

import pytest

import dbl

PACKAGE = Path(dbl.__file__).parent

# From the ground up: a folder imports itself and those before it, nothing else.
FLOORS = [
    "utils",
    "diffusion",
    "data",
    "networks",
    "denoising",
    "run",
    "inference",
    "training",
    "evaluation",
    "commands",
]


def test_every_folder_is_a_floor() -> None:
    """Catches a folder, or a file beside them, that nobody placed on a floor."""
    found = {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert found == {*FLOORS, "__init__.py", "__init__.pyi", "__main__.py", "py.typed"}


def _imports(path: Path) -> set[str]:
    """Floors that a file imports from anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} if "." in node.module else {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in found if name.startswith("dbl.")}


@pytest.mark.parametrize("floor", FLOORS)
def test_imports_point_down(floor: str) -> None:
    """Catches mathematics that knows Lightning, a network that knows its block, and training that parses options."""
    allowed = set(FLOORS[: FLOORS.index(floor) + 1])
    upward = {
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in (PACKAGE / floor).rglob("*.py")
        for name in _imports(path) - allowed
    }
    assert upward == set()


def test_every_public_name_exists_and_is_explained() -> None:
    """Catches a public name that cannot be imported, or that says nothing about itself."""
    for name in dbl.__all__:
        assert getattr(dbl, name).__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    """Catches a lazy import that hides a misspelling."""
    with pytest.raises(AttributeError, match="Blok"):
        _ = dbl.Blok
