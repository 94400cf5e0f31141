"""YAML files: the keys of one as data, and what is wrong with one, in a line."""

from pathlib import Path
from typing import Any

import yaml

from dbl.utils.errors import UserError


def read_keys(path: str | Path) -> dict[str, Any]:
    """The keys of a config as plain values: nothing that it names is imported. Raises UserError if it is no config."""
    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123 - the path may be no path at all
            plain = yaml.safe_load(file)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error.reason}): give a config in YAML") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be read ({reason}): give a config in YAML") from None
    except RecursionError:
        raise UserError(f"{path} is nested too deeply: give a config in YAML") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: not YAML ({error.problem or error.context})") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML ({str(error).splitlines()[0]})") from None
    if not isinstance(plain, dict):
        raise UserError(f"{path} holds no keys, but {type(plain).__name__}: give a config")
    return plain


def problem_of_yaml(path: str) -> str | None:
    """Why a file is no config, as one line; None if it is one as far as YAML goes."""
    try:
        read_keys(path)
    except UserError as error:
        return str(error)
    return None
