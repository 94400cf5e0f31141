"""The most typical image of each class, from which NoProp's label vectors of the size of an image start."""

from collections import defaultdict

import torch
from torch import Tensor

from dbl.data.module import ResumableDataModule

_READ_AT_ONCE = 1024


def typical_images(data: ResumableDataModule, num_classes: int) -> dict[int, Tensor]:
    """Class -> the training image with the smallest median distance to the others of its class (arXiv 2503.24322).

    Raw images are compared, before they are standardised. A class without training images is left out.

    Args:
        data: clean DataModule of images with labels.
        num_classes: C.
    """
    found = defaultdict[int, list[Tensor]](list)
    num_samples = len(data.split("train"))
    for start in range(0, num_samples, _READ_AT_ONCE):
        batch = data.batch("train", torch.arange(start, min(start + _READ_AT_ONCE, num_samples)))
        for label in range(num_classes):
            found[label].append(batch["image"][batch["label"] == label])
    images = {label: torch.cat(parts) for label, parts in found.items()}
    return {label: of_class[most_typical(of_class.flatten(1))] for label, of_class in images.items() if len(of_class)}


def most_typical(vectors: Tensor) -> int:
    """The row of [N, D] with the smallest median distance to the others; the first of several."""
    num = len(vectors)
    if num == 1:
        return 0
    distances = torch.cdist(vectors.float(), vectors.float())
    others = distances[~torch.eye(num, dtype=torch.bool)].view(num, num - 1)
    return int(others.median(dim=1).values.argmin())
