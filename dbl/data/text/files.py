"""Text from local files."""

from pathlib import Path
from typing import Any

from typing_extensions import override

from dbl.data.module import Split
from dbl.data.sources.local_files import check_disjoint, data_folder, find_files, name_of_files
from dbl.data.text.documents import FileDocuments
from dbl.data.text.module import TextData
from dbl.utils.errors import UserError


class TextFiles(TextData):
    """Text of local files: each record of a table is a document, every other file is one whole.

    Tables are `.csv` and `.tsv` files with a header, `.jsonl` (or `.ndjson`) and `.parquet`; see `text_column`.

    Args:
        train: files or globs of the training split, in this order; the files of a glob are sorted.
        validation: files or globs of the validation split; null cuts it from the training text.
        test: files or globs of the test split; null cuts it from the training text.
        data_dir: folder that relative files start from; null means `$DBL_DATA` if that is set, else the current folder.
        text_column: column of the text in tables.
        name: name of the data set, for people; null takes that of the first file.
        base: arguments of `TextData`.

    Example:
        >>> import dbl
        >>> from pathlib import Path
        >>> _ = Path("book.txt").write_text("It was a dark and stormy night. " * 100)
        >>> data = dbl.TextFiles(
        ...     train=["book.txt"], data_dir=".",
        ...     seq_len=32, tokenizer=dbl.Characters(), batch_size=8, eval_batch_size=8,
        ... )
        >>> data.spec.seq_len, data.spec.num_classes
        (32, 17)
    """

    def __init__(
        self,
        train: list[str],
        validation: list[str] | None = None,
        test: list[str] | None = None,
        data_dir: str | None = None,
        text_column: str = "text",
        name: str | None = None,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        self.name = name or name_of_files(train[0] if train else "text")
        self.data_dir = data_dir
        self.text_column = text_column
        patterns = {"train": train, "validation": validation, "test": test}
        self._patterns = {split: given for split, given in patterns.items() if given is not None}

    @override
    def load(self, split: Split) -> FileDocuments | None:
        if split not in self._patterns:
            return None
        files = {name: self._files(name, patterns) for name, patterns in self._patterns.items()}
        check_disjoint(files, "data.init_args")
        return FileDocuments(tuple(files[split]), self.text_column)

    def _files(self, split: str, patterns: list[str]) -> list[Path]:
        folder = data_folder(self.data_dir)
        files: list[Path] = []
        for pattern in patterns:
            found = find_files(folder, pattern)
            if not found:
                raise UserError(
                    f"data.init_args.{split}: there is no file {folder / pattern}; set DBL_DATA or "
                    f"data.init_args.data_dir to the folder that holds {pattern}"
                )
            files += [file for file in found if file not in files]
        return files
