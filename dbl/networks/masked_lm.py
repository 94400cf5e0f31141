"""MaskedLM: a bidirectional transformer that fills in masked tokens, built one block at a time.

The layers are modulated by the level as those of DiT (arXiv 2212.09748) and have rotary positions, as is usual in
masked diffusion of text. Axes: N batch, T tokens, C vocabulary.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from dbl.data.spec import DataSpec, TextSpec
from dbl.networks.architecture import Architecture
from dbl.networks.layers import NoiseEmbedding
from dbl.networks.llama import LlamaHead, LlamaLayer, check_sizes, initialise_llama, rotary_angles
from dbl.utils.errors import UserError


@dataclass(frozen=True)
class MaskedLM(Architecture):
    """Sizes of a masked language model; the target is the token ids themselves.

    Args:
        num_layers: L, of the whole network.
        width: of every token inside.
        num_heads: attention heads; width / num_heads is even.
        mlp_width: inside the SwiGLU MLP.

    Example:
        >>> import dbl
        >>> data = dbl.PyDoc(seq_len=64, tokenizer=dbl.Characters(), batch_size=8, eval_batch_size=8)
        >>> network = dbl.MaskedLM(6, width=32, num_heads=2, mlp_width=64)
        >>> config = dbl.ContractConfig(network, dbl.MaskTarget(), dbl.MaskingNoise(0.01))
        >>> config.build(data.spec).partition.layers
        (2, 2, 2)
    """

    num_layers: int = 12
    width: int = 768
    num_heads: int = 12
    mlp_width: int = 2048

    def __post_init__(self) -> None:
        check_sizes(self.width, self.num_heads, self.mlp_width)

    def build(
        self, data: DataSpec, target_shape: tuple[int, ...], num_layers: int, table: Tensor | None = None
    ) -> "MaskedNetwork":
        """See `Architecture.build`; the target is [T] and the answer logits [N, T, C]; cond and table are not used."""
        text = self.require(data, TextSpec)
        if len(target_shape) != 1:
            raise UserError("network MaskedLM fills in token ids: use it with dbl.MaskTarget")
        return MaskedNetwork(self, text.num_classes, num_layers)


class MaskedNetwork(nn.Module):
    """The network of one block of a masked language model.

    Args:
        sizes: of the whole model.
        num_tokens: C; id C is the mask.
        num_layers: layers of this block.
    """

    def __init__(self, sizes: MaskedLM, num_tokens: int, num_layers: int) -> None:
        super().__init__()
        self.head_dim = sizes.width // sizes.num_heads
        self.embedding = nn.Embedding(num_tokens + 1, sizes.width)
        self.noise_embedding = NoiseEmbedding(sizes.width)
        self.layers = nn.ModuleList(
            LlamaLayer(sizes.width, sizes.num_heads, sizes.mlp_width, modulated=True, causal=False)
            for _ in range(num_layers)
        )
        self.head = LlamaHead(sizes.width, num_tokens, modulated=True)
        initialise_llama(self, depth=num_layers)
        nn.init.zeros_(self.head.project.weight)  # at first all tokens are equally likely

    def forward(self, noisy: Tensor, c_noise: Tensor, cond: Any = None) -> Tensor:
        """Ids [N, T] with C for the mask; c_noise [N]; cond is ignored -> logits [N, T, C]."""
        angles = rotary_angles(0, noisy.shape[1], self.head_dim, noisy.device)
        x = self.embedding(noisy)  # N, T, width
        noise = self.noise_embedding(c_noise)  # N, width
        for layer in self.layers:
            x, _ = layer(x, angles, noise=noise)
        logits: Tensor = self.head(x, noise)
        return logits
