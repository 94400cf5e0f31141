"""Features of the real images that generated ones are compared with, kept in the cache folder."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from dbl.data import ImageData, ImageSet, Split
from dbl.data.splits import evenly_spaced
from dbl.evaluation.features.extractor import FeatureExtractor
from dbl.evaluation.features.stored import cache_folder, short_hash, stored
from dbl.evaluation.image_metrics import ImageFeatures
from dbl.utils.errors import UserError

_FINGERPRINTED = 1_000


@dataclass(frozen=True)
class Reference:
    """Which real images generated ones are compared with.

    Args:
        split: split of the images.
        num_images: number of images, evenly spaced; None for all.
    """

    split: Split = "train"
    num_images: int | None = None

    def count(self, data: ImageData) -> int:
        """Number of images. Raises UserError if the split has fewer than `num_images`."""
        total = len(data.split(self.split))
        if self.num_images is not None and self.num_images > total:
            raise UserError(
                f"image_quality.num_reference ({self.num_images}) must be at most {total}: "
                f"the {self.split} split of {data.name} has no more images"
            )
        return total if self.num_images is None else self.num_images

    def features(
        self, extractor: FeatureExtractor, data: ImageData, cache_dir: str, batch_size: int = 256
    ) -> ImageFeatures:
        """Features of the images; they are extracted once and then read from the cache.

        Raises UserError if there are too few images, or the cache is damaged or cannot be written.
        """
        images, num = data.split(self.split), self.count(data)
        key = short_hash(extractor.identity, _fingerprint(images))
        path = cache_folder(cache_dir, data.spec) / f"{self.split}-{num}-{key}.safetensors"
        tensors = stored(
            path, {"features", "logits"}, lambda: vars(extractor.over(_batches(images, num, batch_size))).copy()
        )
        return ImageFeatures(tensors["features"], tensors["logits"])


def _batches(images: ImageSet, num: int, batch_size: int) -> Iterator[Tensor]:
    for indices in evenly_spaced(len(images), num).split(batch_size):
        yield images.images[indices]


def _fingerprint(images: ImageSet) -> str:
    """A hash of the labels and of up to 1,000 images: the identity of a data set covers its training split alone."""
    digest = hashlib.sha256(images.labels.numpy().tobytes())
    for batch in _batches(images, min(len(images), _FINGERPRINTED), 256):
        digest.update(batch.numpy().tobytes())
    return digest.hexdigest()
