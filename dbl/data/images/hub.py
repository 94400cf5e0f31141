"""Image sets in the format of the `datasets` library: from the Hugging Face hub or from local parquet files."""

import hashlib
from functools import partial
from pathlib import Path
from typing import Any

from dbl.data.images.cache import cached
from dbl.data.images.decode import ImageDecoder
from dbl.data.images.measure import declared
from dbl.data.images.module import ImageData, Split
from dbl.data.images.sets import ImageSet, check_classes
from dbl.data.local_files import files_of_splits, local_copies
from dbl.data.rows import HubRows, ParquetRows, Rows
from dbl.data.spec import ImageSpec
from dbl.utils.errors import UserError


class HubImages(ImageData):
    """Labelled images of any set on the hub, decoded once and kept in `cache_dir`.

    Local files take the place of the hub where `data_dir` or `data_files` name them, or where the folder
    `$DBL_DATA/<last part of path>` holds those of every split: `<split>.parquet`, or `<split>-*.parquet` as on the hub.

    Args:
        path: name on the hub, e.g. "uoft-cs/cifar10".
        image_size: rows and columns of pixels; images of another size are resized and cut in the centre.
        channels: 1 for grey, 3 for colour; images of another kind are converted.
        num_classes: C; checked against the labels.
        image_column: where the images are.
        label_column: where their classes are.
        train_split: name of the training split.
        validation_split: name of the validation split; null cuts it from the training split.
        test_split: name of the test split.
        config_name: which variant, for sets on the hub that have several.
        data_dir: folder of local parquet files; null looks in `$DBL_DATA`, then on the hub.
        data_files: name of a split -> its parquet file or a glob, relative to `data_dir` (or to the current folder).
        cache_dir: for decoded images.
        memory_map: leave the decoded images in `cache_dir` and read only those of a batch; for sets larger than memory.
        base: the arguments of `ImageData`.

    Example:
        >>> import dbl
        >>> cifar10 = dbl.HubImages(
        ...     "uoft-cs/cifar10", image_column="img", image_size=32, channels=3, num_classes=10,
        ...     batch_size=128, eval_batch_size=500,
        ... )
        >>> cifar10.batch_size  # nothing is downloaded before the data is used
        128
    """

    def __init__(
        self,
        path: str,
        image_size: int,
        channels: int,
        num_classes: int,
        image_column: str = "image",
        label_column: str = "label",
        train_split: str = "train",
        validation_split: str | None = None,
        test_split: str = "test",
        config_name: str | None = None,
        data_dir: str | None = None,
        data_files: dict[str, str] | None = None,
        cache_dir: str = ".cache/dbl",
        memory_map: bool = False,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        self.path = path
        self.name = Path(path).name
        self.num_classes = num_classes
        self.config_name = config_name
        self.data_dir = data_dir
        self.data_files = data_files
        self.cache_dir = cache_dir
        self.memory_map = memory_map
        self._split_names = {"train": train_split, "validation": validation_split, "test": test_split}
        if len(set(self._names)) < len(self._names):
            raise UserError(f"data.init_args: the names of the splits must differ, got {', '.join(self._names)}")
        self._decoder = ImageDecoder(image_column, label_column, image_size, channels)

    @property
    def declared_spec(self) -> ImageSpec:
        """See `ImageData.declared_spec`."""
        size = self._decoder.image_size
        return declared(self.name, (self._decoder.channels, size, size), self.num_classes)

    def load(self, split: Split) -> ImageSet | None:
        """See `ImageData.load`.

        Raises:
            UserError: if files, columns, images or labels are not as the arguments say, or the hub cannot be reached.
        """
        name = self._split_names[split]
        if name is None:
            return None
        rows = self._rows(name)
        size, channels = self._decoder.image_size, self._decoder.channels
        shape = (len(rows), channels, size, size)
        images = cached(self._entry(rows), shape, partial(self._decoder.pieces, rows), self.memory_map)
        if split == "train":
            check_classes(images, self.num_classes, rows.source)
        return images

    def _entry(self, rows: Rows) -> Path:
        """Where the decoded rows are kept."""
        key = hashlib.sha256(f"{rows.fingerprint} {self._decoder}".encode()).hexdigest()
        return Path(self.cache_dir) / f"{self.name}-{key[:16]}"

    def _rows(self, name: str) -> Rows:
        if files := self._local_files():
            return ParquetRows(files[name])
        wanted = " and ".join(f"{self.name}/{split}.parquet" for split in self._names)
        return HubRows(self.path, self.config_name, name, f"set DBL_DATA to a folder with {wanted}")

    def _local_files(self) -> dict[str, list[Path]]:
        """The files of every split; none means the hub, so that no run mixes two sources."""
        if self.data_files is not None:
            return files_of_splits(Path(self.data_dir or "."), self.data_files, self._names)
        return local_copies(self.name, self.data_dir, self._names, ("parquet",))

    @property
    def _names(self) -> list[str]:
        return [name for name in self._split_names.values() if name is not None]
