"""Grids of images."""

from pathlib import Path

import torch
from torch import Tensor

from dbl.data.spec import ImageSpec
from dbl.utils.checks import check_number
from dbl.utils.errors import UserError
from dbl.utils.files import replacing


def image_grid(images: Tensor, data: ImageSpec | None = None, num_columns: int = 10) -> Tensor:
    """One picture of many images, row by row. Small images are enlarged by whole factors.

    Raises UserError if the images are no pixels, and `data` does not say what they are.

    Args:
        images: [N, 1 or 3, height, width] pixels, floats from 0 (black) to 1 as `BlockStack.generate` gives them, or
            uint8; with `data`, raw images of this data set. Of latents the first three channels are shown, each scaled
            to its measured mean and 2.5 standard deviations.
        data: facts about the data set of raw images; None for pixels.
        num_columns: images in a row, at most.

    Returns:
        [3, H, W] uint8, for `save_picture` or `torchvision.io.write_png`.

    Example:
        >>> import dbl, torch
        >>> picture = dbl.image_grid(torch.rand(6, 3, 32, 32), num_columns=3)
        >>> picture.shape, picture.dtype
        (torch.Size([3, 70, 104]), torch.uint8)
        >>> from torchvision.transforms.functional import to_pil_image
        >>> to_pil_image(picture).save("grid.png")  # a notebook shows what `to_pil_image` gives
    """
    from torchvision.utils import make_grid

    check_number("num_columns", num_columns, at_least=1, whole=True)
    images = _pixels(images) if data is None else _shown(images, data)
    factor = max(1, 48 // images.shape[-1])
    large = images.repeat_interleave(factor, dim=-2).repeat_interleave(factor, dim=-1)
    grid = make_grid(large.float().clamp(0, 255), nrow=num_columns, padding=2, pad_value=128)
    return grid.round().to(torch.uint8)


def _pixels(images: Tensor) -> Tensor:
    """Pixels from 0 to 255."""
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not len(images):
        raise UserError(f"images {list(images.shape)} must be [N, 1 or 3, height, width]; of others give `data` too")
    return images if images.dtype == torch.uint8 else images.float() * 255


def _shown(images: Tensor, data: ImageSpec) -> Tensor:
    """Pixels from 0 to 255 that stand for raw values."""
    if images.shape[1] in (1, 3):
        return images
    mean, std = (torch.tensor(values, device=images.device)[:3, None, None] for values in (data.mean, data.std))
    scaled = ((images[:, :3] - mean) / (2.5 * std) + 1) * 127.5
    return scaled if scaled.shape[1] == 3 else scaled[:, :1]


def save_picture(picture: Tensor, path: Path) -> None:
    """Write a picture [1 or 3, H, W] of type uint8 as PNG."""
    from torchvision.io import write_png

    with replacing(path) as temporary:
        write_png(picture.cpu(), str(temporary))
