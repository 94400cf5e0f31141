"""The classes that a user asks for."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dbl.utils.checks import check_number, shown
from dbl.utils.errors import UserError

Labels = int | Sequence[int] | Tensor | None


def labels_in_turn(labels: Labels, num_classes: int, num_images: int | None, name: str = "labels") -> Tensor:
    """[num_images] int64 classes, in turn; on the CPU.

    Raises UserError if there is no such class, or no image is asked for.

    Args:
        labels: one class, several, or None for all.
        num_classes: C.
        num_images: number of images; None: one for each of the labels.
        name: word for the labels in messages.
    """
    chosen = torch.arange(num_classes) if labels is None else _as_classes(labels, num_classes, name)
    num_images = len(chosen) if num_images is None else num_images
    check_number("num_images", num_images, at_least=1, whole=True)
    return chosen[torch.arange(num_images) % len(chosen)]


def _as_classes(labels: int | Sequence[int] | Tensor, num_classes: int, name: str) -> Tensor:
    refusal = UserError(f"{name} {shown(_listed(labels))}: there are classes 0 to {num_classes - 1}")
    try:
        found = torch.as_tensor(labels).cpu()
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise refusal from None
    found = found.reshape(1) if found.ndim == 0 else found
    is_whole = not found.is_floating_point() and not found.is_complex() and found.dtype != torch.bool
    if found.ndim != 1 or not len(found) or not is_whole or found.min() < 0 or found.max() >= num_classes:
        raise refusal
    return found.long()


def _listed(labels: int | Sequence[int] | Tensor) -> object:
    return labels.tolist() if isinstance(labels, Tensor) else labels
