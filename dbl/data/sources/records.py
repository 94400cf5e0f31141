"""The records of a data set, from local parquet files or from the Hugging Face hub.

Records have named columns and are read in chunks, so that a large data set never sits in memory whole.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from dbl.data.sources.local_files import file_versions
from dbl.utils.errors import UserError

if TYPE_CHECKING:
    import pyarrow  # type: ignore[import-untyped]

CHUNK_ROWS = 1_024


class RecordSource(ABC):
    """Records with named columns.

    Attributes:
        name: name of the source in messages.
        columns: names of the columns.
        fingerprint: text that changes when the records do.
        folders: folders of the records; files that a cell names must be inside, and relative paths start there.
        image_key: key of the config to which a message about an image belongs.
    """

    image_key: ClassVar[str] = "data.init_args.image_column"
    folders: list[Path]
    name: str
    columns: list[str]
    fingerprint: str

    @abstractmethod
    def __len__(self) -> int:
        """Number of records; TypeError for a stream, whose length is unknown."""

    @abstractmethod
    def chunks(self, columns: list[str]) -> Iterator["pyarrow.Table"]:
        """Yield some columns of all records in order, at most `CHUNK_ROWS` records at a time."""

    def place(self, row: int) -> str:
        """What a message calls a record."""
        return f"row {row} of {self.name}"

    def require_columns(self, **columns: str) -> None:
        """Raise UserError if a column is missing; each is given under the setting that named it."""
        for setting, column in columns.items():
            if column not in self.columns:
                has = ", ".join(self.columns)
                raise UserError(f"data.init_args.{setting}: {self.name} has no column {column!r}; it has {has}")

    def require_records(self) -> None:
        """Raise UserError if there are no records."""
        if len(self) == 0:
            raise UserError(f"data: {self.name} has no rows")

    def read_file(self, path: str) -> bytes:
        """The content of a file that a cell names. Raises ValueError unless it is inside the folders of the records."""
        for folder in self.folders:
            file = (folder / path).resolve()
            if file.is_relative_to(folder.resolve()) and file.is_file():
                return file.read_bytes()
        raise ValueError(f"there is no file {path[:80]!r} inside the folder of the records")

    def labels(self, chunk: "pyarrow.Table", column: str) -> Tensor:
        """Classes [K] int64 of the records in a chunk. Raises UserError unless the column holds whole numbers."""
        import pyarrow

        cells = chunk.column(column)
        if not pyarrow.types.is_integer(cells.type) or cells.null_count:
            kind = f"{cells.null_count} empty cells" if cells.null_count else cells.type
            raise UserError(f"data: column {column!r} of {self.name} holds {kind}, not the numbers of classes")
        return torch.from_numpy(cells.to_numpy().astype("int64"))

    def texts(self, column: str) -> Iterator[str]:
        """Yield the texts of a column in order, without empty ones.

        Raises UserError if there is no such column (setting `text_column`) or it does not hold text.
        """
        import pyarrow

        self.require_columns(text_column=column)
        for chunk in self.chunks([column]):
            cells = chunk.column(column)
            kinds = pyarrow.types
            if not any(kind(cells.type) for kind in (kinds.is_string, kinds.is_large_string, kinds.is_null)):
                raise UserError(f"data.init_args.text_column: {column!r} of {self.name} holds {cells.type}, not text")
            yield from (text for text in cells.to_pylist() if text)


class ParquetRecords(RecordSource):
    """Records of one parquet file or more, one file after another. Raises UserError if a file is not parquet.

    They are read with pyarrow: `datasets` would first write an uncompressed copy of the files to its own cache.
    """

    def __init__(self, files: list[Path]) -> None:
        self.name = str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
        self.folders = list(dict.fromkeys(path.parent for path in files))
        self._files = files
        columns, counts = [], []
        for path in files:
            with _parquet_file(path) as file:
                columns.append(file.schema_arrow.names)
                counts.append(file.metadata.num_rows)
        self.columns = [name for name in columns[0] if all(name in names for names in columns)]
        self.fingerprint = hashlib.sha256(repr(file_versions(files)).encode()).hexdigest()
        self._num_records = sum(counts)

    @override
    def __len__(self) -> int:
        return self._num_records

    @override
    def chunks(self, columns: list[str]) -> Iterator["pyarrow.Table"]:
        import pyarrow

        for path in self._files:
            with _parquet_file(path) as file:
                for batch in file.iter_batches(CHUNK_ROWS, columns=columns):
                    yield pyarrow.Table.from_batches([batch])


class HubRecords(RecordSource):
    """Records of one split of a data set on the hub, or of the copy that `datasets` keeps of it.

    Raises UserError if the hub cannot be reached or has no such data set, variant or split.

    Args:
        path: name on the hub, e.g. "uoft-cs/cifar10".
        config_name: variant of the data set; None for one that has no variants.
        split: name of the split in the source.
        remedy: advice for a hub that cannot be reached; ends the message.
        streaming: whether to read over the network as far as is needed, without keeping anything.
    """

    def __init__(self, path: str, config_name: str | None, split: str, remedy: str, streaming: bool = False) -> None:
        import datasets
        from huggingface_hub import constants

        self.name = f"split {split!r} of {path}"
        self._path, self._remedy = path, remedy
        caches = (datasets.config.HF_DATASETS_CACHE, datasets.config.DOWNLOADED_DATASETS_PATH)
        self.folders = [Path(cache) for cache in (*caches, constants.HF_HUB_CACHE)]
        with self._one_line_errors():
            if streaming:
                builder = datasets.load_dataset_builder(path, config_name)
                self._records: Any = builder.as_streaming_dataset(split=split)
                # The fingerprint of a stream is random; the builder's hash changes with the version on the hub.
                self.fingerprint = f"{path} {builder.config.name} {split} {builder.hash}"
            else:
                self._records = datasets.load_dataset(path, config_name, split=split)
                self.fingerprint = self._records._fingerprint
            self.columns = self._records.column_names or list(next(iter(self._records), {}))

    @override
    def __len__(self) -> int:
        return len(self._records)

    @override
    def chunks(self, columns: list[str]) -> Iterator["pyarrow.Table"]:
        with self._one_line_errors():
            yield from self._records.select_columns(columns).with_format("arrow").iter(CHUNK_ROWS)

    @contextmanager
    def _one_line_errors(self) -> Iterator[None]:
        try:
            yield
        except ValueError as error:  # the data set is there, but not this variant or split
            raise UserError(f"data: the hub has no {self.name} ({_first_line(error)})") from None
        except Exception as error:  # the kinds for a failed connection differ between versions of the hub's client
            reason = f"{self._path} ({_first_line(error)})"
            raise UserError(f"data: cannot reach the hub for {reason}; {self._remedy}") from None


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
