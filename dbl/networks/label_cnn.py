"""A convolutional network for label vectors, after that of NoProp (arXiv 2503.24322), and as an end-to-end classifier.

A layer is a whole small network: convolutions that read the image, two linear layers that read the noisy label vector,
and two that read both. So a block sees the image through its own convolutions alone.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from typing_extensions import override

from dbl.data.spec import DataSpec, ImageSpec
from dbl.networks.architecture import NETWORK, Architecture, check_sizes
from dbl.networks.layers import NoiseEmbedding
from dbl.utils.checks import Number, check_numbers
from dbl.utils.errors import UserError

_CHANNELS = (32, 64, 128)
_LEVEL_WIDTH = 64  # of the embedded noise level


@dataclass(frozen=True)
class LabelCNN(Architecture):
    """Sizes of a chain of small convolutional networks, each of which refines a label vector.

    Args:
        num_layers: number of these networks in the whole chain, L.
        width: width of the features of image and label.
        dropout: dropout of the image features.

    Example:
        >>> import dbl
        >>> data = dbl.Digits(batch_size=64, eval_batch_size=64)
        >>> config = dbl.ContractConfig(dbl.LabelCNN(3), dbl.ClassTarget(dim=16))
        >>> config.build(data.spec).partition.layers
        (1, 1, 1)
    """

    num_layers: int = 10
    width: int = 256
    dropout: float = 0.2

    def __post_init__(self) -> None:
        check_sizes(self)
        check_numbers(NETWORK, self, dropout=Number(at_least=0, below=1))

    @override
    def build(
        self, data: DataSpec, target_shape: tuple[int, ...], num_layers: int, table: Tensor | None = None
    ) -> "LabelCNNNetwork":
        """Build one block; cond is an image [N, channels, height, width]."""
        dim = self.label_width(target_shape)
        return LabelCNNNetwork(self, self.require(data, ImageSpec), dim, num_layers)

    def build_classifier(self, data: DataSpec) -> "LabelCNNClassifier":
        """Build the end-to-end baseline: a classifier with all the layers."""
        return LabelCNNClassifier(self, self.require(data, ImageSpec))


class LabelLayer(nn.Module):
    """One of the small networks: an image and a vector give a change of that vector."""

    def __init__(self, sizes: LabelCNN, data: ImageSpec, target_dim: int) -> None:
        super().__init__()
        channels, height, width = data.shape
        if min(height, width) < 2 ** len(_CHANNELS):
            raise UserError(f"network LabelCNN halves images {len(_CHANNELS)} times: {height} x {width} is too small")
        convolutions: list[nn.Module] = []
        for before, after in zip((channels, *_CHANNELS), _CHANNELS, strict=False):
            convolutions += [nn.Conv2d(before, after, kernel_size=3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        pixels = (height >> len(_CHANNELS)) * (width >> len(_CHANNELS))
        flat = nn.Linear(_CHANNELS[-1] * pixels, sizes.width)
        self.of_image = nn.Sequential(*convolutions, nn.Dropout(sizes.dropout), nn.Flatten(), flat, nn.ReLU())
        self.of_vector = nn.Sequential(nn.Linear(target_dim, sizes.width), nn.ReLU())
        self.again = nn.Sequential(nn.Linear(sizes.width, sizes.width), nn.ReLU())
        both = 2 * sizes.width + _LEVEL_WIDTH
        self.of_both = nn.Sequential(nn.Linear(both, sizes.width), nn.ReLU(), nn.Linear(sizes.width, target_dim))

    def forward(self, vector: Tensor, level: Tensor, images: Tensor) -> Tensor:
        """Vector [N, D], embedded level [N, 64] and images [N, channels, height, width] -> [N, D]."""
        features = self.of_vector(vector)
        features = features + self.again(features)
        both: Tensor = self.of_both(torch.cat([self.of_image(images), features, level], dim=1))
        return both


class LabelCNNNetwork(nn.Module):
    """One block of the chain."""

    def __init__(self, sizes: LabelCNN, data: ImageSpec, target_dim: int, num_layers: int) -> None:
        super().__init__()
        self.noise_embedding = NoiseEmbedding(_LEVEL_WIDTH)
        self.layers = nn.ModuleList(LabelLayer(sizes, data, target_dim) for _ in range(num_layers))

    def forward(self, noisy: Tensor, c_noise: Tensor, cond: Tensor) -> Tensor:
        """Label vectors [N, D] scaled by c_in, c_noise [N] and images -> [N, D]."""
        level = self.noise_embedding(c_noise)
        change = torch.zeros_like(noisy)
        for layer in self.layers:
            change = change + layer(noisy + change, level, cond)
        return change


class LabelCNNClassifier(nn.Module):
    """The whole chain, from a learned vector to logits."""

    def __init__(self, sizes: LabelCNN, data: ImageSpec) -> None:
        super().__init__()
        self.start = nn.Embedding(1, data.num_classes)
        self.layers = nn.ModuleList(LabelLayer(sizes, data, data.num_classes) for _ in range(sizes.num_layers))

    def forward(self, images: Tensor) -> Tensor:
        """[N, channels, height, width] -> logits [N, C]."""
        logits = self.start.weight.expand(len(images), -1)
        level = logits.new_zeros(len(images), _LEVEL_WIDTH)
        for layer in self.layers:
            logits = logits + layer(logits, level, images)
        return logits
