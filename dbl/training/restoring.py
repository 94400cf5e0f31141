"""A clear error if a checkpoint that could be read cannot be restored."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dbl.utils.errors import UserError, as_known_error, reason_of

_RESTORES = "lightning.pytorch.trainer.connectors.checkpoint_connector"


@contextmanager
def refusing_what_does_not_fit(path: Path | str | None) -> Iterator[None]:
    """Turn any error that Lightning meets while it restores a checkpoint into a UserError that names its file.

    States of optimizers, loops and callbacks have a form of their own for each class, which only restoring them checks.

    Args:
        path: the checkpoint; None if the training starts anew.
    """
    try:
        yield
    except Exception as error:
        if path is None or as_known_error(error) or not _was_restoring(error):
            raise
        message = f"{path} cannot be restored ({reason_of(error)}): --from_scratch trains this part anew"
        raise UserError(message) from error


def _was_restoring(error: Exception) -> bool:
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_globals.get("__name__") == _RESTORES for frame, _ in frames)
