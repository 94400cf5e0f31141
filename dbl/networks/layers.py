"""Parts shared by the transformers: noise embedding, attention, residual layers, patches and positions.

Axes: N batch, T tokens, D token width, W width of a conditioning vector, H heads, P patch size. A layer is one residual
transformer unit.
"""

import math
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from dbl.utils.errors import UserError


class NoiseEmbedding(nn.Module):
    """Embedding of `c_noise`: sines and cosines of geometric frequencies, then a small MLP.

    `c_noise = ln(sigma) / 4` spans about three units over the whole range of levels and a fraction of one over a
    block's interval; frequencies from 1/2 to 64 resolve both.
    """

    def __init__(self, width: int, num_frequencies: int = 64) -> None:
        super().__init__()
        frequencies = torch.logspace(math.log10(0.5), math.log10(64), num_frequencies)
        self.frequencies = nn.Buffer(frequencies, persistent=False)
        self.mlp = nn.Sequential(nn.Linear(2 * num_frequencies, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, c_noise: Tensor) -> Tensor:
        """[N] -> [N, D]."""
        angles = c_noise.float().unsqueeze(1) * self.frequencies  # N, frequencies
        return self.mlp(torch.cat([angles.sin(), angles.cos()], dim=1))  # N, D


class Attention(nn.Module):
    """Multi-head self-attention without a mask, with dropout of the attention weights."""

    def __init__(self, width: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, num_queries: int | None = None) -> Tensor:
        """[N, T, D] -> [N, T, D], or [N, num_queries, D] for the first tokens alone."""
        if num_queries is None:
            q, k, v = self._project(x)
        elif type(self.qkv) is nn.Linear:
            q, k, v = self._project_first(x, num_queries)
        else:  # an adapter has more than a weight to read
            q, k, v = self._project(x)
            q = q[:, :, :num_queries]
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)  # N, H, queries, D/H
        return self.out(mixed.transpose(1, 2).flatten(2))  # N, queries, D

    def _project(self, x: Tensor) -> Tensor:
        return self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # 3, N, H, T, D/H

    def _project_first(self, x: Tensor, num_queries: int) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [N, H, num_queries, D/H] of the first tokens; keys and values [N, H, T, D/H] of all."""
        width = x.shape[2]
        of_queries, of_others = self.qkv.weight.split([width, 2 * width])
        bias_of_queries, bias_of_others = self.qkv.bias.split([width, 2 * width])
        q = F.linear(x[:, :num_queries], of_queries, bias_of_queries).unflatten(2, (self.num_heads, -1))
        kv = F.linear(x, of_others, bias_of_others).unflatten(2, (2, self.num_heads, -1))
        k, v = kv.permute(2, 0, 3, 1, 4)
        return q.transpose(1, 2), k, v


Gelu = Literal["exact", "tanh"]


def feed_forward(width: int, hidden: int, dropout: float = 0.0, gelu: Gelu = "tanh") -> nn.Sequential:
    """Two-layer MLP of a transformer layer, from width to `hidden` and back."""
    activation = nn.GELU(approximate="none" if gelu == "exact" else "tanh")
    return nn.Sequential(nn.Linear(width, hidden), activation, nn.Linear(hidden, width), nn.Dropout(dropout))


class Modulation(nn.Module):
    """Shifts, scales and gates computed from a conditioning vector (adaLN-Zero of DiT, arXiv 2212.09748, Sec. 3.2).

    The projection has `num_vectors * D * W` weights: a third of a Llama layer's if W = D. `initialise` zeroes it, so
    that a layer starts as the identity.
    """

    def __init__(self, width: int, num_vectors: int, cond_width: int) -> None:
        super().__init__()
        self.num_vectors = num_vectors
        self.project = nn.Linear(cond_width, num_vectors * width)

    def forward(self, cond: Tensor) -> tuple[Tensor, ...]:
        """[N, W] -> `num_vectors` tensors [N, 1, D]."""
        return self.project(F.silu(cond)).unsqueeze(1).chunk(self.num_vectors, dim=2)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Apply a shift and a scale [N, 1, D] to every token of x [N, T, D]."""
    return x * (1 + scale) + shift


