"""What a network must offer to be trained in blocks."""

from abc import ABC, abstractmethod

from torch import nn

from dbl.data_spec import DataSpec
from dbl.errors import UserError


class Architecture(ABC):
    """The sizes of a residual network that can be cut into blocks.

    A subclass is a frozen dataclass: its fields are what a config may set, what the contract records and all that the
    network depends on, beside the data.
    """

    num_layers: int

    @abstractmethod
    def build(self, data: DataSpec, target_shape: tuple[int, ...], num_layers: int) -> nn.Module:
        """The network of one block: its own stem, `num_layers` layers and its own head.

        Args:
            data: shape of the inputs and number of classes.
            target_shape: of one clean target, without the batch axis.
            num_layers: layers of this block.

        Returns:
            A module with `forward(noisy [N, *target_shape], c_noise [N], cond) -> [N, *target_shape]`. Its residual
            layers stand in an `nn.ModuleList` named `layers` if activation checkpointing is to work.

        Raises:
            UserError: if the sizes do not fit the data.
        """

    def check_patches(self, data: DataSpec, patch_size: int) -> int:
        """The number of patches of one input, or UserError if they do not tile it."""
        _, height, width = data.shape
        if patch_size < 1 or height % patch_size or width % patch_size:
            raise UserError(f"network.patch_size ({patch_size}) must divide the image size {height} x {width}")
        return (height // patch_size) * (width // patch_size)


def check_heads(width: int, num_heads: int) -> None:
    """Raise UserError unless the width splits into heads and into the four parts of a position."""
    if num_heads < 1 or width < 1 or width % num_heads or width % 4:
        raise UserError(f"network.width ({width}) must be a multiple of 4 and of network.num_heads ({num_heads})")
