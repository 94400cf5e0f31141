"""The structure that a reader relies on: imports point down the floors, and the public names exist."""

import ast
from pathlib import Path

import pytest

import dbl

PACKAGE = Path(dbl.__file__).parent

# 0 is under all floors. A file may import its own floor and those below.
FLOORS = {
    0: ["checkpoints", "data_spec", "errors", "files", "locks", "part_files", "seeding", "serial", "__init__"],
    1: ["noise", "information", "partition", "diffusion", "masking", "search"],
    2: ["networks"],
    3: [
        *("targets", "denoiser", "committee", "sampling", "decoding", "contract", "run_folder", "figures"),
        *("channels", "likelihood", "image_metrics", "text_metrics"),
    ],
    4: [
        *("training", "block", "baselines", "callbacks", "loggers", "assembly", "stack", "data"),
        *("bare_step", "distributed", "features", "diagnostics", "memory", "plan", "quality_by_steps"),
        *("generation", "teachers", "hub", "inference", "model_folder"),
    ],
    5: ["report", "commands", "cli", "config_docs", "launch", "__main__"],
}
FLOOR = {name: floor for floor, names in FLOORS.items() for name in names}


def _imports(path: Path) -> set[str]:
    """Modules of dbl that a file imports anywhere, without the package's name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("dbl."):
            found.add(node.module.split(".")[1])
    return found


@pytest.mark.parametrize(
    "path",
    sorted(set(PACKAGE.rglob("*.py")) - {PACKAGE / "__init__.py"}),
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_imports_point_down(path: Path) -> None:
    """Catches mathematics that knows Lightning, or a network that knows its block."""
    name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    upward = {module for module in _imports(path) if FLOOR[module] > FLOOR[name]}
    assert upward == set()


def test_every_public_name_exists_and_is_explained() -> None:
    """Catches a public name that cannot be imported, or that says nothing about itself."""
    for name in dbl.__all__:
        assert getattr(dbl, name).__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    """Catches a lazy import that hides a misspelling."""
    with pytest.raises(AttributeError, match="Blok"):
        _ = dbl.Blok
