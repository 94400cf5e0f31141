"""MaskedLM: a bidirectional transformer that fills in masked tokens, built one block at a time.

The layers are those of DiT (arXiv 2212.09748), as in masked diffusion of text (MD4, arXiv 2406.04329). Axes: N batch, T
tokens, C vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dbl.data_spec import DataSpec, TextSpec
from dbl.errors import UserError
from dbl.networks.architecture import Architecture, check_heads
from dbl.networks.layers import ModulatedHead, ModulatedLayer, NoiseEmbedding, initialise


@dataclass(frozen=True)
class MaskedLM(Architecture):
    """Sizes of a masked language model; the target is the token ids themselves.

    Args:
        num_layers: L, of the whole network.
        width: of every token inside.
        num_heads: attention heads.
        mlp_ratio: width inside the MLP, in units of `width`.
    """

    num_layers: int = 12
    width: int = 768
    num_heads: int = 12
    mlp_ratio: float = 4.0

    def __post_init__(self) -> None:
        check_heads(self.width, self.num_heads)
        if self.mlp_ratio <= 0:
            raise UserError(f"network.mlp_ratio ({self.mlp_ratio}) must be positive")

    def build(
        self, data: DataSpec, target_shape: tuple[int, ...], num_layers: int, table: Tensor | None = None
    ) -> "MaskedNetwork":
        """See `Architecture.build`; the target is [T] and the answer logits [N, T, C]; cond and table are not used."""
        text = self.require(data, TextSpec)
        if len(target_shape) != 1:
            raise UserError("network MaskedLM fills in token ids: use it with dbl.MaskTarget")
        return MaskedNetwork(self, text.num_classes, target_shape[0], num_layers)


class MaskedNetwork(nn.Module):
    """The network of one block of a masked language model.

    Args:
        sizes: of the whole model.
        num_tokens: C; id C is the mask.
        seq_len: T, the longest sequence.
        num_layers: layers of this block.
    """

    def __init__(self, sizes: MaskedLM, num_tokens: int, seq_len: int, num_layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_tokens + 1, sizes.width)
        self.positions = nn.Embedding(seq_len, sizes.width)
        self.noise_embedding = NoiseEmbedding(sizes.width)
        hidden = int(sizes.mlp_ratio * sizes.width)
        self.layers = nn.ModuleList(ModulatedLayer(sizes.width, sizes.num_heads, hidden) for _ in range(num_layers))
        self.head = ModulatedHead(sizes.width, num_tokens)
        self._initialise()

    def _initialise(self) -> None:
        """As `layers.initialise`, and the head at 0, so that at first all tokens are equally likely."""
        initialise(self)
        nn.init.zeros_(self.head.project.weight)

    def forward(self, noisy: Tensor, c_noise: Tensor, cond: Any = None) -> Tensor:
        """Ids [N, T] with C for the mask, T up to the longest; c_noise [N]; cond is ignored -> logits [N, T, C]."""
        places = torch.arange(noisy.shape[1], device=noisy.device)
        x = self.embedding(noisy) + self.positions(places)  # N, T, width
        noise = self.noise_embedding(c_noise)  # N, width
        for layer in self.layers:
            x = layer(x, noise)
        logits: Tensor = self.head(x, noise)
        return logits
