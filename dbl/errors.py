"""What `dbl` says when the fault is in the input and not in the program."""


class UserError(Exception):
    """A fault that the user can mend: one line that names the key or file and the remedy.

    The commands print the line and exit with code 2; nothing has been overwritten when it is raised.
    """


def check_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise UserError unless `value` is one of `choices`, e.g. `get_args` of a Literal."""
    if value not in choices:
        raise UserError(f"{key} ({value}) must be one of {', '.join(choices)}")


class DblWarning(UserWarning):
    """A setting that works but is probably not what the user meant. Errors in the tests."""


class Interrupted(Exception):
    """The user or the machine stopped a training, and its state was saved. The commands exit with code 130."""
