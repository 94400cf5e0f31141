"""DiT: the diffusion transformer for images (Peebles and Xie 2022, arXiv 2212.09748), built one block at a time."""

from dataclasses import dataclass, replace
from typing import Any, get_args

import torch
from torch import Tensor, nn
from typing_extensions import override

from dbl.data.spec import DataSpec, ImageSpec
from dbl.networks.architecture import NETWORK, Architecture, check_heads, check_sizes, count_patches
from dbl.networks.layers import (
    Gelu,
    Layer,
    ModulatedHead,
    NoiseEmbedding,
    PatchEmbedding,
    initialise,
    sincos_positions,
    unpatchify,
)
from dbl.utils.checks import Number, check_choice, check_numbers
from dbl.utils.errors import UserError

# Layers, width, heads (DiT, Table 1).
_SIZES = {"S": (12, 384, 6), "B": (12, 768, 12), "L": (24, 1024, 16), "XL": (28, 1152, 16)}
_PATCHES = (2, 4, 8)


@dataclass(frozen=True)
class DiT(Architecture):
    """Sizes of a DiT; the target and the input are the same image.

    Args:
        num_layers: number of layers of the whole network, L.
        width: token width, D.
        num_heads: number of attention heads.
        patch_size: side of a patch in pixels.
        mlp_ratio: hidden width of the MLP in units of `width`.
        cond_dropout: fraction of labels replaced by "no class" in training, for classifier-free guidance.
        conditioning_width: width of the vector that embeds the noise level and the label; each layer projects its
            shifts, scales and gates from it, 6 `width` numbers. null: the token width; a narrow one saves parameters.
        gelu: approximated by a tanh, as in the paper, or exact, which is faster on a CPU.

    Example:
        >>> import dbl
        >>> data = dbl.Digits(batch_size=64, eval_batch_size=64)
        >>> config = dbl.ContractConfig(dbl.DiT(6, width=32, num_heads=2), dbl.PixelTarget())
        >>> block = dbl.DiffusionBlock(config.build(data.spec), block=0)
        >>> len(block.backbone.layers)
        2
    """

    num_layers: int = 12
    width: int = 384
    num_heads: int = 6
    patch_size: int = 2
    mlp_ratio: float = 4.0
    cond_dropout: float = 0.1
    conditioning_width: int | None = None
    gelu: Gelu = "tanh"

    def __post_init__(self) -> None:
        check_sizes(self)
        check_heads(self.width, self.num_heads)
        # At least one hidden unit.
        mlp_ratio = Number(at_least=1 / self.width, at_most=1000)
        check_numbers(NETWORK, self, mlp_ratio=mlp_ratio, cond_dropout=Number(at_least=0, below=1))
        check_choice(f"{NETWORK}.gelu", self.gelu, get_args(Gelu))

    @classmethod
    def preset(cls, name: str, **changes: Any) -> "DiT":
        """Published size such as `"S/2"`: S, B, L or XL with patch size 2, 4 or 8; `changes` override fields."""
        size, _, patch = name.partition("/")
        if size not in _SIZES or patch not in map(str, _PATCHES):
            raise UserError(
                f"there is no DiT preset {name!r}: choose {', '.join(_SIZES)} and /2, /4 or /8, such as S/2"
            )
        num_layers, width, num_heads = _SIZES[size]
        return replace(cls(num_layers=num_layers, width=width, num_heads=num_heads, patch_size=int(patch)), **changes)

    @override
    def build(
        self, data: DataSpec, target_shape: tuple[int, ...], num_layers: int, table: Tensor | None = None
    ) -> "DiTNetwork":
        """Build one block; cond is a class label [N], with C for "no class"."""
        images = self.require(data, ImageSpec)
        if tuple(target_shape) != images.shape:
            raise UserError("network DiT denoises images: use it with the target dbl.PixelTarget")
        count_patches(images, self.patch_size)
        return DiTNetwork(self, images, num_layers)


class DiTNetwork(nn.Module):
    """One block of a DiT, with `num_layers` of its layers."""

    def __init__(self, sizes: DiT, data: ImageSpec, num_layers: int) -> None:
        super().__init__()
        self.shape = data.shape
        self.patch_size = sizes.patch_size
        self.num_classes = data.num_classes
        self.cond_dropout = sizes.cond_dropout
        channels, height, width = data.shape
        self.patches = PatchEmbedding(channels, sizes.patch_size, sizes.width)
        positions = sincos_positions(height // sizes.patch_size, width // sizes.patch_size, sizes.width)
        self.positions = nn.Buffer(positions, persistent=False)  # T, D
        cond_width = sizes.conditioning_width or sizes.width
        self.noise_embedding = NoiseEmbedding(cond_width)
        self.label_embedding = nn.Embedding(data.num_classes + 1, cond_width)
        hidden = int(sizes.mlp_ratio * sizes.width)
        self.layers = nn.ModuleList(
            Layer(sizes.width, sizes.num_heads, hidden, cond_width=cond_width, gelu=sizes.gelu)
            for _ in range(num_layers)
        )
        self.head = ModulatedHead(sizes.width, channels * sizes.patch_size**2, cond_width)
        initialise(self)
        # With F = 0 the untrained denoiser returns c_skip z, the best linear guess.
        nn.init.zeros_(self.head.project.weight)

    def forward(self, noisy: Tensor, c_noise: Tensor, cond: Tensor) -> Tensor:
        """Images [N, channels, height, width] scaled by c_in, c_noise [N] and labels [N] -> shape of the images."""
        x = self.patches(noisy) + self.positions  # N, T, D
        vector = self.noise_embedding(c_noise) + self.label_embedding(self._drop_labels(cond))  # N, W
        for layer in self.layers:
            x = layer(x, vector)  # N, T, D
        return unpatchify(self.head(x, vector), self.shape, self.patch_size)  # N, channels, height, width

    def _drop_labels(self, labels: Tensor) -> Tensor:
        """In training, replace each label by "no class" with probability `cond_dropout`."""
        if not self.training or self.cond_dropout == 0:
            return labels
        dropped = torch.rand(labels.shape, device=labels.device) < self.cond_dropout
        return labels.masked_fill(dropped, self.num_classes)