class Layer(nn.Module):
    """A pre-norm transformer layer: attention, then MLP, each added to its input.

    Args:
        hidden: hidden width of the MLP.
        dropout: dropout of the attention weights, the attention output and the MLP output.
        cond_width: width W of a conditioning vector that sets norms and residual gates (adaLN-Zero); None: no vector.
        gelu: exact, or approximated by a tanh.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        hidden: int,
        dropout: float = 0.0,
        cond_width: int | None = None,
        gelu: Gelu = "tanh",
    ) -> None:
        super().__init__()
        self.modulation = None if cond_width is None else Modulation(width, 6, cond_width)
        self.norm1 = nn.LayerNorm(width, elementwise_affine=cond_width is None)
        self.attention = Attention(width, num_heads, dropout)
        self.drop = nn.Dropout(dropout)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=cond_width is None)
        self.mlp = feed_forward(width, hidden, dropout, gelu)

    def forward(self, x: Tensor, cond: Tensor | None = None, num_queries: int | None = None) -> Tensor:
        """Apply the layer.

        Args:
            x: [N, T, D].
            cond: [N, W] if the layer is modulated.
            num_queries: number of first tokens to compute; None: all.

        Returns:
            [N, T, D], or [N, num_queries, D].
        """
        kept = x if num_queries is None else x[:, :num_queries]
        if self.modulation is None:
            kept = kept + self.drop(self.attention(self.norm1(x), num_queries))
            return kept + self.mlp(self.norm2(kept))
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(cond)  # N, 1, D each
        kept = kept + gate1 * self.drop(self.attention(modulate(self.norm1(x), shift1, scale1), num_queries))
        return kept + gate2 * self.mlp(modulate(self.norm2(kept), shift2, scale2))


class ModulatedHead(nn.Module):
    """Modulated final norm and output projection."""

    def __init__(self, width: int, out_features: int, cond_width: int) -> None:
        super().__init__()
        self.modulation = Modulation(width, 2, cond_width)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.project = nn.Linear(width, out_features)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """X [N, T, D] and cond [N, W] -> [N, T, out_features]."""
        shift, scale = self.modulation(cond)
        return self.project(modulate(self.norm(x), shift, scale))  # N, T, out_features


class PatchEmbedding(nn.Module):
    """One token per patch of an image, row by row."""

    def __init__(self, channels: int, patch_size: int, width: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, width, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """[N, channels, height, width] -> [N, T, D]."""
        # A copy here, or norms and attention of all layers would copy: sums keep the layout of their first summand.
        return self.project(images).flatten(2).transpose(1, 2).contiguous()  # from N, D, rows, columns


def unpatchify(tokens: Tensor, shape: tuple[int, int, int], patch_size: int) -> Tensor:
    """Reassemble an image from its patches: [N, T, channels * P * P] -> [N, *shape]."""
    channels, height, width = shape
    grid = tokens.unflatten(2, (channels, patch_size, patch_size))  # N, T, channels, P, P
    grid = grid.unflatten(1, (height // patch_size, width // patch_size))  # N, rows, columns, channels, P, P
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(-1, channels, height, width)


def sincos_positions(rows: int, columns: int, width: int) -> Tensor:
    """Fixed two-dimensional sine-cosine positions [rows * columns, width]; width is a multiple of 4."""
    # By name: after transformers 5 has loaded a model, `linspace` may no longer follow the device of a context.
    fractions = torch.linspace(0, 1, width // 4 + 1, device=torch.get_default_device())[:-1]
    frequencies = 10000**-fractions
    row_angles = torch.arange(rows).repeat_interleave(columns).unsqueeze(1) * frequencies
    column_angles = torch.arange(columns).repeat(rows).unsqueeze(1) * frequencies
    return torch.cat([f(angles) for angles in (row_angles, column_angles) for f in (torch.sin, torch.cos)], dim=1)


def initialise(network: nn.Module) -> None:
    """Initialise the weights of a transformer.

    | parameters | initial value |
    |---|---|
    | weights of linear layers and patch embeddings | Xavier uniform (a patch counts as one flat input) |
    | embeddings | normal, standard deviation 0.02 |
    | biases | 0 |
    | modulations (`Modulation.project`) | 0, so that layers start as the identity |
    """
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(module.weight.flatten(1))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
    # Only now, since modulations are linear layers too.
    for module in network.modules():
        if isinstance(module, Modulation):
            nn.init.zeros_(module.project.weight)


def layers_of(network: nn.Module) -> nn.ModuleList | nn.Sequential | None:
    """Return the residual layers of a network, or None if it has no attribute `layers`."""
    layers = getattr(network, "layers", None)
    return layers if isinstance(layers, nn.ModuleList | nn.Sequential) else None


def checkpoint_layers(network: nn.Module) -> None:
    """Enable activation checkpointing: each layer keeps only its input and is recomputed in the backward pass.

    It saves memory for about a third more time; results and random numbers stay the same. Raises UserError if the
    network has no attribute `layers`.
    """
    layers = layers_of(network)
    if layers is None:
        raise UserError(
            f"model.recipe.activation_checkpointing: {type(network).__name__} does not keep its residual layers in an "
            "attribute `layers` (nn.ModuleList): add it, or turn the option off"
        )
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
