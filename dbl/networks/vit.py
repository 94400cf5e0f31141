"""ViT: the vision transformer as blocks that denoise a label vector, and as an end-to-end classifier."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor, nn
from typing_extensions import override

from dbl.data.spec import DataSpec, ImageSpec
from dbl.networks.architecture import NETWORK, Architecture, check_heads, check_sizes, count_patches
from dbl.networks.layers import Gelu, Layer, ModulatedHead, NoiseEmbedding, PatchEmbedding, initialise
from dbl.utils.checks import Number, check_choice, check_numbers


@dataclass(frozen=True)
class ViT(Architecture):
    """Sizes of a ViT; the input is an image and the target a vector that represents its label.

    Args:
        num_layers: number of layers of the whole network, L.
        width: token width, D.
        num_heads: number of attention heads.
        patch_size: side of a patch in pixels.
        mlp_width: hidden width of the MLP.
        dropout: dropout in every layer and on the tokens.
        conditioning_width: width of the vector that embeds the noise level; each layer projects its shifts,
            scales and gates from it, 6 `width` numbers. null: the token width; a narrow one saves parameters.
        gelu: exact, or approximated by a tanh, which is slower on a CPU.

    Example:
        >>> import dbl
        >>> data = dbl.Digits(batch_size=64, eval_batch_size=64)
        >>> config = dbl.ContractConfig(dbl.ViT(6, width=32, num_heads=2, patch_size=2), dbl.ClassTarget(dim=16))
        >>> config.build(data.spec).partition.layers
        (2, 2, 2)
    """

    num_layers: int = 12
    width: int = 128
    num_heads: int = 4
    patch_size: int = 4
    mlp_width: int = 512
    dropout: float = 0.1
    conditioning_width: int | None = None
    gelu: Gelu = "exact"

    def __post_init__(self) -> None:
        check_sizes(self)
        check_heads(self.width, self.num_heads)
        check_numbers(NETWORK, self, dropout=Number(at_least=0, below=1))
        check_choice(f"{NETWORK}.gelu", self.gelu, get_args(Gelu))

    @override
    def build(
        self, data: DataSpec, target_shape: tuple[int, ...], num_layers: int, table: Tensor | None = None
    ) -> "ViTNetwork":
        """Build one block; cond is an image [N, channels, height, width]."""
        dim = self.label_width(target_shape)
        return ViTNetwork(self, self.require(data, ImageSpec), dim, num_layers)

    def build_classifier(self, data: DataSpec) -> "ViTClassifier":
        """Build the end-to-end baseline: a classifier with all the layers."""
        return ViTClassifier(self, self.require(data, ImageSpec))


class PatchTokens(nn.Module):
    """A leading token followed by the patches of an image, with learned positions."""

    def __init__(self, sizes: ViT, data: ImageSpec) -> None:
        super().__init__()
        num_patches = count_patches(data, sizes.patch_size)
        self.patches = PatchEmbedding(data.shape[0], sizes.patch_size, sizes.width)
        self.positions = nn.Embedding(1 + num_patches, sizes.width)
        self.drop = nn.Dropout(sizes.dropout)

    def forward(self, leading: Tensor, images: Tensor) -> Tensor:
        """Leading token [N, D] and images [N, channels, height, width] -> [N, 1 + T, D]."""
        tokens = torch.cat([leading.unsqueeze(1), self.patches(images)], dim=1)  # N, 1 + T, D
        return self.drop(tokens + self.positions.weight)


class ViTNetwork(nn.Module):
    """One block of a ViT: a noisy label token beside the patches of the image it belongs to."""

    def __init__(self, sizes: ViT, data: ImageSpec, target_dim: int, num_layers: int) -> None:
        super().__init__()
        self.label_token = nn.Linear(target_dim, sizes.width)
        self.tokens = PatchTokens(sizes, data)
        cond_width = sizes.conditioning_width or sizes.width
        self.noise_embedding = NoiseEmbedding(cond_width)
        self.layers = nn.ModuleList(
            Layer(sizes.width, sizes.num_heads, sizes.mlp_width, sizes.dropout, cond_width, sizes.gelu)
            for _ in range(num_layers)
        )
        self.head = ModulatedHead(sizes.width, target_dim, cond_width)
        initialise(self)

    def forward(self, noisy: Tensor, c_noise: Tensor, cond: Tensor) -> Tensor:
        """Label vectors [N, target_dim] scaled by c_in, c_noise [N] and images -> [N, target_dim]."""
        x = self.tokens(self.label_token(noisy), cond)  # N, 1 + T, D
        vector = self.noise_embedding(c_noise)  # N, W
        for layer, num_queries in _with_queries(self.layers):
            x = layer(x, vector, num_queries=num_queries)
        return self.head(x, vector).squeeze(1)  # N, target_dim


class ViTClassifier(nn.Module):
    """The end-to-end ViT: a class token, L unmodulated layers, a linear head."""

    def __init__(self, sizes: ViT, data: ImageSpec) -> None:
        super().__init__()
        self.class_token = nn.Embedding(1, sizes.width)
        self.tokens = PatchTokens(sizes, data)
        self.layers = plain_layers(sizes)
        self.norm = nn.LayerNorm(sizes.width)
        self.head = nn.Linear(sizes.width, data.num_classes)
        initialise(self)

    def first_tokens(self, images: Tensor) -> Tensor:
        """[N, channels, height, width] -> class token and patches [N, 1 + T, D]."""
        tokens: Tensor = self.tokens(self.class_token.weight.expand(len(images), -1), images)
        return tokens

    def forward(self, images: Tensor) -> Tensor:
        """[N, channels, height, width] -> logits [N, C]."""
        x = self.first_tokens(images)
        for layer, num_queries in _with_queries(self.layers):
            x = layer(x, num_queries=num_queries)
        return self.head(self.norm(x[:, 0]))  # N, C


def plain_layers(sizes: ViT) -> nn.ModuleList:
    """All layers of a ViT, without modulation."""
    return nn.ModuleList(
        Layer(sizes.width, sizes.num_heads, sizes.mlp_width, sizes.dropout, gelu=sizes.gelu)
        for _ in range(sizes.num_layers)
    )


def _with_queries(layers: nn.ModuleList) -> Iterator[tuple[nn.Module, int | None]]:
    """Each layer with its `num_queries`: of the last one, only the leading token is read."""
    for index, layer in enumerate(layers, 1):
        yield layer, 1 if index == len(layers) else None
