"""The documentation site lists every page."""

import runpy

from .pages import ROOT


def test_every_page_is_in_the_contents() -> None:
    """Catches a page that nobody finds in the navigation, which `make site` would refuse much later."""
    contents = runpy.run_path(str(ROOT / "docs" / "site" / "conf.py"))["_CONTENTS"]
    listed = {ROOT / f"{page}.md" for pages in contents.values() for page in pages}
    pages = {*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "notebooks" / "README.md"} - {ROOT / "README.md"}
    assert sorted(str(page) for page in pages - listed) == []
