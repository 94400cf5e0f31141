"""Labelled vectors from local tables."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from dbl.data.module import Split
from dbl.data.sources.local_files import check_disjoint, data_folder, find_files, name_of_files
from dbl.data.sources.records import RecordSource
from dbl.data.sources.tables import is_table, table_records
from dbl.data.splits import cut_test
from dbl.data.vectors.module import VectorData
from dbl.data.vectors.vector_set import VectorSet
from dbl.utils.checks import Number, check_numbers
from dbl.utils.errors import UserError

if TYPE_CHECKING:
    import pyarrow  # type: ignore[import-untyped]


class VectorFiles(VectorData):
    r"""The rows of local tables: a column with the class, and columns of numbers. They are held in memory.

    Tables are `.csv` and `.tsv` files with a header, `.jsonl` (or `.ndjson`) and `.parquet`. Classes are whole numbers
    or text; they are numbered in the order of their values in the training rows.

    Args:
        train: file or glob of the training split; the files of a glob are sorted.
        validation: file or glob of the validation split; null cuts it from the training rows.
        test: file or glob of the test split; null cuts it from the training rows.
        label_column: column of the class.
        feature_columns: columns of the numbers; null takes all but that of the class.
        test_share: share of each class that is cut for the test where it has no file, in (0, 1).
        data_dir: folder that relative files start from; null means `$DBL_DATA` if that is set, else the current folder.
        name: name of the data set, for people; null takes that of the training file.
        base: arguments of `VectorData`.

    Example:
        >>> import dbl
        >>> from pathlib import Path
        >>> rows = "".join(f"{height},{height / 2},{'tall' if height > 15 else 'small'}\n" for height in range(30))
        >>> _ = Path("trees.csv").write_text("height,width,size\n" + rows)
        >>> data = dbl.VectorFiles("trees.csv", label_column="size", data_dir=".", batch_size=4, eval_batch_size=4)
        >>> data.spec.num_features, data.classes
        (2, ['small', 'tall'])
    """

    def __init__(
        self,
        train: str,
        validation: str | None = None,
        test: str | None = None,
        label_column: str = "label",
        feature_columns: list[str] | None = None,
        test_share: float = 0.2,
        data_dir: str | None = None,
        name: str | None = None,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        self.name = name or name_of_files(train)
        self.label_column = label_column
        self.feature_columns = feature_columns
        self.test_share = test_share
        self.data_dir = data_dir
        patterns = {"train": train, "validation": validation, "test": test}
        self._patterns = {split: pattern for split, pattern in patterns.items() if pattern is not None}
        check_numbers("data.init_args", self, test_share=Number(above=0, below=1))

    @cached_property
    def classes(self) -> list[Any]:
        """Values of the classes, by their numbers."""
        found = {value for table in self._tables["train"] for value in table.labels}
        return sorted(found, key=lambda value: (type(value).__name__, value))

    @override
    def load(self, split: Split) -> VectorSet | None:
        if split == "validation" and split not in self._patterns:
            return None
        if split == "validation" or "test" in self._patterns:
            return self._sets[split]
        rows = self._sets["train"]
        kept, held_out = cut_test(rows.labels, self.test_share)
        return rows.select(kept if split == "train" else held_out)

    @cached_property
    def _sets(self) -> dict[str, VectorSet]:
        """All files at once, so that what is wrong in one is found before any training."""
        return {split: self._read(split) for split in self._patterns}

    @cached_property
    def _tables(self) -> dict[str, list["_Table"]]:
        folder = data_folder(self.data_dir)
        files = {split: _files(folder, split, pattern) for split, pattern in self._patterns.items()}
        check_disjoint(files, "data.init_args")
        columns = self.feature_columns
        tables: dict[str, list[_Table]] = {}
        for split, found in files.items():
            for file in found:
                records = table_records(file)
                # Those of the first training file are those of all.
                columns = columns or [name for name in records.columns if name != self.label_column]
                tables.setdefault(split, []).append(_Table(records, self.label_column, columns))
        return tables

    def _read(self, split: str) -> VectorSet:
        numbers = {value: number for number, value in enumerate(self.classes)}
        tables = self._tables[split]
        labels = []
        for table in tables:
            if unknown := sorted({str(value) for value in table.labels if value not in numbers}):
                raise UserError(
                    f"data.init_args.label_column: {table.name} has a class {unknown[0]!r} that no training row has"
                )
            labels += [numbers[value] for value in table.labels]
        return VectorSet(torch.cat([table.vectors for table in tables]), torch.tensor(labels, dtype=torch.int64))


class _Table:
    """The rows of one file.

    Attributes:
        name: the file.
        labels: values of the classes, whole numbers or text.
        vectors: [N,F] float32.
    """

    def __init__(self, records: RecordSource, label_column: str, feature_columns: list[str]) -> None:
        import pyarrow

        self.name = records.name
        records.require_columns(label_column=label_column)
        for column in feature_columns:
            records.require_columns(feature_columns=column)
        if not feature_columns or label_column in feature_columns:
            raise UserError(f"data.init_args.feature_columns must name columns of {self.name} other than the class")
        chunks = list(records.chunks([label_column, *feature_columns]))
        if not chunks:
            raise UserError(f"data: {self.name} has no rows")
        rows = pyarrow.concat_tables(chunks)
        self.labels = self._classes(rows.column(label_column), label_column)
        self.vectors = torch.stack([self._numbers(rows.column(name), name) for name in feature_columns], dim=1)

    def _classes(self, cells: "pyarrow.ChunkedArray", column: str) -> list[Any]:
        from pyarrow import types

        kinds = (types.is_integer, types.is_boolean, types.is_string, types.is_large_string)
        self._check(cells, f"data.init_args.label_column: {column!r}", "classes", *kinds)
        return list(cells.to_pylist())

    def _numbers(self, cells: "pyarrow.ChunkedArray", column: str) -> Tensor:
        """[N] float32."""
        from pyarrow import types

        kinds = (types.is_integer, types.is_floating, types.is_boolean)
        self._check(cells, f"data.init_args.feature_columns: {column!r}", "numbers", *kinds)
        return torch.from_numpy(np.array(cells.to_numpy(), np.float32))

    def _check(
        self, cells: "pyarrow.ChunkedArray", column: str, wanted: str, *kinds: Callable[["pyarrow.DataType"], bool]
    ) -> None:
        """Raise UserError unless all cells of a column are there and of one of some kinds."""
        if cells.null_count:
            raise UserError(f"{column} of {self.name} has {cells.null_count} empty cells")
        if not any(kind(cells.type) for kind in kinds):
            raise UserError(f"{column} of {self.name} holds {cells.type}, not {wanted}")


def _files(folder: Path, split: str, pattern: str) -> list[Path]:
    files = find_files(folder, pattern)
    if not files:
        raise UserError(f"data.init_args.{split}: there is no file {folder / pattern}")
    if others := [file for file in files if not is_table(file)]:
        raise UserError(f"data.init_args.{split}: {others[0]} is no table (.csv, .tsv, .jsonl, .parquet)")
    return files
