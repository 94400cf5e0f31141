"""Tables in text files: CSV, TSV and JSON lines as records.

They are read in chunks with pyarrow and the standard library: `datasets` would first write a copy of them to its own
cache, and its CSV reader fills rows that are too short.
"""

import hashlib
import json
from abc import abstractmethod
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from dbl.data.sources import records
from dbl.data.sources.local_files import file_versions
from dbl.data.sources.records import ParquetRecords, RecordSource
from dbl.utils.errors import UserError

if TYPE_CHECKING:
    import pyarrow  # type: ignore[import-untyped]

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_JSON_LINES = (".jsonl", ".ndjson")
_BLOCK_BYTES = 2**25  # the longest row of a CSV file
_ENDINGS = (".parquet", *_DELIMITERS, *_JSON_LINES)


def is_table(file: Path) -> bool:
    """Whether a file is read as records with named columns, by its ending: parquet, CSV, TSV or JSON lines."""
    return file.suffix.lower() in _ENDINGS


def table_records(file: Path, text: Collection[str] = ()) -> RecordSource:
    """The records of a file by its ending, which must be that of a table.

    Args:
        file: the file.
        text: columns of a CSV file that are text whatever they hold; types of others follow from their values.
    """
    if file.suffix.lower() == ".parquet":
        return ParquetRecords([file])
    return JsonLines(file) if file.suffix.lower() in _JSON_LINES else CsvRecords(file, text)


class _TextTable(RecordSource):
    """What both kinds of files share: UTF-8, and a length that is only known at their end."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.name = str(file)
        self.folders = [file.parent]
        with self._one_line_errors():
            self.fingerprint = hashlib.sha256(repr(file_versions([file])).encode()).hexdigest()
            self.columns = self._columns()
        if twice := [name for name in self.columns if self.columns.count(name) > 1]:
            raise UserError(f"{file} has two columns {twice[0]!r}: rename one")

    @abstractmethod
    def _columns(self) -> list[str]:
        """Names of the columns, from the beginning of the file."""

    @override
    def __len__(self) -> int:
        return self._num_records

    @cached_property
    def _num_records(self) -> int:
        return sum(len(chunk) for chunk in self.chunks(self.columns[:1]))

    @contextmanager
    def _one_line_errors(self) -> Iterator[None]:
        import pyarrow

        try:
            yield
        except UnicodeDecodeError:
            raise UserError(f"{self.file} is not UTF-8: convert it, for example with iconv") from None
        except (OSError, pyarrow.ArrowException) as error:
            message = str(error).partition("\n")[0]
            if "UTF8" in message:
                raise UserError(f"{self.file} is not UTF-8: convert it, for example with iconv") from None
            remedy = "; each row needs a cell for each name of the header" if " columns, got " in message else ""
            raise UserError(f"{self.file}: {message.removeprefix('CSV parse error: ')[:60]}{remedy}") from None


class CsvRecords(_TextTable):
    """Records of a CSV or TSV file with a header.

    Cells may be quoted and then hold line ends. Raises UserError if a row has more or fewer cells than the header, or
    the file is not UTF-8.
    """

    def __init__(self, file: Path, text: Collection[str] = ()) -> None:
        self._text = text
        super().__init__(file)

    @override
    def _columns(self) -> list[str]:
        with self._reader(None) as reader:
            return list(reader.schema.names)

    @override
    def chunks(self, columns: list[str]) -> Iterator["pyarrow.Table"]:
        import pyarrow

        with self._one_line_errors(), self._reader(columns) as reader:
            for batch in reader:
                table = pyarrow.Table.from_batches([batch])
                for first in range(0, len(table), records.CHUNK_ROWS):
                    yield table.slice(first, records.CHUNK_ROWS)

    def _reader(self, columns: list[str] | None) -> Any:
        import pyarrow
        from pyarrow import csv

        types = {name: pyarrow.string() for name in self._text}
        return csv.open_csv(
            self.file,
            csv.ReadOptions(block_size=_BLOCK_BYTES),
            csv.ParseOptions(delimiter=_DELIMITERS[self.file.suffix.lower()], newlines_in_values=True),
            csv.ConvertOptions(include_columns=columns, column_types=types),
        )


class JsonLines(_TextTable):
    """Records of a file with one JSON object a line; the columns are the keys of the first.

    Raises UserError if a line holds something else, or a record lacks a column that is read.
    """

    @override
    def _columns(self) -> list[str]:
        return list(next((record for _, record in self._records()), {}))

    @override
    def chunks(self, columns: list[str]) -> Iterator["pyarrow.Table"]:
        import pyarrow

        rows: list[dict[str, Any]] = []
        with self._one_line_errors():
            for place, record in self._records():
                if absent := [name for name in columns if name not in record]:
                    raise UserError(f"{place} has no {absent[0]!r}")
                rows.append({name: record[name] for name in columns})
                if len(rows) == records.CHUNK_ROWS:
                    yield pyarrow.Table.from_pylist(rows)
                    rows = []
            if rows:
                yield pyarrow.Table.from_pylist(rows)

    def _records(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Each record, with the name of its line."""
        with self.file.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                place = f"{self.file}, line {number},"
                try:
                    record = json.loads(line) if line.strip() else None
                except ValueError as error:
                    raise UserError(f"{place} is no JSON ({str(error)[:80]})") from None
                if isinstance(record, dict):
                    yield place, record
                elif line.strip():
                    raise UserError(f"{place} is no JSON object with named values")
