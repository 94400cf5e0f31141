"""Image sets in the format of the `datasets` library: from the Hugging Face hub or from local parquet files."""

import hashlib
from functools import partial
from pathlib import Path
from typing import Any

from typing_extensions import override

from dbl.data.images.cache import cached
from dbl.data.images.decode import ImageDecoder
from dbl.data.images.image_set import ImageSet, check_classes
from dbl.data.images.measure import declared
from dbl.data.images.module import ImageData, Split
from dbl.data.sources.local_files import files_of_splits, local_copies, named_splits
from dbl.data.sources.records import HubRecords, ParquetRecords, RecordSource
from dbl.data.spec import NUM_CLASSES, ImageSpec
from dbl.utils.checks import check_numbers


class HubImages(ImageData):
    """Labelled images of any set on the hub, decoded once and kept in `cache_dir`.

    Local files take the place of the hub where `data_dir` or `data_files` name them, or where the folder
    `$DBL_DATA/<last part of path>` holds those of every split: `<split>.parquet`, or `<split>-*.parquet` as on the hub.

    Args:
        path: name on the hub, e.g. "uoft-cs/cifar10".
        image_size: rows and columns of pixels; images of another size are resized and cut in the centre.
        channels: 1 for grey, 3 for colour; images of another kind are converted.
        num_classes: C; checked against the labels.
        image_column: column of the images.
        label_column: column of their classes.
        train_split: name of the training split.
        validation_split: name of the validation split; null cuts it from the training split.
        test_split: name of the test split.
        config_name: variant, for sets on the hub that have several.
        data_dir: folder of local parquet files; null looks in `$DBL_DATA`, then on the hub.
        data_files: name of a split -> its parquet file or a glob, relative to `data_dir` (or to the current folder).
        cache_dir: folder for decoded images.
        memory_map: whether to read decoded images from `cache_dir` batch by batch; for sets larger than memory.
        base: arguments of `ImageData`.

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
        self._split_names = named_splits(train_split, validation_split, test_split)
        self._decoder = ImageDecoder(image_column, label_column, image_size, channels)
        check_numbers("data.init_args", self, num_classes=NUM_CLASSES)

    @property
    @override
    def declared_spec(self) -> ImageSpec:
        return declared(self.name, self._decoder.shape, self.num_classes)

    @override
    def load(self, split: Split) -> ImageSet | None:
        if split not in self._split_names:
            return None
        records = self._records(self._split_names[split])
        key = hashlib.sha256(f"{records.fingerprint} {self._decoder}".encode()).hexdigest()
        entry, shape = Path(self.cache_dir) / f"{self.name}-{key[:16]}", (len(records), *self._decoder.shape)
        images = cached(entry, shape, partial(self._decoder.chunks, records), self.memory_map)
        if split == "train":
            check_classes(images, self.num_classes, records.name)
        return images

    def _records(self, name: str) -> RecordSource:
        names = list(self._split_names.values())
        if self.data_files is not None:
            files = files_of_splits(Path(self.data_dir or "."), self.data_files, names)
        else:
            files = local_copies(self.name, self.data_dir, names, ["parquet"])
        if files:
            return ParquetRecords(files[name])
        wanted = " and ".join(f"{self.name}/{split}.parquet" for split in names)
        return HubRecords(self.path, self.config_name, name, f"set DBL_DATA to a folder with {wanted}")
