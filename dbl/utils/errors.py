"""Errors that commands report as one line instead of a traceback."""

from importlib import import_module
from types import ModuleType


class UserError(Exception):
    """An error the user can fix: one line that names the key or file and the remedy.

    Commands print the line and exit with code 2. Nothing has been overwritten when it is raised.

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
    """A setting that works but is probably not what the user meant. Tests treat it as an error."""


class TrainingFailed(Exception):
    """Blocks failed for a reason other than bad input; their logs have the details. Exit code 1."""


class Interrupted(Exception):
    """The user or the machine stopped a training after its state was saved. Exit code 130."""


def as_known_error(error: BaseException | None) -> BaseException | None:
    """Return the first error with a one-line message in a chain of causes, or None.

    The config parser wraps whatever is raised while it instantiates classes, so the cause is what matters.
    """
    while error is not None and not isinstance(error, UserError | Interrupted | TrainingFailed):
        error = error.__cause__
    return error


def optional_package(name: str, extra: str, user: str) -> ModuleType:
    """Import a module that an extra of `dbl` installs. Raises UserError naming its user, a feature, if it is absent."""
    try:
        return import_module(name)
    except ImportError:
        raise UserError(f"{user} needs the package `{name}`: pip install dbl[{extra}]") from None
