"""What `dbl` says when the fault is in the input and not in the program."""

from importlib import import_module
from types import ModuleType


class UserError(Exception):
    """A fault that the user can fix: one line that names the key or file and the remedy.

    The commands print the line and exit with code 2; nothing has been overwritten when it is raised.

    Example:
        >>> import dbl
        >>> dbl.Partition(boundaries=(0.1, 10.0), layers=(3,))
        Traceback (most recent call last):
            ...
        dbl.utils.errors.UserError: partition.boundaries [0.1, 10.0] must be positive and decrease strictly
    """


def check_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise UserError unless `value` is one of `choices`, e.g. `get_args` of a Literal."""
    if value not in choices:
        raise UserError(f"{key} ({value}) must be one of {', '.join(choices)}")


class DblWarning(UserWarning):
    """A setting that works but is probably not what the user meant. Errors in the tests."""


class TrainingFailed(Exception):
    """Blocks broke off for a reason that is not in the input; what they said is in their logs. Exit code 1."""


class Interrupted(Exception):
    """The user or the machine stopped a training, and its state was saved. The commands exit with code 130."""


def known_fault(error: BaseException | None) -> BaseException | None:
    """The fault that has a clear line, behind an exception: the parser wraps what is raised while it builds classes."""
    while error is not None and not isinstance(error, UserError | Interrupted | TrainingFailed):
        error = error.__cause__
    return error


def optional_package(name: str, extra: str, user: str) -> ModuleType:
    """A package that is imported only where it is needed.

    Args:
        name: of the module.
        extra: of `dbl`, that brings it.
        user: what needs it, the subject of the message.

    Raises:
        UserError: if it is not installed.
    """
    try:
        return import_module(name)
    except ImportError:
        raise UserError(f"{user} needs the package `{name}`: pip install dbl[{extra}]") from None
