"""Llama layers: rotary positions, attention with a key-value memory, SwiGLU, and optional noise modulation.

Llama (Touvron et al. 2023, arXiv 2302.13971, Sec. 2.2): RMSNorm before each sublayer, no biases. Modulations come from
`dbl.networks.layers` and keep their biases. Under autocast linear layers return low precision, so whatever enters the
first layer is cast to float32 (`type_as`) to keep the residual stream in float32.

Axes: N batch, T tokens, D token width, W width of a noise vector, H heads, S visible keys, C vocabulary.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dbl.networks.architecture import NETWORK, Architecture, check_sizes
from dbl.networks.kv_cache import KeysValues, Memory
from dbl.networks.layers import Modulation, modulate
from dbl.networks.own_token_attention import own_token_attention
from dbl.utils.errors import UserError

Embedding = Literal["own", "table"]
Angles = tuple[Tensor, Tensor]
# What modulates a layer: a vector [N, D], or the shifts, scales and gates that the layer makes of it.
Noise = Tensor | tuple[Tensor, ...]

_EPS = 1e-6  # of RMSNorm; torch's default depends on the precision
_BASE = 10000.0  # of the rotary frequencies
_LEAST_ANGLES = 256  # positions
# About the scale that a layer adds at the start. With the usual 0.02 the first layer's average over earlier tokens
# drowns the token itself: worse after 250 steps on characters (4 layers, width 96, 3 seeds, both kinds of `CausalLM`).
_EMBEDDING_STD = 0.3


@dataclass(frozen=True)
class LanguageModel(Architecture):
    """Sizes shared by the language models that are built from Llama layers.

    Args:
        num_layers: number of layers of the whole network, L.
        width: token width.
        num_heads: number of attention heads; width / num_heads must be even.
        mlp_width: hidden width of the SwiGLU MLP.
        conditioning_width: width of the vector that embeds the noise level; each layer projects its shifts,
            scales and gates from it, 6 `width` numbers. null: the token width; a narrow one saves parameters.
    """

    num_layers: int = 12
    width: int = 768
    num_heads: int = 12
    mlp_width: int = 2048
    conditioning_width: int | None = None

    def __post_init__(self) -> None:
        check_sizes(self)
        if self.width % (2 * self.num_heads):
            raise UserError(
                f"{NETWORK}.width ({self.width}) must be an even multiple of num_heads ({self.num_heads}): "
                "rotary positions turn pairs of coordinates of a head"
            )

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.width // self.num_heads

    @property
    def cond_width(self) -> int:
        """Width of the vector that modulates the layers, W."""
        return self.conditioning_width or self.width


def rotary_angles(start: int, length: int, head_dim: int, device: torch.device) -> Angles:
    """Cosines and sines [T, 1, D / H] of positions from `start` on (RoFormer, arXiv 2104.09864, Eq. 15)."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return _angles(start, length, head_dim, device)
    # Writing text asks for one position after the other, in each block.
    room = max(1 << (start + length - 1).bit_length(), _LEAST_ANGLES)
    cos, sin = _known_angles(room, head_dim, device)
    return cos[start : start + length], sin[start : start + length]


def _angles(start: int, length: int, head_dim: int, device: torch.device) -> Angles:
    frequencies = _BASE ** -(torch.arange(0, head_dim, 2, device=device) / head_dim)
    positions = torch.arange(start, start + length, device=device)
    angles = (positions.unsqueeze(1) * frequencies).unsqueeze(1)  # T, 1, D/H/2
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)


@lru_cache(maxsize=16)
def _known_angles(length: int, head_dim: int, device: torch.device) -> Angles:
    return _angles(0, length, head_dim, device)


