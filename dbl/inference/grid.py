"""Grids of images."""

from pathlib import Path

import torch
from torch import Tensor

from dbl.data.spec import ImageSpec
from dbl.utils.files import replacing


def image_grid(images: Tensor, data: ImageSpec, num_columns: int) -> Tensor:
    """One picture [1 or 3, H, W] of type uint8 from raw images [N, channels, height, width], row by row.

    Images of 1 or 3 channels are taken as pixels from 0 to 255. Of latents the first three channels are shown, each
    scaled to its measured mean and 2.5 standard deviations. Small images are enlarged by whole factors.
    """
    from torchvision.utils import make_grid

    if images.shape[1] not in (1, 3):
        mean, std = (torch.tensor(values, device=images.device)[:3, None, None] for values in (data.mean, data.std))
        scaled = ((images[:, :3] - mean) / (2.5 * std) + 1) * 127.5
        images = scaled if scaled.shape[1] == 3 else scaled[:, :1]
    factor = max(1, 48 // images.shape[-1])
    large = images.repeat_interleave(factor, dim=-2).repeat_interleave(factor, dim=-1)
    grid = make_grid(large.float().clamp(0, 255), nrow=num_columns, padding=2, pad_value=128)
    return grid.round().to(torch.uint8)


def save_picture(picture: Tensor, path: Path) -> None:
    """Write a picture [1 or 3, H, W] of type uint8 as PNG."""
    from torchvision.io import write_png

    with replacing(path) as temporary:
        write_png(picture.cpu(), str(temporary))
