"""Cross-entropy and other functions of logits over a large vocabulary, without all the logits in memory.

The logits of one row, that is of one label or token, depend on that row alone. So rows are taken a chunk at a time, and
the logits of a chunk are dropped as soon as they are used; the backward pass makes them again. A vocabulary of bytes,
characters or classes fits into one chunk, which is computed as if there were no chunks.

Axes: R rows, C classes or tokens, D features.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from dbl.data.spec import IGNORED

# Logits of a chunk: at most so many (64 MiB in float32), or as many numbers as the features of all rows have, since a
# chunk of their size never dominates memory.
_MAX_LOGITS = 2**24


def in_chunks(function: Callable[..., Tensor], num_classes: int, *rows: Tensor) -> Tensor:
    """Apply a function that makes logits [R, C] to rows, chunk by chunk if there are many.

    Args:
        function: map from rows to a tensor [R, ...] that is smaller than the logits; row by row.
        num_classes: size C of the vocabulary.
        rows: arguments of the function, [R, ...] each; the features come first.

    Returns:
        [R, ...], differentiable.
    """
    if in_one_chunk(num_classes, rows[0]):
        return function(*rows)
    chunk = _rows_of_chunk(num_classes, rows[0])
    if torch.is_grad_enabled():
        function = partial(checkpoint, function, use_reentrant=False, preserve_rng_state=False)
    parts = zip(*(tensor.split(chunk) for tensor in rows), strict=True)
    return torch.cat([function(*part) for part in parts])


def in_one_chunk(num_classes: int, features: Tensor) -> bool:
    """Whether the logits of all features [R, D] are made at once."""
    return len(features) <= _rows_of_chunk(num_classes, features)


def _rows_of_chunk(num_classes: int, features: Tensor) -> int:
    return max(max(_MAX_LOGITS, features.numel()) // num_classes, 1)


def project(linear: nn.Linear, features: Tensor) -> Tensor:
    """Logits [..., C] in float32 of features [..., D], multiplied in the precision of the features.

    The weights are cast here rather than by autocast, which would add up the gradients of all chunks in low precision.
    """
    bias = None if linear.bias is None else linear.bias.to(features.dtype)
    return F.linear(features, linear.weight.to(features.dtype), bias).float()


def without_autocast(tensor: Tensor) -> AbstractContextManager[object]:
    """The context in which what surrounds a network computes in float32, on the device of a tensor.

    Nothing where autocast is off: an exported program would keep each such region as an operator of its own.
    """
    device = tensor.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def in_network_precision(features: Tensor) -> Tensor:
    """Features in the precision in which autocast, if it is on, would multiply them."""
    device = features.device.type
    return features.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else features


def label_nats(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each label, 0 where nothing is scored; logits [N, C] or [N, T, C], labels [N] or [N, T]."""
    nats = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none", ignore_index=IGNORED)
    return nats.reshape(labels.shape)


def linear_label_nats(linear: nn.Linear, features: Tensor, labels: Tensor) -> Tensor:
    """`label_nats` of the logits that a linear layer reads from features [N, D] or [N, T, D]."""

    def nats(features: Tensor, labels: Tensor) -> Tensor:
        return label_nats(project(linear, features), labels)

    with without_autocast(features):
        return in_chunks(nats, linear.out_features, features.flatten(0, -2), labels.flatten()).reshape(labels.shape)


@contextmanager
def exact_evaluation() -> Iterator[None]:
    """Multiply float32 matrices without TF32 where no gradient is recorded: in evaluation and sampling.

    TF32 changes the evidence of a noisy target by up to 1e-2 nats. In training that is less than the rounding of the
    network's own logits; a likelihood is reported to more digits.
    """
    before = torch.get_float32_matmul_precision()
    exact = not torch.is_grad_enabled() and before != "highest"
    if exact:
        torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        if exact:
            torch.set_float32_matmul_precision(before)
