"""Text in the format of the `datasets` library: from the Hugging Face hub or from local files."""

from pathlib import Path
from typing import Any

from dbl.data.local_files import local_copies
from dbl.data.module import Split
from dbl.data.rows import HubRows, HubStream
from dbl.data.text.documents import Documents, FileDocuments, TableDocuments
from dbl.data.text.module import TextData
from dbl.utils.errors import UserError


class HubText(TextData):
    """Text of any set on the hub; each row is a document. It is encoded while it is read and kept in `cache_dir`.

    Local files take the place of the hub where `data_dir`, or else the folder `$DBL_DATA/<last part of path>`, holds
    those of every split: `<split>.txt` (one document), `<split>.parquet`, or several as `<split>-*`.

    Args:
        path: name on the hub, e.g. "roneneldan/TinyStories".
        config_name: which variant, for sets on the hub that have several.
        text_column: where the text is.
        train_split: name of the training split.
        validation_split: name of the validation split; null cuts it from the training text.
        test_split: name of the test split; null cuts it from the training text.
        data_dir: folder of local files; null looks in `$DBL_DATA`, then on the hub.
        streaming: read the hub only as far as `max_tokens` wants, instead of fetching the whole set first.
        base: the arguments of `TextData`.

    Example:
        >>> import dbl
        >>> stories = dbl.HubText(
        ...     "roneneldan/TinyStories", seq_len=256, tokenizer=dbl.Bytes(), batch_size=8, eval_batch_size=8
        ... )
        >>> stories.name  # nothing is downloaded before the data is used
        'TinyStories'
    """

    def __init__(
        self,
        path: str,
        config_name: str | None = None,
        text_column: str = "text",
        train_split: str = "train",
        validation_split: str | None = None,
        test_split: str | None = "test",
        data_dir: str | None = None,
        streaming: bool = False,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        self.path = path
        self.name = Path(path).name
        self.config_name = config_name
        self.text_column = text_column
        self.data_dir = data_dir
        self.streaming = streaming
        self._split_names = {"train": train_split, "validation": validation_split, "test": test_split}
        if len(set(self._names)) < len(self._names):
            raise UserError(f"data.init_args: the names of the splits must differ, got {', '.join(self._names)}")

    def load(self, split: Split) -> Documents | None:
        """See `TextData.load`.

        Raises:
            UserError: if `data_dir` lacks a split, the hub cannot be reached or it has no such set, variant or split.
        """
        name = self._split_names[split]
        if name is None:
            return None
        if files := local_copies(self.name, self.data_dir, self._names, ("txt", "parquet")):
            return FileDocuments(tuple(files[name]), self.text_column)
        wanted = " and ".join(f"{self.name}/{one}.txt or .parquet" for one in self._names)
        table = HubStream if self.streaming else HubRows
        remedy = f"set DBL_DATA to a folder with {wanted}"
        return TableDocuments(table(self.path, self.config_name, name, remedy), self.text_column)

    @property
    def _names(self) -> list[str]:
        return [name for name in self._split_names.values() if name is not None]
