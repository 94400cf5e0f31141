"""Images of users and images of a data set: pixels in [0, 1], or as uint8, and the raw values that a network knows.

Axes: N images, C channels, H rows, W columns.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dbl.data.images.decode import fitted
from dbl.data.spec import ImageSpec, white_value
from dbl.utils.errors import UserError, reason_of

_TOLERANCE = 1e-3  # of values at the ends of [0, 1]


def to_unit(raw: Tensor, data: ImageSpec) -> Tensor:
    """Raw images [N,C,H,W] as pixels in [0, 1], float32; raw values as they are where they are no pixels."""
    white = white_value(data)
    return raw.float() if white is None else (raw.float() / white).clamp(0, 1)


def to_raw(images: Any, data: ImageSpec) -> Tensor:
    """The raw values, float32, of images: pictures of Pillow, or [N,C,H,W] that `torch.as_tensor` makes a tensor of.

    Pictures may have any size and colours: they are resized and cut as `dbl.HubImages` does it. Raises UserError unless
    the others are uint8 pixels from 0 to 255 or floats from 0 to 1, of the size of the data's; of data without pixels,
    finite floats.
    """
    pictures = images if isinstance(images, list | tuple) else [images]
    try:
        is_pictures = bool(pictures) and all(type(one).__module__.startswith("PIL.") for one in pictures)
        tensor = _of_pictures(pictures, data) if is_pictures else torch.as_tensor(images)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"images must be a tensor or an array of numbers ({reason_of(error)})") from None
    _check_shape(tensor, data)
    white = white_value(data)
    if tensor.dtype == torch.uint8 and white is not None:
        return tensor.float() * (white / 255)
    if not tensor.is_floating_point():
        pixels = "" if white is None else "uint8, from 0 to 255, or "
        raise UserError(f"images are {_name(tensor.dtype)}, but must be {pixels}of a float type")
    tensor = tensor.float()
    if not tensor.isfinite().all():
        raise UserError("images have values that are NaN or infinite")
    if white is None:
        return tensor
    low, high = tensor.min().item(), tensor.max().item()
    if low < -_TOLERANCE or high > 1 + _TOLERANCE:
        raise UserError(
            f"images have values from {low:.4g} to {high:.4g}: give floats from 0 to 1, or pixels from 0 to 255 as "
            "uint8, without any normalisation"
        )
    return tensor * white


def _of_pictures(pictures: Sequence[Any], data: ImageSpec) -> Tensor:
    """[N,C,H,W] uint8."""
    channels, height, width = data.shape
    if height != width or white_value(data) is None:
        raise UserError(f"images must be a tensor: those of {data.name} are no square pictures")
    pixels = [torch.from_numpy(fitted(one, channels, height).copy()) for one in pictures]
    return torch.stack(pixels).permute(0, 3, 1, 2)


def _check_shape(images: Tensor, data: ImageSpec) -> None:
    wanted = f"[N, {', '.join(map(str, data.shape))}]"
    if images.ndim != 4 or images.shape[1:] != data.shape:
        found = list(images.shape)
        one = "; one image needs an axis more, image[None]" if tuple(found) == data.shape else ""
        raise UserError(f"images have the shape {found}, but must have {wanted}, as those of {data.name}{one}")
    if not len(images):
        raise UserError(f"there is no image: give at least one, {wanted}")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
