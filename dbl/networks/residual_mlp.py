"""A residual MLP for vectors: as blocks that denoise a label vector, and as an end-to-end classifier.

Axes: N batch, D width, W width of a conditioning vector. A vector is a sequence of one token [N, 1, D], so that the
parts of the transformers serve it.
"""

from dataclasses import dataclass

from torch import Tensor, nn
from typing_extensions import override

from dbl.data.spec import DataSpec, VectorSpec
from dbl.networks.architecture import NETWORK, Architecture, check_sizes
from dbl.networks.layers import ModulatedHead, Modulation, NoiseEmbedding, feed_forward, initialise, modulate
from dbl.utils.checks import Number, check_numbers


@dataclass(frozen=True)
class ResidualMLP(Architecture):
    """Sizes of a residual MLP; the input is a vector of numbers and the target a vector that represents its label.

    A layer is a norm and a two-layer MLP, added to its input, as in the MLP half of a transformer layer.

    Args:
        num_layers: number of layers of the whole network, L.
        width: width of the residual stream, D.
        mlp_width: hidden width of the MLP of a layer.
        dropout: dropout of the output of each layer.
        conditioning_width: width of the vector that embeds the noise level; each layer projects its shift, scale and
            gate from it, 3 `width` numbers. null: the width of the residual stream.

    Example:
        >>> import dbl
        >>> data = dbl.Wine(batch_size=32, eval_batch_size=64)
        >>> config = dbl.ContractConfig(dbl.ResidualMLP(6, width=32), dbl.ClassTarget(dim=4))
        >>> config.build(data.spec).partition.layers
        (2, 2, 2)
    """

    num_layers: int = 6
    width: int = 64
    mlp_width: int = 128
    dropout: float = 0.1
    conditioning_width: int | None = None

    def __post_init__(self) -> None:
        check_sizes(self)
        check_numbers(NETWORK, self, dropout=Number(at_least=0, below=1))

    @override
    def build(
        self, data: DataSpec, target_shape: tuple[int, ...], num_layers: int, table: Tensor | None = None
    ) -> "MLPNetwork":
        """Build one block; cond is a vector [N, features]."""
        dim = self.label_width(target_shape)
        return MLPNetwork(self, self.require(data, VectorSpec), dim, num_layers)

    def build_classifier(self, data: DataSpec) -> "MLPClassifier":
        """Build the end-to-end baseline: a classifier with all the layers."""
        return MLPClassifier(self, self.require(data, VectorSpec))


class MLPLayer(nn.Module):
    """A residual layer.

    Args:
        sizes: sizes of the network.
        cond_width: width W of a conditioning vector that sets norm and residual gate (adaLN-Zero); None: no vector.
    """

    def __init__(self, sizes: ResidualMLP, cond_width: int | None = None) -> None:
        super().__init__()
        self.modulation = None if cond_width is None else Modulation(sizes.width, 3, cond_width)
        self.norm = nn.LayerNorm(sizes.width, elementwise_affine=cond_width is None)
        self.mlp = feed_forward(sizes.width, sizes.mlp_width, sizes.dropout)

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """[N, 1, D], and cond [N, W] if the layer is modulated -> [N, 1, D]."""
        if self.modulation is None:
            return x + self.mlp(self.norm(x))
        shift, scale, gate = self.modulation(cond)  # N, 1, D each
        return x + gate * self.mlp(modulate(self.norm(x), shift, scale))


class MLPNetwork(nn.Module):
    """One block: a noisy label vector beside the vector that it belongs to."""

    def __init__(self, sizes: ResidualMLP, data: VectorSpec, target_dim: int, num_layers: int) -> None:
        super().__init__()
        cond_width = sizes.conditioning_width or sizes.width
        self.of_vector = nn.Linear(data.num_features, sizes.width)
        self.of_target = nn.Linear(target_dim, sizes.width)
        self.noise_embedding = NoiseEmbedding(cond_width)
        self.layers = nn.ModuleList(MLPLayer(sizes, cond_width) for _ in range(num_layers))
        self.head = ModulatedHead(sizes.width, target_dim, cond_width)
        initialise(self)

    def forward(self, noisy: Tensor, c_noise: Tensor, cond: Tensor) -> Tensor:
        """Label vectors [N, target_dim] scaled by c_in, c_noise [N] and vectors [N, features] -> [N, target_dim]."""
        x = (self.of_vector(cond) + self.of_target(noisy)).unsqueeze(1)  # N, 1, D
        level = self.noise_embedding(c_noise)  # N, W
        for layer in self.layers:
            x = layer(x, level)
        return self.head(x, level).squeeze(1)  # N, target_dim


class MLPClassifier(nn.Module):
    """The end-to-end network: L unmodulated layers and a linear head."""

    def __init__(self, sizes: ResidualMLP, data: VectorSpec) -> None:
        super().__init__()
        self.of_vector = nn.Linear(data.num_features, sizes.width)
        self.layers = nn.ModuleList(MLPLayer(sizes) for _ in range(sizes.num_layers))
        self.norm = nn.LayerNorm(sizes.width)
        self.head = nn.Linear(sizes.width, data.num_classes)
        initialise(self)

    def forward(self, vectors: Tensor) -> Tensor:
        """[N, features] -> logits [N, C]."""
        x = self.of_vector(vectors).unsqueeze(1)  # N, 1, D
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x.squeeze(1)))  # N, C
