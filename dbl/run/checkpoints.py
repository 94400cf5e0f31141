"""The checkpoint files of a block or baseline: the last, the previous, and that of a replaced training."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from dbl.utils.errors import UserError
from dbl.utils.files import UnreadableFile, read_checkpoint


class CheckpointInfo(NamedTuple):
    """A readable checkpoint.

    Attributes:
        path: its file.
        step: its optimizer step.
        stamp: part and contract hash of the training that wrote it.
        problem: what is wrong with a newer one that cannot be read, if there is any.
    """

    path: Path
    step: int
    stamp: tuple[Any, Any]
    problem: str | None = None

    def check(self, part: str, contract: str) -> None:
        """Raise UserError if it was written by a training of another part or under another contract."""
        if self.stamp != (part, contract):
            written_by, under = (str(value)[:12] for value in self.stamp)
            raise UserError(
                f"{self.path} is of {written_by} with contract {under}, not of {part} with contract {contract[:12]}: "
                "resume it in its own run"
            )


def already_trained(part: str, step: int) -> str:
    """Message about a part that is skipped."""
    return f"{part} is trained already ({step} steps); --from-scratch trains it anew"


def read_checkpoint_info(path: Path) -> CheckpointInfo:
    """Read path and step of a checkpoint. Raises UnreadableFile (a UserError) if it is absent or damaged."""
    checkpoint = read_checkpoint(path)
    step, stamp = checkpoint.get("global_step"), checkpoint.get("dbl")
    if not isinstance(step, int) or not isinstance(stamp, dict):
        raise UnreadableFile(f"{path} is not a checkpoint of dbl", "train this block anew")
    return CheckpointInfo(path, step, (stamp.get("part"), stamp.get("contract")))


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
