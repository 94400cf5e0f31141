"""The tables of docs/configuration.md, made from the parsers of the commands and the docstrings of the classes.

The prose of the page is written by hand; `python -m dbl.config_docs` (`make docs`) writes the tables anew.
"""

from dbl.config_docs.page import Page

__all__ = ["Page"]
