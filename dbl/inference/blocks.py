"""The denoisers of an assembled network: all in memory, or loaded when they are needed."""

from collections.abc import Callable, Iterable
from typing import Self, cast

import torch
from torch import Tensor, nn
from typing_extensions import override

from dbl.denoising.denoiser import Denoiser
from dbl.inference.precision import parameters_alone, type_after


class Blocks(nn.ModuleDict):
    """The denoisers of a stack: some kept in memory, others loaded when needed, one at a time.

    Args:
        load: function that gives the denoiser of a block, ready for inference.
        kept: blocks that are loaded at once and kept.

    Attributes:
        dtype: type of the parameters, of blocks that are loaded later too.
    """

    def __init__(self, load: Callable[[int], Denoiser], kept: Iterable[int]) -> None:
        super().__init__({str(block): load(block) for block in kept})
        self._load = load
        self._active: tuple[int, Denoiser] | None = None  # in a tuple, so that it is no submodule
        # Follows `.to(device)`, also where no block is kept and the target space has no tensor.
        self._anchor: Tensor
        self.register_buffer("_anchor", torch.empty(0), persistent=False)
        self.dtype = torch.float32

    @property
    def device(self) -> torch.device:
        """The device that blocks are on, or are moved to."""
        return self._anchor.device

    def denoiser(self, block: int) -> Denoiser:
        """The denoiser of one block; one that is not kept replaces the last such one."""
        if str(block) in self:
            return cast(Denoiser, self[str(block)])
        # Texts are written in inference mode: parameters that are made in it serve nothing else.
        with torch.inference_mode(False):
            if self._active is None or self._active[0] != block:
                self._active = None  # free the last block before the next is loaded
                self._active = (block, self._load(block))
            # Its buffers stay as they are, whatever the type; see `dbl.inference.precision`.
            return self._active[1]._apply(parameters_alone(lambda tensor: tensor.to(self.device, self.dtype)))

    @override
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self.dtype = type_after(fn, self.dtype)
        return super()._apply(parameters_alone(fn), recurse)
