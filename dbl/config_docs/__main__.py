"""`python -m dbl.config_docs PAGE`: write the tables of a page anew."""

import sys
from pathlib import Path

from dbl.config_docs.page import Page
from dbl.files import write_text

if __name__ == "__main__":
    path = Path(sys.argv[1])
    page = Page(path.read_text(encoding="utf-8"))
    write_text(path, page.generated)
    print(f"{path}: written" + "".join(f"\nno table has {key}" for key in page.missing()))
