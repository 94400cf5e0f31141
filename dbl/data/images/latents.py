"""Latents of images, computed before training by an autoencoder, e.g. [4,32,32] for ImageNet at 256 pixels."""

import math
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from typing_extensions import override

from dbl.data.images.image_set import ImageSet, check_classes
from dbl.data.images.measure import declared
from dbl.data.images.module import ImageData, Split
from dbl.data.sources.local_files import data_folder, files_of_splits
from dbl.data.sources.records import ParquetRecords
from dbl.data.spec import IMAGE_SIZE, NUM_CLASSES, ImageSpec
from dbl.utils.checks import check_numbers, whole
from dbl.utils.errors import UserError

if TYPE_CHECKING:
    import pyarrow  # type: ignore[import-untyped]


class Latents(ImageData):
    """Labelled latents from local files.

    Safetensors files hold `labels` [N] and `latents` [N,C,H,W] of any float type, of which only those of a batch are
    read. Parquet files have the columns `latents` (C*H*W floats, flat or nested) and `labels`, and are held in memory.

    Args:
        data_files: split ("train", "test" and, if it is not to be cut from train, "validation") -> file or glob.
        channels: C of the latents.
        image_size: H and W of the latents.
        num_classes: number of classes; checked against the labels, like the shape.
        data_dir: folder that relative files start from; null means `$DBL_DATA` if that is set, else the current folder.
        name: name of the data set, for people.
        base: arguments of `ImageData`.

    Example:
        >>> import dbl, torch
        >>> from safetensors.torch import save_file
        >>> for split in ("train", "test"):
        ...     save_file({"latents": torch.randn(20, 4, 8, 8), "labels": torch.arange(20) % 2}, f"{split}.safetensors")
        >>> data = dbl.Latents(
        ...     {"train": "train.safetensors", "test": "test.safetensors"}, channels=4, image_size=8, num_classes=2,
        ...     data_dir=".", batch_size=4, eval_batch_size=4,
        ... )
        >>> data.spec.shape
        (4, 8, 8)
    """

    def __init__(
        self,
        data_files: dict[str, str],
        channels: int,
        image_size: int,
        num_classes: int,
        data_dir: str | None = None,
        name: str = "latents",
        **base: Any,
    ) -> None:
        super().__init__(**base)
        self.name = name
        self.data_files = data_files
        self.data_dir = data_dir
        self.num_classes = num_classes
        self._shape = (channels, image_size, image_size)
        sizes = {"channels": channels, "image_size": image_size, "num_classes": num_classes}
        check_numbers(
            "data.init_args", sizes, channels=whole(1, 65_536), image_size=IMAGE_SIZE, num_classes=NUM_CLASSES
        )

    @property
    @override
    def declared_spec(self) -> ImageSpec:
        return declared(self.name, self._shape, self.num_classes)

    @override
    def load(self, split: Split) -> ImageSet | None:
        splits = ["train", *({"validation"} & self.data_files.keys()), "test"]
        if split not in splits:
            return None
        files = files_of_splits(data_folder(self.data_dir), self.data_files, splits)[split]
        read = _read_parquet if files[0].suffix == ".parquet" else _read_safetensors
        latents = read(files, self._shape)
        if split == "train":
            check_classes(latents, self.num_classes, str(files[0]))
        return latents


@dataclass(frozen=True)
class ShardedLatents:
    """Latents that stay in safetensors files until they are asked for.

    Files are opened anew for each batch, at about 0.1 ms each, so that only their names are sent to worker processes.

    Args:
        files: safetensors files, in order.
        ends: number of latents up to and including each file.
        shape: [N,C,H,W] of all latents.
    """

    files: tuple[Path, ...]
    ends: tuple[int, ...]
    shape: torch.Size
    dtype = torch.float32  # whatever the files hold

    def __getitem__(self, indices: Tensor, /) -> Tensor:
        """The latents at `indices` [K], as [K,C,H,W]."""
        latents = torch.empty(len(indices), *self.shape[1:])
        ends = torch.tensor(self.ends)
        shards = torch.searchsorted(ends, indices, right=True)
        for shard in shards.unique().tolist():
            here = shards == shard
            rows = indices[here] - (ends[shard - 1] if shard else 0)
            with safe_open(self.files[shard], "pt") as file:
                latents[here] = file.get_slice("latents")[rows.tolist()].float()
        return latents


def _read_safetensors(files: list[Path], shape: tuple[int, int, int]) -> ImageSet:
    """Labels of all files; the latents are left where they are."""
    labels, counts = [], []
    for path in files:
        try:
            with safe_open(path, "pt") as file:
                found = tuple(file.get_slice("latents").get_shape())
                _check_shape(found[1:], shape, path)
                own = file.get_tensor("labels")
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path} is damaged or has no tensors 'latents' and 'labels' ({error})") from None
        if own.is_floating_point() or own.shape != found[:1]:
            raise UserError(
                f"{path}: the tensor 'labels' must hold whole numbers [{found[0]}], not {own.dtype} {list(own.shape)}"
            )
        labels.append(own.long())
        counts.append(found[0])
    ends = tuple(accumulate(counts))
    return ImageSet(ShardedLatents(tuple(files), ends, torch.Size((ends[-1], *shape))), torch.cat(labels))


def _read_parquet(files: list[Path], shape: tuple[int, int, int]) -> ImageSet:
    records = ParquetRecords(files)
    columns = ["latents", "labels"]
    for column in columns:
        records.require_columns(data_files=column)
    records.require_records()
    parts = [
        (_floats(chunk, shape, records.name), records.labels(chunk, "labels")) for chunk in records.chunks(columns)
    ]
    latents, labels = zip(*parts, strict=True)
    return ImageSet(torch.cat(latents), torch.cat(labels))


def _floats(chunk: "pyarrow.Table", shape: tuple[int, int, int], source: str) -> Tensor:
    """[K,C,H,W] float32 from lists that are flat or nested."""
    import pyarrow

    values = chunk.column("latents").combine_chunks()
    # Objects: lists of unequal lengths have a shape too, that of their regular part.
    found = np.array(values[0].as_py(), dtype=object).shape
    if found != (math.prod(shape),):
        _check_shape(found, shape, source)
    if isinstance(values, pyarrow.ExtensionArray):  # arrays of fixed shape as `datasets` stores them
        values = values.storage
    while isinstance(values, pyarrow.ListArray | pyarrow.LargeListArray | pyarrow.FixedSizeListArray):
        values = values.flatten()
    if not pyarrow.types.is_floating(values.type):
        raise UserError(f"data.init_args.data_files: the latents of {source} are {values.type}, not floats")
    if len(values) != len(chunk) * math.prod(shape):
        raise UserError(f"data.init_args.data_files: not all latents of {source} have the shape {list(shape)}")
    return torch.from_numpy(values.to_numpy(zero_copy_only=False).astype(np.float32)).view(-1, *shape)


def _check_shape(found: tuple[int, ...], shape: tuple[int, int, int], source: Path | str) -> None:
    if found != shape:
        raise UserError(
            f"data.init_args.channels and image_size declare latents of {list(shape)}, but {source} has {list(found)}"
        )
