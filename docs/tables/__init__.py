"""The tables of docs/configuration.md and docs/api.md, from the parsers of the commands and the docstrings.

The prose of a page is written by hand; `make docs` writes the tables anew.
"""

from docs.tables.page import Page

__all__ = ["Page"]