def rotate(x: Tensor, angles: Angles) -> Tensor:
    """Rotate queries or keys [N, T, H, D / H] by their positions; coordinate i is paired with i + D / H / 2."""
    cos, sin = angles
    return (x * cos + x.roll(x.shape[-1] // 2, dims=-1) * sin).type_as(x)  # the sines of the first half are negative


def up_to(start: int, length: int, device: torch.device) -> Tensor:
    """Mask [length, start + length]: query i, which is token start + i, sees the tokens up to itself."""
    return torch.ones(length, start + length, dtype=torch.bool, device=device).tril(start)


class RotaryAttention(nn.Module):
    """Multi-head self-attention with rotary positions, over a memory and the tokens themselves.

    D / H must be even. Without a mask, and if `causal`, a token sees only the tokens up to itself. The query projection
    is separate from keys and values, since some tokens are only ever attended to.
    """

    def __init__(self, width: int, num_heads: int, causal: bool = True) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.causal = causal
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def memorise(self, x: Tensor, angles: Angles, memory: Memory | None = None) -> KeysValues:
        """Append the keys and values of x [N, T, D] to a memory."""
        keys, values = self.key_value(x).unflatten(2, (2, self.num_heads, -1)).unbind(2)  # N, T, H, D/H
        keys, values = rotate(keys, angles).transpose(1, 2), values.transpose(1, 2)  # N, H, T, D/H
        return KeysValues(keys, values) if memory is None else memory.append(keys, values)

    def forward(
        self,
        x: Tensor,
        angles: Angles,
        mask: Tensor | None = None,
        memory: Memory | None = None,
        apart: bool = False,
    ) -> tuple[Tensor, KeysValues]:
        """Attend; arguments and results as in `LlamaLayer.forward`."""
        seen = self.memorise(x, angles, None if apart else memory)
        query = rotate(self.query(x).unflatten(2, (self.num_heads, -1)), angles).transpose(1, 2)  # N, H, T, D/H
        if apart:
            assert isinstance(memory, KeysValues)
            mixed = own_token_attention(query, memory, own=seen)
            return self.out(mixed.transpose(1, 2).flatten(2)), seen  # N, T, D
        # is_causal is faster than a mask, but torch aligns the first query with the first key, which is wrong behind a
        # memory. A single query comes last and sees everything.
        is_causal = self.causal and mask is None and x.shape[1] > 1
        mixed = F.scaled_dot_product_attention(query, seen.keys, seen.values, attn_mask=mask, is_causal=is_causal)
        return self.out(mixed.transpose(1, 2).flatten(2)), seen  # N, T, D


class SwiGLU(nn.Module):
    """Gated MLP `down(silu(gate) * up)` with `hidden` units (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, T, D] -> [N, T, D]."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)  # N, T, hidden each
        return self.down(F.silu(gate) * up)


class LlamaLayer(nn.Module):
    """A Llama layer: attention, then MLP, each added to its input.

    Args:
        hidden: hidden width of the MLP.
        cond_width: width W of a noise vector that may set norms and gates (adaLN-Zero). The norms then have no weights
            of their own, even for tokens that come without a noise vector. None: no vector.
        causal: attention without a mask is causal; see `RotaryAttention`.
    """

    def __init__(
        self, width: int, num_heads: int, hidden: int, cond_width: int | None = None, causal: bool = True
    ) -> None:
        super().__init__()
        modulated = cond_width is not None
        self.modulation = None if cond_width is None else Modulation(width, 6, cond_width)
        self.norm1 = rms_norm(width, modulated)
        self.attention = RotaryAttention(width, num_heads, causal)
        self.norm2 = rms_norm(width, modulated)
        self.mlp = SwiGLU(width, hidden)

    def memorise(
        self, x: Tensor, angles: Angles, memory: Memory | None = None, noise: Noise | None = None
    ) -> KeysValues:
        """Append x [N, T, D] to the memory only, for tokens whose outputs are not needed."""
        x = self.norm1(x)
        if self.modulation is not None and noise is not None:
            x = modulate(x, *_vectors(self.modulation, noise)[:2])
        return self.attention.memorise(x, angles, memory)

    def forward(
        self,
        x: Tensor,
        angles: Angles,
        mask: Tensor | None = None,
        memory: Memory | None = None,
        noise: Noise | None = None,
        apart: bool = False,
    ) -> tuple[Tensor, KeysValues]:
        """Apply the layer.

        Args:
            x: [N, T, D] tokens.
            angles: rotary angles of their positions.
            mask: [T, S] true where a token may attend, with the memory's keys first. None: causal attention if the
                layer is causal (valid only without a memory or for a single token), else full attention.
            memory: keys and values of earlier tokens.
            noise: [N, W] modulation vector, or what `modulation` made of it, if the layer was built for one.
            apart: whether the tokens do not see each other: each sees the memory up to its place (the last one all of
                it) and itself. Needs a memory of T or more tokens, and no mask.

        Returns:
            Tokens [N, T, D], and the memory extended by these tokens; if they are apart, these alone.
        """
        if self.modulation is None or noise is None:
            attended, seen = self.attention(self.norm1(x), angles, mask, memory, apart)
            x = x + attended
            return x + self.mlp(self.norm2(x)), seen
        shift1, scale1, gate1, shift2, scale2, gate2 = _vectors(self.modulation, noise)
        attended, seen = self.attention(modulate(self.norm1(x), shift1, scale1), angles, mask, memory, apart)
        x = x + gate1 * attended
        return x + gate2 * self.mlp(modulate(self.norm2(x), shift2, scale2)), seen


class LlamaHead(nn.Module):
    """Final norm, which a noise vector of width `cond_width` may modulate, and output projection."""

    def __init__(self, width: int, out_features: int, cond_width: int | None = None) -> None:
        super().__init__()
        self.modulation = None if cond_width is None else Modulation(width, 2, cond_width)
        self.norm = rms_norm(width, modulated=cond_width is not None)
        self.project = nn.Linear(width, out_features, bias=False)

    def forward(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        """X [N, T, D] and noise [N, W], or what `modulation` made of it -> [N, T, out_features]."""
        return self.project(self.features(x, noise))

    def features(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        """What the projection reads, [N, T, D]; arguments as in `forward`."""
        x = self.norm(x)
        if self.modulation is not None and noise is not None:
            x = modulate(x, *_vectors(self.modulation, noise))
        return x


def _vectors(modulation: Modulation, noise: Noise) -> tuple[Tensor, ...]:
    """Shifts, scales and gates [N, 1, D]."""
    return noise if isinstance(noise, tuple) else modulation(noise)


class TableEmbedding(nn.Module):
    """Token embedding by a frozen table [C, table width] and a learned projection to `width`."""

    def __init__(self, table: Tensor, width: int) -> None:
        super().__init__()
        self.table = nn.Buffer(table, persistent=False)
        self.project = nn.Linear(table.shape[1], width, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Token ids [N, T] -> [N, T, D]."""
        return self.project(self.table[tokens]).type_as(self.table)


def embed_tokens(kind: Embedding, num_tokens: int, width: int, table: Tensor | None) -> nn.Module:
    """Build the embedding of token ids [N, T] as vectors [N, T, D].

    Raises UserError if `kind` is "table" and there is no table with one row per token.
    """
    if kind == "own":
        return nn.Embedding(num_tokens, width)
    if table is None or table.shape[0] != num_tokens:
        raise UserError(
            f"contract.network.embedding: 'table' needs a target with a table of {num_tokens} rows, one for each "
            "token: choose such a target, or 'own'"
        )
    return TableEmbedding(table, width)


def rms_norm(width: int, modulated: bool = False) -> nn.RMSNorm:
    """RMSNorm; it has no weights where a noise vector scales its output."""
    return nn.RMSNorm(width, eps=_EPS, elementwise_affine=not modulated)


def initialise_llama(network: nn.Module, depth: int) -> None:
    """Initialise a network of these layers, `depth` of them in sequence.

    | parameters | initial value |
    |---|---|
    | weights of linear layers | normal, standard deviation 1 / sqrt(inputs), which preserves the scale |
    | residual outputs (`attention.out`, `mlp.down`) | the same, divided by sqrt(2 depth) (GPT-2) |
    | embeddings and `TableEmbedding.project` (rows have length 1) | normal, standard deviation 0.3 |
    | weights of norms | 1 (torch) |
    | modulations | 0, so that a modulated layer starts as the identity |
    | other biases | 0 |
    """
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=_EMBEDDING_STD)
    # Only now, since these are linear layers too.
    for module in network.modules():
        if isinstance(module, LlamaLayer):
            for output in (module.attention.out, module.mlp.down):
                nn.init.normal_(output.weight, std=(2 * depth * output.in_features) ** -0.5)
        elif isinstance(module, Modulation):
            nn.init.zeros_(module.project.weight)
        elif isinstance(module, TableEmbedding):
            nn.init.normal_(module.project.weight, std=_EMBEDDING_STD)
