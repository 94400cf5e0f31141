"""MaskedLM: a bidirectional transformer that fills in masked tokens, built one block at a time.

Layers are modulated by the noise level as in DiT (arXiv 2212.09748) and use rotary positions, as is usual for masked
diffusion of text. Axes: N batch, T tokens, C vocabulary.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from typing_extensions import override

from dbl.data.spec import DataSpec, TextSpec
from dbl.networks.layers import NoiseEmbedding
from dbl.networks.llama import LanguageModel, LlamaHead, LlamaLayer, initialise_llama, rotary_angles
from dbl.utils.errors import UserError


@dataclass(frozen=True)
class MaskedLM(LanguageModel):
    """Sizes of a masked language model; the targets are the token ids themselves.

    Example:
        >>> import dbl
        >>> data = dbl.PyDoc(seq_len=64, tokenizer=dbl.Characters(), batch_size=8, eval_batch_size=8)
        >>> network = dbl.MaskedLM(6, width=32, num_heads=2, mlp_width=64)
        >>> config = dbl.ContractConfig(network, dbl.MaskTarget(), dbl.MaskingNoise(0.01))
        >>> config.build(data.spec).partition.layers
        (2, 2, 2)
    """

    @override
    def build(
        self, data: DataSpec, target_shape: tuple[int, ...], num_layers: int, table: Tensor | None = None
    ) -> "MaskedNetwork":
        """Build one block; the target is [T], the output logits [N, T, C]; cond and table are not used."""
        text = self.require(data, TextSpec)
        if len(target_shape) != 1:
            raise UserError("network MaskedLM fills in token ids: use it with dbl.MaskTarget")
        return MaskedNetwork(self, text.num_classes, num_layers)


class MaskedNetwork(nn.Module):
    """One block of a masked language model with a vocabulary of C = `num_tokens`."""

    def __init__(self, sizes: MaskedLM, num_tokens: int, num_layers: int) -> None:
        super().__init__()
        self.head_dim = sizes.head_dim
        self.embedding = nn.Embedding(num_tokens + 1, sizes.width)  # id C is the mask
        self.noise_embedding = NoiseEmbedding(sizes.cond_width)
        self.layers = nn.ModuleList(
            LlamaLayer(sizes.width, sizes.num_heads, sizes.mlp_width, sizes.cond_width, causal=False)
            for _ in range(num_layers)
        )
        self.head = LlamaHead(sizes.width, num_tokens, sizes.cond_width)
        initialise_llama(self, depth=num_layers)
        nn.init.zeros_(self.head.project.weight)  # all tokens start equally likely

    def forward(self, noisy: Tensor, c_noise: Tensor, cond: Any = None, project: bool = True) -> Tensor:
        """Predict the tokens.

        Args:
            noisy: [N, T] ids, C for the mask.
            c_noise: [N] embedded levels.
            cond: ignored.
            project: false returns the features [N, T, width] from which `head.project` reads the logits.

        Returns:
            Logits [N, T, C].
        """
        angles = rotary_angles(0, noisy.shape[1], self.head_dim, noisy.device)
        x = self.embedding(noisy)  # N, T, width
        noise = self.noise_embedding(c_noise)  # N, conditioning width
        for layer in self.layers:
            x, _ = layer(x, angles, noise=noise)
        return self.head(x, noise) if project else self.head.features(x, noise)
