"""Settings of Sphinx for the documentation site, which `make site` builds: README and docs/ as they are.

The source folder is that of the project, so that the links of the pages hold without a change.
"""

from pathlib import Path
from typing import Any

project = html_title = "dbl"
extensions = ["myst_parser"]
root_doc = "README"
include_patterns = ["*.md", "docs/*.md", "docs/notebooks/*.md", "notebooks/README.md"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4  # as GitHub makes them: pages link to headings
html_theme = "furo"
html_copy_source = False

_CONTENTS = {
    "Using it": [
        "docs/choosing",
        "notebooks/README",
        "docs/configuration",
        "docs/python",
        "docs/api",
        "docs/own_data",
        "docs/extending",
        "docs/converting",
        "docs/machines",
        "docs/hub",
        "docs/scaling",
        "docs/gpu",
    ],
    "Notebooks": ["docs/notebooks/*"],
    "Figures": [
        "docs/results",
        "docs/report",
        "docs/tensorboard",
        "docs/loggers",
        "docs/sweeps",
        "docs/memory",
        "docs/speed",
        "docs/experiments",
    ],
    "How it works": ["docs/method", "docs/architecture"],
    "Trust": ["docs/faults", "docs/security", "SECURITY", "CONTRIBUTING", "CHANGELOG"],
}


def setup(app: Any) -> None:
    """Called by Sphinx first."""
    app.connect("source-read", _add_contents)
    app.connect("build-finished", _write_index)


def _add_contents(app: Any, page: str, text: list[str]) -> None:
    """The table of contents, shown beside each page, is the end of README."""
    if page == root_doc:
        text[0] += "".join(_toctree(caption, pages) for caption, pages in _CONTENTS.items())


def _toctree(caption: str, pages: list[str]) -> str:
    entries = "\n".join(pages)
    return f"\n\n```{{toctree}}\n:hidden:\n:glob:\n:caption: {caption}\n\n{entries}\n```\n"


def _write_index(app: Any, exception: Exception | None) -> None:
    if exception is None:
        page = f'<!doctype html><meta http-equiv="refresh" content="0; url={root_doc}.html"><title>{project}</title>'
        (Path(app.outdir) / "index.html").write_text(page, encoding="utf-8")
