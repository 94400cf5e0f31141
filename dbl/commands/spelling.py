"""How options are spelt: with underscores, as the keys of a config; dashes are taken for them. Lists have commas."""

import re
from collections.abc import Iterable, Sequence

from dbl.utils.errors import UserError

# A name without a dot: a dotted key may end in a name of somebody else, such as --slurm.extra.mail-type.
_NAME = re.compile(r"--[a-zA-Z][\w-]*")


def with_underscores(arguments: Iterable[str]) -> list[str]:
    """A command line with the names of its options spelt with underscores: `--dry-run` becomes `--dry_run`."""
    return [_underscored(word) for word in arguments]


def _underscored(word: str) -> str:
    name, equals, value = word.partition("=")
    return f"--{name[2:].replace('-', '_')}{equals}{value}" if _NAME.fullmatch(name) else word


def whole_numbers(option: str, value: str | Sequence[int], example: str) -> list[int]:
    """The numbers of an option in the order given: of `0,2`, of `2` alone, or of a list `[0, 2]`.

    Raises UserError if it is none of these.

    Args:
        option: name of the option, such as `--blocks`.
        value: its parsed value.
        example: form that a value may have, for the message.
    """
    items = value.split(",") if isinstance(value, str) else value
    try:
        return [int(item) for item in items]
    except ValueError:
        raise UserError(f"{option} {value} must be {example}") from None
