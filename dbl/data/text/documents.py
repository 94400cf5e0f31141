"""Texts, one document after another, out of local files or tables."""

import hashlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dbl.data.rows import ParquetRows, Table
from dbl.utils.errors import DblWarning, UserError


class Documents(ABC):
    """Texts that can be read again and are known by a fingerprint, so that their tokens are worth keeping."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Changes when the texts do."""

    @abstractmethod
    def __iter__(self) -> Iterator[str]:
        """The texts in order."""


@dataclass(frozen=True)
class TableDocuments(Documents):
    """Each row of a table is a document; empty ones are left out.

    Args:
        table: to read.
        column: that holds the text.
    """

    table: Table
    column: str

    @property
    def fingerprint(self) -> str:
        """See `Documents.fingerprint`."""
        return f"{self.table.fingerprint} {self.column}"

    def __iter__(self) -> Iterator[str]:
        """See `Table.texts`, also for errors."""
        return self.table.texts(self.column)


@dataclass(frozen=True)
class FileDocuments(Documents):
    """Local files, one after another: each row of a parquet file is a document, every other file is one whole.

    Bytes that are not UTF-8 are replaced by U+FFFD, with one warning for each file.

    Args:
        files: at least one.
        column: of parquet files, that holds the text.
    """

    files: tuple[Path, ...]
    column: str
    _warned: set[Path] = field(default_factory=set, repr=False, compare=False)

    @property
    def fingerprint(self) -> str:
        """Of names, sizes and times of change."""
        facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in self.files]
        return hashlib.sha256(repr((facts, self.column)).encode()).hexdigest()

    def __iter__(self) -> Iterator[str]:
        """See `Documents.__iter__`.

        Raises:
            UserError: if a file cannot be read.
        """
        for file in self.files:
            if file.suffix == ".parquet":
                yield from ParquetRows([file]).texts(self.column)
            elif text := self._whole(file):
                yield text

    def _whole(self, file: Path) -> str:
        try:
            content = file.read_bytes()
        except OSError as error:
            raise UserError(f"cannot read {file} ({error})") from None
        text = content.decode("utf-8", errors="replace")
        num_replaced = text.count("\ufffd") - content.count("\ufffd".encode())
        if num_replaced and file not in self._warned:
            self._warned.add(file)
            warnings.warn(
                f"{file} is not UTF-8: {num_replaced} characters were replaced by U+FFFD; convert the file",
                DblWarning,
                stacklevel=2,
            )
        return text
