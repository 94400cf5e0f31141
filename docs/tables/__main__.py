"""`python -m docs.tables PAGE ...`: write the tables of pages anew."""

import sys
from pathlib import Path

from dbl.utils.files import write_text
from docs.tables.page import Page

if __name__ == "__main__":
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in map(Path, sys.argv[1:])}
    for path, page in pages.items():
        write_text(path, page.generated)
        print(f"{path}: written")
    first, *others = (page.missing() for page in pages.values())
    for key in first:
        if all(key in missing for missing in others):
            print(f"no table has {key}")
