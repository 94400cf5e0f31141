"""ViT: the vision transformer, as blocks that denoise a label vector and as the end-to-end classifier beside them."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dbl.data.spec import DataSpec, ImageSpec
from dbl.networks.architecture import Architecture, check_heads, count_patches
from dbl.networks.layers import Layer, ModulatedHead, ModulatedLayer, NoiseEmbedding, PatchEmbedding, initialise
from dbl.utils.errors import UserError


@dataclass(frozen=True)
class ViT(Architecture):
    """Sizes of a ViT; the input is an image and the target a vector that stands for its label.

    Args:
        num_layers: L, of the whole network.
        width: D of every token.
        num_heads: attention heads.
        patch_size: pixels of a patch's side.
        mlp_width: width inside the MLP.
        dropout: in every layer and on the tokens.

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

    def __post_init__(self) -> None:
        check_heads(self.width, self.num_heads)
        if not 0 <= self.dropout < 1:
            raise UserError(f"network.dropout ({self.dropout}) must lie in [0, 1)")

    def build(
        self, data: DataSpec, target_shape: tuple[int, ...], num_layers: int, table: Tensor | None = None
    ) -> "ViTNetwork":
        """See `Architecture.build`; cond is an image [N, channels, height, width]."""
        if len(target_shape) != 1:
            raise UserError("network ViT denoises label vectors: use it with the target dbl.ClassTarget")
        return ViTNetwork(self, self.require(data, ImageSpec), target_shape[0], num_layers)

    def build_classifier(self, data: DataSpec) -> "ViTClassifier":
        """The same number of layers as one end-to-end classifier, for the baseline."""
        return ViTClassifier(self, self.require(data, ImageSpec))


class PatchTokens(nn.Module):
    """The tokens of an image behind one leading token, with learned positions.

    Args:
        sizes: of the ViT.
        data: shape of the images.
    """

    def __init__(self, sizes: ViT, data: ImageSpec) -> None:
        super().__init__()
        num_patches = count_patches(data, sizes.patch_size)
        self.patches = PatchEmbedding(data.shape[0], sizes.patch_size, sizes.width)
        self.positions = nn.Embedding(1 + num_patches, sizes.width)
        self.drop = nn.Dropout(sizes.dropout)

    def forward(self, leading: Tensor, images: Tensor) -> Tensor:
        """Leading token [N, D] and images [N, channels, height, width] -> [N, 1 + T, D]."""
        tokens = torch.cat([leading.unsqueeze(1), self.patches(images)], dim=1)
        out: Tensor = self.drop(tokens + self.positions.weight)
        return out


class ViTNetwork(nn.Module):
    """The network of one block: a noisy label token beside the patches of the image it belongs to.

    Args:
        sizes: of the whole ViT.
        data: shape of the images.
        target_dim: length of the label vector.
        num_layers: layers of this block.
    """

    def __init__(self, sizes: ViT, data: ImageSpec, target_dim: int, num_layers: int) -> None:
        super().__init__()
        self.label_token = nn.Linear(target_dim, sizes.width)
        self.tokens = PatchTokens(sizes, data)
        self.noise_embedding = NoiseEmbedding(sizes.width)
        self.layers = nn.ModuleList(
            ModulatedLayer(sizes.width, sizes.num_heads, sizes.mlp_width, sizes.dropout) for _ in range(num_layers)
        )
        self.head = ModulatedHead(sizes.width, target_dim)
        initialise(self)

    def forward(self, noisy: Tensor, c_noise: Tensor, cond: Tensor) -> Tensor:
        """Noisy label vectors [N, target_dim], scaled by c_in; c_noise [N]; images -> [N, target_dim]."""
        x = self.tokens(self.label_token(noisy), cond)  # N, 1 + T, D
        vector = self.noise_embedding(c_noise)  # N, D
        for layer in self.layers:
            x = layer(x, vector)
        out: Tensor = self.head(x[:, :1], vector)
        return out.squeeze(1)


class ViTClassifier(nn.Module):
    """The end-to-end ViT: a class token, L ordinary layers, a linear head.

    Args:
        sizes: of the ViT.
        data: shape of the images and number of classes.
    """

    def __init__(self, sizes: ViT, data: ImageSpec) -> None:
        super().__init__()
        self.class_token = nn.Embedding(1, sizes.width)
        self.tokens = PatchTokens(sizes, data)
        self.layers = nn.Sequential(
            *(Layer(sizes.width, sizes.num_heads, sizes.mlp_width, sizes.dropout) for _ in range(sizes.num_layers))
        )
        self.norm = nn.LayerNorm(sizes.width)
        self.head = nn.Linear(sizes.width, data.num_classes)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """[N, channels, height, width] -> logits [N, C]."""
        x = self.layers(self.tokens(self.class_token.weight.expand(len(images), -1), images))
        logits: Tensor = self.head(self.norm(x[:, 0]))
        return logits
