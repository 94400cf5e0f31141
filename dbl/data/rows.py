"""Where the samples of a data set are read from: local parquet files or the Hugging Face hub.

All are tables with named columns that are read piece by piece, so that a large one never sits in memory whole.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dbl.utils.errors import UserError

if TYPE_CHECKING:
    import pyarrow  # type: ignore[import-untyped]

PIECE_ROWS = 1_024


class Table(ABC):
    """A table of samples, of a length that may be unknown before it is read.

    Attributes:
        source: name of the table in messages.
    """

    source: str

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Changes when the content of the table does."""

    @property
    @abstractmethod
    def columns(self) -> list[str]:
        """Names of the columns."""

    @abstractmethod
    def pieces(self, columns: list[str]) -> Iterator["pyarrow.Table"]:
        """Some columns, at most `PIECE_ROWS` rows at a time, in order."""

    def require(self, **columns: str) -> None:
        """Check that there are columns.

        Args:
            columns: names of columns, each under the setting that it comes from.

        Raises:
            UserError: naming the setting and the columns that there are.
        """
        for setting, column in columns.items():
            if column not in self.columns:
                has = ", ".join(self.columns)
                raise UserError(f"data.init_args.{setting}: {self.source} has no column {column!r}; it has {has}")

    def texts(self, column: str) -> Iterator[str]:
        """The cells of a column of text, in order; empty cells are left out.

        Raises:
            UserError: if there is no such column (setting `text_column`) or it does not hold text.
        """
        import pyarrow

        self.require(text_column=column)
        for table in self.pieces([column]):
            cells = table.column(column)
            if not (pyarrow.types.is_string(cells.type) or pyarrow.types.is_large_string(cells.type)):
                raise UserError(f"data.init_args.text_column: {column!r} of {self.source} holds {cells.type}, not text")
            yield from (text for text in cells.to_pylist() if text)


class Rows(Table):
    """A table of known length."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of rows."""

    def require_rows(self) -> None:
        """Raise UserError if there are none."""
        if len(self) == 0:
            raise UserError(f"data: {self.source} has no rows")

    def labels(self, table: "pyarrow.Table", column: str) -> Tensor:
        """[K] int64, the classes in one piece.

        Raises:
            UserError: if the column does not hold whole numbers.
        """
        import pyarrow

        cells = table.column(column)
        if not pyarrow.types.is_integer(cells.type) or cells.null_count:
            kind = f"{cells.null_count} empty cells" if cells.null_count else cells.type
            raise UserError(f"data: column {column!r} of {self.source} holds {kind}, not the numbers of classes")
        return torch.from_numpy(cells.to_numpy().astype("int64"))


class ParquetRows(Rows):
    """Rows of parquet files, one file after another.

    Args:
        files: at least one.

    Raises:
        UserError: on first reading, if a file is not parquet.
    """

    def __init__(self, files: list[Path]) -> None:
        self.source = str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
        self._files = files

    @cached_property
    def fingerprint(self) -> str:
        """Of names, sizes and times of change."""
        facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in self._files]
        return hashlib.sha256(repr(facts).encode()).hexdigest()

    @property
    def columns(self) -> list[str]:
        """See `Table.columns`; those that all files have."""
        (first, _), *others = self._footers
        return [name for name in first if all(name in names for names, _ in others)]

    def __len__(self) -> int:
        return sum(num_rows for _, num_rows in self._footers)

    def pieces(self, columns: list[str]) -> Iterator["pyarrow.Table"]:
        """See `Table.pieces`."""
        import pyarrow

        for path in self._files:
            with _parquet_file(path) as file:
                for batch in file.iter_batches(PIECE_ROWS, columns=columns):
                    yield pyarrow.Table.from_batches([batch])

    @cached_property
    def _footers(self) -> list[tuple[list[str], int]]:
        """Names of the columns and number of rows of each file."""
        footers = []
        for path in self._files:
            with _parquet_file(path) as file:
                footers.append((file.schema_arrow.names, file.metadata.num_rows))
        return footers


class HubRows(Rows):
    """Rows of one split of a data set on the hub, or of the copy that `datasets` keeps of it.

    Args:
        path: name on the hub, e.g. "uoft-cs/cifar10".
        config_name: which variant, for data sets that have several.
        split: name of the split.
        remedy: what to do if the hub cannot be reached; ends the message.

    Raises:
        UserError: if the hub cannot be reached or has no such data set, variant or split.
    """

    def __init__(self, path: str, config_name: str | None, split: str, remedy: str) -> None:
        import datasets

        self.source = f"split {split!r} of {path}"
        with _reading_the_hub(self.source, path, remedy):
            self._dataset = datasets.load_dataset(path, config_name, split=split)

    @property
    def fingerprint(self) -> str:
        """As `datasets` computes it."""
        return self._dataset._fingerprint

    @property
    def columns(self) -> list[str]:
        """See `Table.columns`."""
        return self._dataset.column_names

    def __len__(self) -> int:
        return len(self._dataset)

    def pieces(self, columns: list[str]) -> Iterator["pyarrow.Table"]:
        """See `Table.pieces`."""
        yield from self._dataset.select_columns(columns).with_format("arrow").iter(PIECE_ROWS)


class HubStream(Table):
    """Rows of one split of a data set on the hub, read over the network without keeping them.

    Args:
        path: name on the hub.
        config_name: which variant, for data sets that have several.
        split: name of the split.
        remedy: what to do if the hub cannot be reached; ends the message.

    Raises:
        UserError: if the hub cannot be reached or has no such data set, variant or split.
    """

    def __init__(self, path: str, config_name: str | None, split: str, remedy: str) -> None:
        import datasets

        self.source = f"split {split!r} of {path}"
        self._reading = partial(_reading_the_hub, self.source, path, remedy)
        with self._reading():
            builder = datasets.load_dataset_builder(path, config_name)
            self._stream = builder.as_streaming_dataset(split=split)
            self._columns = self._stream.column_names or list(next(iter(self._stream), {}))
        self._fingerprint = f"{path} {builder.config.name} {split} {builder.hash}"

    @property
    def fingerprint(self) -> str:
        """Of the names and of the version that the hub gave."""
        return self._fingerprint

    @property
    def columns(self) -> list[str]:
        """See `Table.columns`."""
        return self._columns

    def pieces(self, columns: list[str]) -> Iterator["pyarrow.Table"]:
        """See `Table.pieces`."""
        with self._reading():
            yield from self._stream.select_columns(columns).with_format("arrow").iter(PIECE_ROWS)


@contextmanager
def _reading_the_hub(source: str, path: str, remedy: str) -> Iterator[None]:
    try:
        yield
    except (UserError, GeneratorExit):
        raise
    except ValueError as error:  # the data set is there, but not this variant or split
        raise UserError(f"data: the hub has no {source} ({_first_line(error)})") from None
    except Exception as error:  # the kinds for a failed connection differ between versions of the hub's client
        raise UserError(f"data: cannot reach the hub for {path} ({_first_line(error)}); {remedy}") from None


@contextmanager
def _parquet_file(path: Path) -> Iterator[Any]:
    import pyarrow.parquet  # type: ignore[import-untyped]

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            yield file
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise UserError(f"{path} is not a readable parquet file ({_first_line(error)}); copy it again") from None


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
