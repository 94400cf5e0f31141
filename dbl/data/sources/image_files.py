"""Image files in one subfolder for each class, as records."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from dbl.data.sources import records
from dbl.data.sources.records import RecordSource
from dbl.utils.errors import UserError

if TYPE_CHECKING:
    import pyarrow  # type: ignore[import-untyped]

IMAGE, CLASS = "image", "class"
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def class_folders(folder: Path) -> list[str]:
    """Names of the subfolders, sorted, without hidden ones: the classes. Raises UserError if there are none."""
    if not folder.is_dir():
        raise UserError(f"data.init_args.folder: there is no folder {folder}")
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not names:
        raise UserError(
            f"data.init_args.folder: {folder} has no subfolders; each class needs one (without classes: one for all)"
        )
    return names


class ImageFiles(RecordSource):
    """The image files below the class subfolders of a folder, by class, then by name.

    Hidden files are left out. Raises UserError if a class has no image.
    """

    image_key: ClassVar[str] = "data.init_args.folder"

    def __init__(self, folder: Path) -> None:
        from torchvision.datasets.folder import make_dataset

        classes = class_folders(folder)
        numbers = {name: number for number, name in enumerate(classes)}
        found = make_dataset(folder, numbers, is_valid_file=_is_image, allow_empty=True)
        if empty := sorted(set(numbers.values()) - {number for _, number in found}):
            raise UserError(
                f"data.init_args.folder: {folder / classes[empty[0]]} has no images ({', '.join(_SUFFIXES)})"
            )
        self.name = str(folder)
        self.columns = [IMAGE, CLASS]
        self.folders = [folder]
        self._files = [Path(path) for path, _ in found]
        self._labels = [number for _, number in found]
        self.fingerprint = hashlib.sha256(repr([self._version(file) for file in self._files]).encode()).hexdigest()

    @override
    def __len__(self) -> int:
        return len(self._files)

    @override
    def place(self, row: int) -> str:
        return str(self._files[row])

    @override
    def chunks(self, columns: list[str]) -> Iterator["pyarrow.Table"]:
        import pyarrow

        for first in range(0, len(self), records.CHUNK_ROWS):
            rows = slice(first, first + records.CHUNK_ROWS)
            cells = [{"path": str(file)} for file in self._files[rows]]
            yield pyarrow.table({IMAGE: cells, CLASS: self._labels[rows]}).select(columns)

    @override
    def read_file(self, path: str) -> bytes:
        """The content of a file that was found below the folder, which may be a link to elsewhere."""
        return Path(path).read_bytes()

    def _version(self, file: Path) -> tuple[str, int, int]:
        """Name below the folder, size and time of change."""
        found = file.stat()
        return str(file.relative_to(self.folders[0])), found.st_size, found.st_mtime_ns


def _is_image(path: str) -> bool:
    name = Path(path).name
    return name.lower().endswith(_SUFFIXES) and not name.startswith(".")
