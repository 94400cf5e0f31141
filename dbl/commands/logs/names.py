"""What a part is called in loggers that many runs share, and the id by which a resumed part finds its log there."""

import re
import secrets
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from dbl.run.folder import RunFolder
from dbl.utils.errors import UserError
from dbl.utils.files import read_json, write_json

_FILE = "loggers.json"
# One of them is in the folder of a run, also while its first part is being trained.
_OF_A_RUN = ("config.yaml", "contract.json", "lock")
_DEPTH = 5


@dataclass(frozen=True)
class LogName:
    """The name of a part.

    Args:
        runs: names of the run and of the runs around it, the outermost first, such as `("digits_dit", "ancestor")`.
        part: part of the run, such as `block_0`; `report` for an evaluation.
    """

    runs: tuple[str, ...]
    part: str

    @classmethod
    def of(cls, run: RunFolder, part: str) -> Self:
        """The name of a part of a run, which may be inside another run."""
        names, folder = [run.name], Path(run.root)
        for _ in range(_DEPTH):
            around = folder.parent if folder.name == "rivals" else folder
            if not any((around / name).exists() for name in _OF_A_RUN):
                break
            names = [*around.parts[-1:], *(["rivals"] if around != folder else []), *names]
            folder = around.parent
        return cls(tuple(names), part)

    def under(self, chosen: str | None) -> "LogName":
        """The same with a name that the user chose in place of the outermost."""
        return replace(self, runs=(chosen, *self.runs[1:])) if chosen else self

    @property
    def first(self) -> str:
        """Name of the outermost run: the group of all parts."""
        return self.runs[0]

    @property
    def run(self) -> str:
        """Name of the run, as a path."""
        return "/".join(self.runs)

    @property
    def text(self) -> str:
        """Name of the part, as a path."""
        return f"{self.run}/{self.part}"

    @property
    def dashed(self) -> str:
        """Name of the part without the outermost run and without slashes."""
        return "-".join((*self.runs[1:], self.part))


def stored_id(folder: Path, anew: bool = False) -> str:
    """The id of a log on servers: kept in a file, so that a resumed part continues its log there.

    Args:
        folder: folder of the part.
        anew: begin another log.
    """
    path = folder / _FILE
    if path.is_file() and not anew:
        stored = read_json(path)
        found = stored.get("id") if isinstance(stored, dict) else None
        if not isinstance(found, str) or not re.fullmatch(r"[0-9a-f]{8,32}", found):
            raise UserError(f"{path} is damaged: remove it, and its loggers begin another run")
        return found
    new = secrets.token_hex(4)  # from no stream that training uses
    write_json(path, {"id": new})
    return new
