"""What is measured of a training split before training: identity, frequencies, mean and standard deviation."""

import hashlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from dbl.data.encode import EncodedText
from dbl.data.images import ImageSet
from dbl.data.splits import evenly_spaced
from dbl.data.tokenizer import Tokenizer
from dbl.data.tokens import Tokens
from dbl.data_spec import ImageSpec, TextSpec
from dbl.errors import UserError

# Of a larger split this many images, evenly spaced, are read for identity, mean and standard deviation: to read all of
# ImageNet at the start of every process would take minutes.
MAX_MEASURED = 100_000
# Of a larger text this many tokens, in evenly spaced runs, are read for identity and frequencies.
MAX_MEASURED_TOKENS, RUN_TOKENS = 2**26, 2**16


def measure(name: str, training: ImageSet) -> ImageSpec:
    """The facts about a data set, from its training split alone.

    Raises:
        UserError: if a class never occurs in the split or a value is not finite.
    """
    frequencies = _frequencies(name, training.labels)
    mean, std = _moments(training)
    if not torch.isfinite(std).all():
        raise UserError(f"data: the training split of {name} holds values that are not finite")
    _, channels, height, width = training.images.shape
    return ImageSpec(
        name=name,
        identity=_identity(training),
        shape=(channels, height, width),
        num_classes=len(frequencies),
        class_frequencies=tuple(frequencies.tolist()),
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
    )


def declared(name: str, shape: tuple[int, int, int], num_classes: int) -> ImageSpec:
    """Facts for planning, before any data is there: shape and classes are true, frequencies and statistics stand in."""
    channels = shape[0]
    return ImageSpec(
        name, "declared", num_classes, (1 / num_classes,) * num_classes, shape, (0.0,) * channels, (1.0,) * channels
    )


def _frequencies(name: str, labels: Tensor) -> Tensor:
    """[C] shares of the classes 0 to the largest label."""
    counts = labels.bincount()
    missing = (counts == 0).nonzero().flatten().tolist()
    if missing:
        # Frequency 0 would leave a class without a target, and an invented frequency would be untrue.
        raise UserError(
            f"data: the training split of {name} has no image of class {missing[0]}; number classes without gaps"
        )
    return counts.double() / len(labels)


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


def measure_text(
    name: str, text: EncodedText, num_training: int, tokenizer: Tokenizer, packing: str, seq_len: int
) -> TextSpec:
    """The facts about a text, from its training tokens alone.

    Each token is counted once more than it occurs: one that only other splits hold must not have frequency 0.

    Args:
        name: for people.
        text: that begins with the training tokens.
        num_training: training tokens.
        tokenizer: that encoded them.
        packing: how sequences are cut; changes the identity.
        seq_len: T.
    """
    digest = hashlib.sha256(f"{num_training} {packing} {tokenizer.identity}".encode())
    digest.update(text.ends[text.ends <= num_training].numpy().tobytes())
    counts = np.ones(tokenizer.vocab_size, np.int64)
    for tokens in _measured_tokens(text.tokens, num_training):
        digest.update(tokens.tobytes())
        counts += np.bincount(tokens, minlength=len(counts))
    frequencies = tuple((counts / counts.sum()).tolist())
    return TextSpec(name, digest.hexdigest(), len(counts), frequencies, seq_len, tokenizer.identity)


def declared_text(name: str, tokenizer: Tokenizer, seq_len: int) -> TextSpec:
    """Facts for planning, before any text is read: uniform frequencies stand in."""
    size = tokenizer.vocab_size
    return TextSpec(name, "declared", size, (1 / size,) * size, seq_len, tokenizer.identity)


def _measured_tokens(tokens: Tokens, num: int) -> Iterator[np.ndarray]:
    """The first `num` tokens, or evenly spaced runs of a longer row."""
    num_runs = -(-num // RUN_TOKENS)
    for run in evenly_spaced(num_runs, MAX_MEASURED_TOKENS // RUN_TOKENS).tolist():
        yield tokens[np.arange(run * RUN_TOKENS, min(num, (run + 1) * RUN_TOKENS))]
