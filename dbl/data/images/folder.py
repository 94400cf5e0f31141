"""Images of a local folder that has a subfolder for each class."""

import hashlib
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from typing_extensions import override

from dbl.data.images.cache import cached
from dbl.data.images.decode import ImageDecoder
from dbl.data.images.image_set import ImageSet
from dbl.data.images.measure import declared
from dbl.data.images.module import ImageData, Split
from dbl.data.sources.image_files import CLASS, IMAGE, ImageFiles, class_folders
from dbl.data.sources.local_files import data_folder
from dbl.data.spec import ImageSpec
from dbl.data.splits import cut_test
from dbl.utils.checks import Number, check_numbers
from dbl.utils.errors import UserError

# What a folder of a split may be called.
_NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing"),
}


class ImageFolder(ImageData):
    """PNG, JPEG, WebP or BMP files in one subfolder for each class, decoded once and kept in `cache_dir`.

    The class subfolders are in `train`, `test` and, if there is one, `validation` (or `val`); or they are in the folder
    itself, and test and validation images are cut from each class. The classes are numbered in the order of their
    names. Raises UserError if there are no images, if two splits have unlike classes, or if an image is damaged.

    Args:
        folder: the folder; a relative one starts from `$DBL_DATA` if that is set, else from the current folder.
        image_size: rows and columns of pixels; images of another size are resized and cut in the centre.
        channels: 1 for grey, 3 for colour; images of another kind are converted.
        test_share: share of each class that is cut for the test where there is no folder `test`, in (0, 1).
        name: name of the data set, for people; null takes that of the folder.
        cache_dir: folder for decoded images.
        memory_map: whether to read decoded images from `cache_dir` batch by batch; for sets larger than memory.
        base: arguments of `ImageData`.

    Example:
        >>> import dbl
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> for name, colour in (("reds", "red"), ("blues", "blue")):
        ...     Path("photos", name).mkdir(parents=True)
        ...     for number in range(10):
        ...         Image.new("RGB", (40, 30), colour).save(f"photos/{name}/{number}.png")
        >>> data = dbl.ImageFolder("photos", image_size=16, batch_size=4, eval_batch_size=4)
        >>> data.classes, data.declared_spec.shape, len(data.split("test"))
        (['blues', 'reds'], (3, 16, 16), 2)
    """

    def __init__(
        self,
        folder: str,
        image_size: int,
        channels: int = 3,
        test_share: float = 0.1,
        name: str | None = None,
        cache_dir: str = ".cache/dbl",
        memory_map: bool = False,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        self.folder = data_folder(None) / folder
        self.name = name or self.folder.resolve().name
        self.test_share = test_share
        self.cache_dir = cache_dir
        self.memory_map = memory_map
        self._decoder = ImageDecoder(IMAGE, CLASS, image_size, channels)
        check_numbers("data.init_args", self, test_share=Number(above=0, below=1))

    @cached_property
    def classes(self) -> list[str]:
        """Names of the classes, by their numbers."""
        return class_folders(self._folders["train"])

    @property
    @override
    def declared_spec(self) -> ImageSpec:
        return declared(self.name, self._decoder.shape, len(self.classes))

    @override
    def load(self, split: Split) -> ImageSet | None:
        if split == "validation" and split not in self._folders:
            return None
        for other in self._folders:  # all of them before any training
            self._check_classes(other)
        if split == "validation" or "test" in self._folders:
            return self._read(self._folders[split])
        train, test = self._cut
        return train if split == "train" else test

    @cached_property
    def _folders(self) -> dict[Split, Path]:
        """The folder of each split that has one; a folder without splits is that of the training images."""
        found: dict[Split, Path] = {}
        for split, names in _NAMES.items():
            folders = [self.folder / name for name in names if (self.folder / name).is_dir()]
            if len(folders) > 1:
                raise UserError(f"data.init_args.folder: {folders[0]} and {folders[1]} are both for split {split}")
            if folders:
                found[split] = folders[0]
        if "train" not in found:
            return {"train": self.folder}
        # A class may be called `train` too, but its images are not in subfolders.
        only_splits = set(class_folders(self.folder)) <= {name for names in _NAMES.values() for name in names}
        is_split = only_splits or any(path.is_dir() for path in found["train"].iterdir())
        return found if is_split else {"train": self.folder}

    @cached_property
    def _cut(self) -> tuple[ImageSet, ImageSet]:
        """Training and test images where the test has no folder."""
        images = self._read(self._folders["train"])
        kept, held_out = cut_test(images.labels, self.test_share)
        return images.select(kept), images.select(held_out)

    def _read(self, folder: Path) -> ImageSet:
        files = ImageFiles(folder)
        key = hashlib.sha256(f"{files.fingerprint} {self._decoder}".encode()).hexdigest()
        shape = (len(files), *self._decoder.shape)
        entry = Path(self.cache_dir) / f"{self.name}-{key[:16]}"
        return cached(entry, shape, partial(self._decoder.chunks, files), self.memory_map)

    def _check_classes(self, split: Split) -> None:
        folder, train = self._folders[split], self._folders["train"]
        own = class_folders(folder)
        if own == self.classes:
            return
        only = [(name, folder, train) for name in own if name not in self.classes]
        only += [(name, train, folder) for name in self.classes if name not in own]
        name, has, lacks = only[0]
        raise UserError(f"data.init_args.folder: {has} has a class {name!r}, but {lacks} has not")
