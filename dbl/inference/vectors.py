"""Vectors of users as a network takes them."""

from typing import Any

import torch
from torch import Tensor

from dbl.data.spec import VectorSpec
from dbl.utils.errors import UserError, reason_of


def to_vectors(vectors: Any, data: VectorSpec) -> Tensor:
    """Raw vectors [N, F] float32, of what `torch.as_tensor` makes a tensor of.

    Raises UserError unless there is at least one, and all are finite and have the features of the data's.
    """
    try:
        tensor = torch.as_tensor(vectors).float()
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"vectors must be a tensor or an array of numbers ({reason_of(error)})") from None
    if tensor.ndim != 2 or tensor.shape[1] != data.num_features or not len(tensor):
        one = "; one vector needs an axis more, vector[None]" if tensor.shape == (data.num_features,) else ""
        raise UserError(
            f"vectors have the shape {list(tensor.shape)}, but must have [N, {data.num_features}], as those of "
            f"{data.name}{one}"
        )
    if not tensor.isfinite().all():
        raise UserError("vectors have values that are NaN or infinite")
    return tensor
