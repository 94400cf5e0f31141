"""Where the samples of a data set are read from: local parquet files or the Hugging Face hub.

Both are tables with named columns that are read piece by piece, so that a large one never sits in memory whole.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dbl.errors import UserError

if TYPE_CHECKING:
    import datasets
    import pyarrow  # type: ignore[import-untyped]

PIECE_ROWS = 1_024


class Rows(ABC):
    """A table of samples.

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
    def __len__(self) -> int:
        """Number of rows."""

    @abstractmethod
    def pieces(self, columns: list[str]) -> Iterator["pyarrow.Table"]:
        """Some columns, at most `PIECE_ROWS` rows at a time, in order."""

    def require(self, **columns: str) -> None:
        """Check that there are rows and columns.

        Args:
            columns: names of columns, each under the setting that it comes from.

        Raises:
            UserError: naming the setting and the columns that there are.
        """
        for setting, column in columns.items():
            if column not in self.columns:
                has = ", ".join(self.columns)
                raise UserError(f"data.init_args.{setting}: {self.source} has no column {column!r}; it has {has}")
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
        """See `Rows.columns`; those that all files have."""
        (first, _), *others = self._footers
        return [name for name in first if all(name in names for names, _ in others)]

    def __len__(self) -> int:
        return sum(num_rows for _, num_rows in self._footers)

    def pieces(self, columns: list[str]) -> Iterator["pyarrow.Table"]:
        """See `Rows.pieces`."""
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
        self.source = f"split {split!r} of {path}"
        self._dataset = self._load(path, config_name, split, remedy)

    @property
    def fingerprint(self) -> str:
        """As `datasets` computes it."""
        return self._dataset._fingerprint

    @property
    def columns(self) -> list[str]:
        """See `Rows.columns`."""
        return self._dataset.column_names

    def __len__(self) -> int:
        return len(self._dataset)

    def pieces(self, columns: list[str]) -> Iterator["pyarrow.Table"]:
        """See `Rows.pieces`."""
        yield from self._dataset.select_columns(columns).with_format("arrow").iter(PIECE_ROWS)

    def _load(self, path: str, config_name: str | None, split: str, remedy: str) -> "datasets.Dataset":
        import datasets

        try:
            return datasets.load_dataset(path, config_name, split=split)
        except ValueError as error:  # the data set is there, but not this variant or split
            raise UserError(f"data: the hub has no {self.source} ({_first_line(error)})") from None
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


def find_files(folder: Path, *patterns: str) -> list[Path]:
    """The files of the first pattern that has any, sorted; none if no pattern has.

    Args:
        folder: that relative patterns start from.
        patterns: names of files or globs.
    """
    for pattern in patterns:
        path = (folder / pattern).absolute()
        if files := sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor)))):
            return files
    return []


def files_of_splits(folder: Path, data_files: Mapping[str, str], splits: list[str]) -> dict[str, list[Path]]:
    """The files of each split as the setting `data_files` names them.

    Args:
        folder: that relative patterns start from.
        data_files: split -> file or glob.
        splits: that are wanted.

    Raises:
        UserError: if a split has no entry or no file, or two splits share a file.
    """
    files: dict[str, list[Path]] = {}
    for split in splits:
        if split not in data_files:
            raise UserError(f"data.init_args.data_files has no entry for split {split!r}, only {', '.join(data_files)}")
        files[split] = find_files(folder, data_files[split])
        if not files[split]:
            raise UserError(f"data.init_args.data_files: there is no file {folder / data_files[split]}")
    for one, other in combinations(splits, 2):
        for shared in set(files[one]) & set(files[other]):
            raise UserError(f"data.init_args.data_files: {shared} belongs to split {one!r} and to {other!r}")
    return files


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
