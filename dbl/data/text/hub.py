"""Text in the format of the `datasets` library: from the Hugging Face hub or from local files."""

from pathlib import Path
from typing import Any

from typing_extensions import override

from dbl.data.module import Split
from dbl.data.sources.local_files import local_copies, named_splits
from dbl.data.sources.records import HubRecords
from dbl.data.text.documents import Documents, FileDocuments, RecordDocuments
from dbl.data.text.module import TextData


class HubText(TextData):
    """Text of any set on the hub; each record is a document. It is encoded while it is read and kept in `cache_dir`.

    Local files take the place of the hub where `data_dir`, or else the folder `$DBL_DATA/<last part of path>`, holds
    those of every split: `<split>.txt` (one document), `<split>.parquet`, or several as `<split>-*`.

    Args:
        path: name on the hub, e.g. "roneneldan/TinyStories".
        config_name: variant, for sets on the hub that have several.
        text_column: column of the text.
        train_split: name of the training split.
        validation_split: name of the validation split; null cuts it from the training text.
        test_split: name of the test split; null cuts it from the training text.
        data_dir: folder of local files; null looks in `$DBL_DATA`, then on the hub.
        streaming: whether to read the hub only as far as `max_tokens` needs, instead of fetching the whole set first.
        base: arguments of `TextData`.

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
        self._split_names = named_splits(train_split, validation_split, test_split)

    @override
    def load(self, split: Split) -> Documents | None:
        if split not in self._split_names:
            return None
        name, names = self._split_names[split], list(self._split_names.values())
        if files := local_copies(self.name, self.data_dir, names, ["txt", "parquet"]):
            return FileDocuments(tuple(files[name]), self.text_column)
        remedy = "set DBL_DATA to a folder with " + " and ".join(f"{self.name}/{one}.txt or .parquet" for one in names)
        records = HubRecords(self.path, self.config_name, name, remedy, self.streaming)
        return RecordDocuments(records, self.text_column)
