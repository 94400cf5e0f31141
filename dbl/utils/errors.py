"""Errors that commands report as one line instead of a traceback."""

import errno
import os
from collections.abc import Collection
from difflib import get_close_matches
from importlib import import_module
from types import ModuleType

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED_PATH = (
    *(errno.EROFS, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR),
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.EEXIST),
)
# Parts of messages of plain errors: torch on the CPU raises a RuntimeError, and an import an ImportError.
_OUT_OF_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "out of memory",
    "failed to map segment from shared object",  # while a library is imported
)


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


class DblWarning(UserWarning):
    """A setting that works but is probably not what the user meant. Tests treat it as an error."""


class TrainingFailed(Exception):
    """Blocks failed for a reason other than bad input; their logs have the details. Exit code 1."""


class Interrupted(Exception):
    """The user or the machine stopped a training after its state was saved. Exit code 130."""


def as_known_error(error: BaseException | None) -> BaseException | None:
    """Return the first error with a one-line message in a chain of causes, or None.

    The config parser wraps whatever is raised while it instantiates classes, so the cause is what matters. What the
    machine refuses (a full disk, a folder that cannot be written to, no memory) becomes a UserError that says so.
    """
    while error is not None:
        known = error if isinstance(error, UserError | Interrupted | TrainingFailed) else _refusal_of_machine(error)
        if known is not None:
            return known
        error = error.__cause__
    return None


def _refusal_of_machine(error: BaseException) -> UserError | None:
    if isinstance(error, OSError) and error.errno in FULL_DISK + _REFUSED_PATH:
        remedy = "free space on the disk" if error.errno in FULL_DISK else "choose a path that you may write to"
        return UserError(
            f"{os.fsdecode(error.filename or 'a file')} could not be read or written ({error.strerror}): {remedy}"
        )
    says_so = isinstance(error, RuntimeError | ImportError) and any(sign in str(error) for sign in _OUT_OF_MEMORY)
    if isinstance(error, MemoryError) or says_so:
        reason = (str(error).strip() or "MemoryError").splitlines()[0][:80]
        return UserError(f"out of memory ({reason}): smaller data.init_args.batch_size, or more blocks; see dbl plan")
    return None


def optional_package(name: str, extra: str, user: str) -> ModuleType:
    """Import a module that an extra of `dbl` installs. Raises UserError naming its user, a feature, if it is absent."""
    try:
        return import_module(name)
    except ImportError:
        raise UserError(f"{user} needs the package `{name}`: {how_to_install(extra)}") from None


def how_to_install(extra: str) -> str:
    """The remedy for a missing package, in the words of README: `dbl` is used from a clone."""
    return f'pip install -e ".[{extra}]" in the clone of dbl'


def reason_of(error: BaseException, width: int = 80) -> str:
    """The first line of the message of an exception, or its name, for a message that says more."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:width]


def suggestion(name: str, known: Collection[str]) -> str:
    """The end of a message about an unknown name: the nearest known one, or all if they are few."""
    close = get_close_matches(name, known, n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f": choose {', '.join(known)}" if 0 < len(known) < 12 else ""


def one_line(message: object, width: int = 200) -> str:
    """A message as one line of at most `width` characters.

    Of a longer one, the beginning (which names the key or file) and the end (the remedy) are kept.
    """
    text = " ".join("".join(char if char.isprintable() else " " for char in str(message)).split())
    if len(text) <= width:
        return text
    end = width // 2
    return f"{text[: width - end - 3].rstrip()} … {text[-end:].lstrip()}"[:width]
