"""The checkpoint files of one part: the last, the one before it, and that of a training which another replaced."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from dbl.utils.errors import UserError
from dbl.utils.files import UnreadableFile, read_checkpoint


class CheckpointInfo(NamedTuple):
    """A good checkpoint: where it lies, its optimizer step, and why a newer one cannot be used (None if it can)."""

    path: Path
    step: int
    fault: str | None = None


def already_trained(part: str, step: int) -> str:
    """What is said of a part that is left alone."""
    return f"{part} is trained already ({step} steps); --from-scratch trains it anew"


def read_checkpoint_info(path: Path) -> CheckpointInfo:
    """A checkpoint that is good; UnreadableFile (a UserError) if it is absent or damaged."""
    step = read_checkpoint(path).get("global_step")
    if not isinstance(step, int):
        raise UnreadableFile(f"{path} is not a checkpoint of dbl", "train this block anew")
    return CheckpointInfo(path, step)


@dataclass(frozen=True)
class Checkpoints:
    """The files in the folder `checkpoints` of a part.

    Args:
        last: path of `last.ckpt`; the others lie beside it.
    """

    last: Path

    @property
    def previous(self) -> Path:
        """The one before the last: what training goes on from if the last one is damaged."""
        return self.last.with_name("previous.ckpt")

    @property
    def replaced(self) -> Path:
        """The last one of an earlier training, kept when another took its place."""
        return self.last.with_name("replaced.ckpt")

    def newest(self) -> CheckpointInfo | None:
        """The newest good checkpoint, the last or the one before it; None if there is neither file.

        Raises:
            UserError: if what is there is damaged.
        """
        if not self.last.is_file() and not self.previous.is_file():
            return None
        try:
            return read_checkpoint_info(self.last)
        except UnreadableFile as error:
            fault = error.fault
        try:
            return read_checkpoint_info(self.previous)._replace(fault=fault)
        except UnreadableFile as error:
            raise UserError(f"{fault}, and {error.fault}: --from-scratch trains this part anew") from None

    def keep_previous(self) -> None:
        """Let the last one be the previous one too. Now and after any crash at least one of both is there."""
        self.previous.unlink(missing_ok=True)
        try:
            self.previous.hardlink_to(self.last)
        except OSError:  # a file system without hard links
            self.last.rename(self.previous)

    def set_aside(self) -> Path | None:
        """Keep the newest good one as `replaced.ckpt` and take the others away; None if there was no good one."""
        kept = next((path for path in (self.last, self.previous) if _is_good(path)), None)
        if kept is not None:
            kept.replace(self.replaced)
        self.last.unlink(missing_ok=True)
        self.previous.unlink(missing_ok=True)
        return None if kept is None else self.replaced


def _is_good(path: Path) -> bool:
    try:
        read_checkpoint_info(path)
    except UnreadableFile:
        return False
    return True
