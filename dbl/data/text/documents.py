"""Documents of text, from local files or from records."""

import hashlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from typing_extensions import override

from dbl.data.sources.local_files import file_versions
from dbl.data.sources.records import RecordSource
from dbl.data.sources.tables import is_table, table_records
from dbl.utils.errors import DblWarning, UserError


class Documents(ABC):
    """Texts that can be read again and have a fingerprint, so that their tokens can be kept on disk."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Text that changes when the documents do."""

    @abstractmethod
    def __iter__(self) -> Iterator[str]:
        """Yield the texts in order."""


@dataclass(frozen=True)
class RecordDocuments(Documents):
    """Each record is a document, whose text is in a column; empty ones are left out."""

    records: RecordSource
    column: str

    @property
    @override
    def fingerprint(self) -> str:
        return f"{self.records.fingerprint} {self.column}"

    @override
    def __iter__(self) -> Iterator[str]:
        return self.records.texts(self.column)


@dataclass(frozen=True)
class FileDocuments(Documents):
    """Local files, one after another: each record of a table is a document, every other file is one whole.

    In the latter, bytes that are not UTF-8 are replaced by U+FFFD, with one warning for each file. Raises UserError if
    a table is damaged or not UTF-8, or lacks the column.

    Args:
        files: text files or tables (parquet, CSV, TSV, JSON lines), at least one.
        column: column of the text in tables.
    """

    files: tuple[Path, ...]
    column: str
    _warned: set[Path] = field(default_factory=set, repr=False, compare=False)

    @property
    @override
    def fingerprint(self) -> str:
        return hashlib.sha256(repr((file_versions(self.files), self.column)).encode()).hexdigest()

    @override
    def __iter__(self) -> Iterator[str]:
        for file in self.files:
            if is_table(file):
                yield from table_records(file, text=[self.column]).texts(self.column)
            elif text := self._read(file):
                yield text

    def _read(self, file: Path) -> str:
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
