"""What is measured of a training split before training: identity, frequencies, mean and standard deviation."""

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor

from dbl.data.images.image_set import ImageSet
from dbl.data.labelled import class_frequencies
from dbl.data.spec import ImageSpec
from dbl.data.splits import evenly_spaced
from dbl.utils.errors import UserError

# Images, evenly spaced, that identity, mean and standard deviation of a larger split are computed from: to read all of
# ImageNet at the start of every process would take minutes.
MAX_MEASURED = 100_000


def measure(name: str, training: ImageSet) -> ImageSpec:
    """The facts about a data set, from its training split alone.

    Raises UserError if a class never occurs in the split or a value is not finite.
    """
    frequencies = class_frequencies(name, training.labels, "images")
    mean, std = _moments(training)
    if not torch.isfinite(std).all():
        raise UserError(f"data: the training split of {name} holds values that are not finite")
    _, channels, height, width = training.images.shape
    return ImageSpec(
        name=name,
        identity=_identity(training),
        num_classes=len(frequencies),
        class_frequencies=frequencies,
        shape=(channels, height, width),
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
    )


def declared(name: str, shape: tuple[int, int, int], num_classes: int) -> ImageSpec:
    """Facts for planning, before any data is read: frequencies, mean and standard deviation are placeholders."""
    mean, std = (0.0,) * shape[0], (1.0,) * shape[0]
    return ImageSpec(name, "declared", num_classes, (1 / num_classes,) * num_classes, shape, mean, std)


def _identity(training: ImageSet) -> str:
    """A hash of number, shape and type of the images, of all labels and of the measured images."""
    digest = hashlib.sha256(f"{tuple(training.images.shape)} {training.images.dtype}".encode())
    digest.update(training.labels.numpy().tobytes())
    for images in _measured(training):
        digest.update(images.numpy().tobytes())
    return digest.hexdigest()


def _moments(training: ImageSet) -> tuple[Tensor, Tensor]:
    """[C] mean and [C] standard deviation, summed in float64."""
    count, total, squares = 0, torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for images in _measured(training):
        values = images.double()
        count += values[:, 0].numel()
        total = total + values.sum((0, 2, 3))
        squares = squares + values.square().sum((0, 2, 3))
    mean = total / count
    return mean, (squares / count - mean.square()).clamp(min=0).sqrt()


def _measured(training: ImageSet) -> Iterator[Tensor]:
    for indices in evenly_spaced(len(training), MAX_MEASURED).split(1_000):
        yield training.images[indices]
