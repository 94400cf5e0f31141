"""Decoded images on disk, so that they are decoded once and a set larger than memory can be read in part.

An entry is a folder with `images.npy` [N,C,H,W] uint8 and `labels.npy` [N] int64, written last; see `write_once`.
The cache of `datasets` would keep the encoded images beside the decoded ones, needs a folder that can be written, and
does not say which of its files is damaged.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dbl.data.images.image_set import ImageSet
from dbl.utils.errors import UserError
from dbl.utils.files import replacing, write_once

Chunk = tuple[Tensor, Tensor]  # images [K,C,H,W] uint8 and labels [K] int64

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MappedImages:
    """Images that stay in a `.npy` file until they are asked for.

    The file is opened anew for each batch, which costs little, so that only its name is sent to worker processes.
    """

    path: Path
    dtype = torch.uint8

    @property
    def shape(self) -> torch.Size:
        """[N,C,H,W]."""
        return torch.Size(self._file.shape)

    def __getitem__(self, indices: Tensor, /) -> Tensor:
        """The images at `indices` [K], as [K,C,H,W]."""
        return torch.from_numpy(self._file[indices.numpy()])

    @property
    def _file(self) -> np.ndarray:
        return np.load(self.path, mmap_mode="r")


def cached(entry: Path, shape: tuple[int, ...], chunks: Callable[[], Iterator[Chunk]], memory_map: bool) -> ImageSet:
    """Read an entry; decode and write it first if it is not there.

    Several processes may ask at once: one decodes, the others wait for it. Raises UserError if the entry is damaged, or
    cannot be written and `memory_map` needs it.

    Args:
        entry: folder of the entry.
        shape: [N,C,H,W] of all images.
        chunks: function that decodes all images in order.
        memory_map: whether to leave the images on disk.
    """
    try:
        write_once(entry, "labels.npy", lambda: _write(entry, shape, chunks()))
    except OSError as error:
        if memory_map:
            raise UserError(f"data.init_args.cache_dir: cannot write {entry} ({error}); memory_map needs it") from None
        # Only a remark: the images fit in memory, and reading them again costs time alone.
        _log.info("Decoded images are not kept: cannot write %s (%s)", entry, error)
        images, labels = zip(*chunks(), strict=True)
        return ImageSet(torch.cat(images), torch.cat(labels))
    return _read(entry, memory_map)


def _write(entry: Path, shape: tuple[int, ...], chunks: Iterator[Chunk]) -> None:
    all_labels = []
    with replacing(entry / "images.npy") as path, path.open("wb") as file:
        # The header goes first: an array of all images may not fit in memory.
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for images, labels in chunks:
            ImageSet(images, labels)  # raises before labels that are no classes are kept and taken for a damaged entry
            file.write(images.numpy().tobytes())
            all_labels.append(labels)
    with replacing(entry / "labels.npy") as path, path.open("wb") as file:
        np.save(file, torch.cat(all_labels).numpy())


def _read(entry: Path, memory_map: bool) -> ImageSet:
    try:
        labels = torch.from_numpy(np.load(entry / "labels.npy"))
        images = MappedImages(entry / "images.npy")
        return ImageSet(images if memory_map else torch.from_numpy(np.load(images.path)), labels)
    except (OSError, EOFError, ValueError, UserError) as error:
        raise UserError(f"{entry} is damaged ({error}); delete it") from None
