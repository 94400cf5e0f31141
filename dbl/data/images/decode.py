"""From records with encoded images to uint8 tensors of one size."""

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dbl.data.sources.records import RecordSource
from dbl.data.spec import IMAGE_SIZE
from dbl.utils.checks import check_numbers, whole
from dbl.utils.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class ImageDecoder:
    """Settings for reading encoded images (JPEG, PNG, ...); names of decoded copies on disk depend on its `repr`.

    Args:
        image_column: column of the images.
        label_column: column of their classes.
        image_size: rows and columns of pixels; an image of another size is resized (bicubic) and cut in the centre.
        channels: 1 for grey, 3 for colour, else UserError; an image of another kind is converted.
    """

    image_column: str
    label_column: str
    image_size: int
    channels: int

    def __post_init__(self) -> None:
        check_numbers("data.init_args", self, image_size=IMAGE_SIZE, channels=whole(1, 3))
        if self.channels == 2:
            raise UserError(f"data.init_args.channels ({self.channels}) must be 1 (grey) or 3 (colour)")

    @property
    def shape(self) -> tuple[int, int, int]:
        """[C,H,W] of a decoded image."""
        return self.channels, self.image_size, self.image_size

    def chunks(self, records: RecordSource) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images [K,C,H,W] uint8 and labels [K] int64 of all records in order, decoded in several threads.

        Raises UserError if a column is missing or holds something else, or an image is damaged.
        """
        records.require_columns(image_column=self.image_column, label_column=self.label_column)
        records.require_records()
        done = 0
        with ThreadPoolExecutor() as pool:
            for chunk in records.chunks([self.image_column, self.label_column]):
                cells = chunk.column(self.image_column).to_pylist()
                places = [records.place(done + row) for row in range(len(cells))]
                # Many images a task: for small ones, handing over after each costs more than decoding it.
                tasks = [slice(first, first + 128) for first in range(0, len(cells), 128)]
                decode = partial(self._decode_all, records=records)
                parts = pool.map(decode, [cells[task] for task in tasks], [places[task] for task in tasks])
                images = torch.from_numpy(np.concatenate(list(parts))).permute(0, 3, 1, 2).contiguous()
                yield images, records.labels(chunk, self.label_column)
                done += len(cells)

    def _decode_all(self, cells: list[Any], places: list[str], records: RecordSource) -> np.ndarray:
        """[K,H,W,C] uint8."""
        return np.stack([self._decode(cell, place, records) for cell, place in zip(cells, places, strict=True)])

    def _decode(self, cell: Any, place: str, records: RecordSource) -> np.ndarray:
        """[H,W,C] uint8."""
        from PIL import UnidentifiedImageError
        from PIL.Image import DecompressionBombError

        try:
            return fitted(_open(cell, records), self.channels, self.image_size)
        except DecompressionBombError as error:  # its message has the number of pixels and the limit
            raise UserError(f"{records.image_key}: {place}: {str(error).partition(', could')[0]}") from None
        except (OSError, SyntaxError, TypeError, ValueError) as error:  # what Pillow raises for damaged files
            reason = "it is damaged or of another format" if isinstance(error, UnidentifiedImageError) else error
            raise UserError(f"{records.image_key}: there is no readable image in {place} ({reason})") from None


def fitted(image: "Image", channels: int, size: int) -> np.ndarray:
    """[size,size,C] uint8 pixels: grey or in colour, the shorter side resized to `size` and the centre cut.

    So ADM and DiT do it for ImageNet. Raises DecompressionBombError if a long image would need too much memory.
    """
    from PIL.Image import MAX_IMAGE_PIXELS, DecompressionBombError, Resampling

    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (size, size):
        scale = size / min(image.size)
        width, height = (max(size, round(side * scale)) for side in image.size)
        # A long image; the limit is that of Pillow for files.
        if MAX_IMAGE_PIXELS is not None and width * height > 2 * MAX_IMAGE_PIXELS:
            raise DecompressionBombError(
                f"Image size ({width * height} pixels when resized) exceeds limit of {2 * MAX_IMAGE_PIXELS} pixels"
            )
        image = image.resize((width, height), Resampling.BICUBIC)  # Pillow always filters against aliasing
        left, top = (width - size) // 2, (height - size) // 2
        image = image.crop((left, top, left + size, top + size))
    return np.asarray(image).reshape(size, size, channels)


def _open(cell: Any, records: RecordSource) -> "Image":
    """The image of a cell: the bytes of a file, or as `datasets` stores it, bytes or the path of a file."""
    import PIL.Image

    if isinstance(cell, dict):
        cell = cell.get("bytes") or records.read_file(str(cell.get("path") or ""))
    if not isinstance(cell, bytes):
        raise TypeError(f"it holds {type(cell).__name__}")
    return PIL.Image.open(io.BytesIO(cell))
