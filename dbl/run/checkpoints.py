"""The checkpoint files of a block or baseline: the last, the previous, and that of a replaced training."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from dbl.utils.errors import UserError
from dbl.utils.files import UnreadableFile, read_checkpoint


class CheckpointInfo(NamedTuple):
    """A readable checkpoint, its optimizer step, and the problem of a newer, unreadable one if there is any."""

    path: Path
    step: int
    problem: str | None = None


def already_trained(part: str, step: int) -> str:
    """Message about a part that is skipped."""
    return f"{part} is trained already ({step} steps); --from-scratch trains it anew"


def read_checkpoint_info(path: Path) -> CheckpointInfo:
    """Read path and step of a checkpoint. Raises UnreadableFile (a UserError) if it is absent or damaged."""
    step = read_checkpoint(path).get("global_step")
    if not isinstance(step, int):
        raise UnreadableFile(f"{path} is not a checkpoint of dbl", "train this block anew")
    return CheckpointInfo(path, step)


@dataclass(frozen=True)
class Checkpoints:
    """The files in the `checkpoints` folder of a part: `last.ckpt`, and the others beside it."""

    last: Path

    @property
    def previous(self) -> Path:
        """The checkpoint before the last, from which training resumes if the last one is damaged."""
        return self.last.with_name("previous.ckpt")

    @property
    def replaced(self) -> Path:
        """The last checkpoint of an earlier training that was replaced by `--from-scratch`."""
        return self.last.with_name("replaced.ckpt")

    def newest(self) -> CheckpointInfo | None:
        """Find the newest readable checkpoint; None if there is no file. Raises UserError if all are damaged."""
        if not self.last.is_file() and not self.previous.is_file():
            return None
        try:
            return read_checkpoint_info(self.last)
        except UnreadableFile as error:
            problem = error.problem
        try:
            return read_checkpoint_info(self.previous)._replace(problem=problem)
        except UnreadableFile as error:
            raise UserError(f"{problem}, and {error.problem}: --from-scratch trains this part anew") from None

    def keep_previous(self) -> None:
        """Make the last checkpoint the previous one too; a crash at any point leaves at least one of both."""
        self.previous.unlink(missing_ok=True)
        try:
            self.previous.hardlink_to(self.last)
        except OSError:  # a file system without hard links
            self.last.rename(self.previous)

    def set_aside(self) -> Path | None:
        """Keep the newest readable checkpoint as `replaced.ckpt` and delete the others; None if none was readable."""
        kept: CheckpointInfo | None = None
        with suppress(UserError):  # all are damaged
            kept = self.newest()
        if kept is not None:
            kept.path.replace(self.replaced)
        self.last.unlink(missing_ok=True)
        self.previous.unlink(missing_ok=True)
        return None if kept is None else self.replaced
