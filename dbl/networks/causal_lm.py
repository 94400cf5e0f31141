"""CausalLM: a Llama that denoises the next token given clean earlier ones, and the plain language model beside it.

Paper: arXiv 2506.14202, experiments on autoregressive text. Two streams pass through the same layers: clean tokens, and
noisy vectors of which number i stands for the token after clean token i. Noisy i sees clean tokens up to i and itself,
never another noisy vector; clean tokens see earlier clean tokens only and know no noise level, so that what they leave
behind (`Context`) is computed once and holds for every level.

Axes: N batch, T tokens, D of a target vector, H heads, C vocabulary.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, cast, get_args

import torch
from torch import Tensor, nn

from dbl.data.spec import DataSpec, TextSpec
from dbl.networks.architecture import Architecture
from dbl.networks.layers import NoiseEmbedding
from dbl.networks.llama import (
    Embedding,
    KeysValues,
    LlamaHead,
    LlamaLayer,
    check_sizes,
    embed_tokens,
    initialise_llama,
    rotary_angles,
)
from dbl.utils.errors import UserError, check_choice

Streams = Literal["two", "clean"]


@dataclass(frozen=True)
class CausalLM(Architecture):
    """Sizes of a causal language model; the target is one vector of a table for each token.

    Args:
        num_layers: L, of the whole network.
        width: of every token inside.
        num_heads: attention heads; width / num_heads is even.
        mlp_width: inside the SwiGLU MLP.
        streams: "two" denoises; "clean" is an ordinary language model: no noisy vectors, no noise level, no modulation.
            It is the end-to-end baseline, and a block too where the readout adds the evidence (`TokenTarget.kind`).
        embedding: "own" learns a vector for each token in each block (C * width parameters). "table" embeds tokens by
            the frozen table of the targets and a learned projection (D * width parameters): small, but tokens that are
            alike in the table stay alike, and no more than D directions of the width are used.

    Example:
        >>> import dbl
        >>> data = dbl.PyDoc(seq_len=64, tokenizer=dbl.Characters(), batch_size=8, eval_batch_size=8)
        >>> network = dbl.CausalLM(6, width=32, num_heads=2, mlp_width=64, streams="clean")
        >>> config = dbl.ContractConfig(network, dbl.TokenTarget(), dbl.InformationNoise(0.1, 10.0))
        >>> config.build(data.spec).partition.layers
        (2, 2, 2)
    """

    num_layers: int = 12
    width: int = 768
    num_heads: int = 12
    mlp_width: int = 2048
    streams: Streams = "two"
    embedding: Embedding = "own"

    def __post_init__(self) -> None:
        check_sizes(self.width, self.num_heads, self.mlp_width)
        check_choice("network.streams", self.streams, get_args(Streams))
        check_choice("network.embedding", self.embedding, get_args(Embedding))

    @property
    def reads_context_alone(self) -> bool:
        """See `Architecture.reads_context_alone`."""
        return self.streams == "clean"

    def layer_passes(self, num_layers: int) -> float:
        """See `Architecture.layer_passes`: both streams pass through every layer."""
        return float(num_layers * (2 if self.streams == "two" else 1))

    def build(
        self, data: DataSpec, target_shape: tuple[int, ...], num_layers: int, table: Tensor | None = None
    ) -> "CausalNetwork":
        """See `Architecture.build`; the target is [T, D] and cond the clean tokens [N, T] before it, or a `Context`."""
        text = self.require(data, TextSpec)
        if len(target_shape) != 2:
            raise UserError("network CausalLM denoises one vector for each token: use it with dbl.TokenTarget")
        return CausalNetwork(self, text.num_classes, target_shape[1], num_layers, table)


class Context(NamedTuple):
    """What the clean tokens seen so far leave behind; it depends on no noise level.

    Attributes:
        memories: keys and values of each layer, [N, H, T, width / H] each.
        outputs: [N, T, D] of the clean tokens, with `streams="clean"` only.
    """

    memories: tuple[KeysValues, ...]
    outputs: Tensor | None = None

    @property
    def length(self) -> int:
        """T, the number of clean tokens."""
        return self.memories[0].keys.shape[2]


class CausalNetwork(nn.Module):
    """The network of one block of a causal language model.

    Args:
        sizes: of the whole model.
        num_tokens: C.
        target_dim: D.
        num_layers: layers of this block.
        table: [C, D] frozen, for `embedding="table"`.
    """

    def __init__(
        self, sizes: CausalLM, num_tokens: int, target_dim: int, num_layers: int, table: Tensor | None = None
    ) -> None:
        super().__init__()
        denoises = sizes.streams == "two"
        self.head_dim = sizes.width // sizes.num_heads
        self.embedding = embed_tokens(sizes.embedding, num_tokens, sizes.width, table)
        self.noise_embedding = NoiseEmbedding(sizes.width) if denoises else None
        self.noisy_embedding = nn.Linear(target_dim, sizes.width, bias=False) if denoises else None
        self.layers = nn.ModuleList(
            LlamaLayer(sizes.width, sizes.num_heads, sizes.mlp_width, modulated=denoises) for _ in range(num_layers)
        )
        self.head = LlamaHead(sizes.width, target_dim, modulated=denoises)
        initialise_llama(self, depth=num_layers)

    def forward(self, noisy: Tensor | None, c_noise: Tensor | None, cond: Tensor | Context) -> Tensor:
        """Denoise the tokens after the clean ones, or predict them from the clean ones alone.

        Args:
            noisy: [N, T', D], already scaled by c_in; they stand for the tokens after the last T' clean ones. With
                `streams="clean"` only its length matters, and None stands for as many as there are tokens in `cond`, or
                for one behind a `Context`.
            c_noise: [N], ignored with `streams="clean"`.
            cond: clean tokens [N, T], or what `extend` made of them.

        Returns:
            [N, T', D].
        """
        context = cond if isinstance(cond, Context) else self.extend(cond)
        if context.outputs is None:
            assert noisy is not None
            assert c_noise is not None
            return self._denoise(noisy, c_noise, context)
        if noisy is not None:
            return context.outputs[:, -noisy.shape[1] :]
        return context.outputs[:, -1:] if isinstance(cond, Context) else context.outputs

    def extend(self, tokens: Tensor, context: Context | None = None) -> Context:
        """Read further clean tokens.

        Args:
            tokens: [N, S] int64.
            context: of the tokens before them; it is left as it is.

        Returns:
            The context of all tokens so far.
        """
        start, length = 0 if context is None else context.length, tokens.shape[1]
        angles = rotary_angles(start, length, self.head_dim, tokens.device)
        mask = None if start == 0 or length == 1 else _up_to(start, length, tokens.device)
        pasts = [None] * len(self.layers) if context is None else list(context.memories)
        memories = []
        x = self.embedding(tokens)  # N, S, width
        for layer, past in zip(self.layers, pasts, strict=True):
            if layer is self.layers[-1] and self.noise_embedding is not None:
                # Noisy vectors need no more of the last layer.
                memories.append(cast(LlamaLayer, layer).memorise(x, angles, past))
            else:
                x, memory = layer(x, angles, mask, past)
                memories.append(memory)
        if self.noise_embedding is not None:
            return Context(tuple(memories))
        outputs = self.head(x)
        if context is not None and context.outputs is not None:
            outputs = torch.cat([context.outputs, outputs], dim=1)
        return Context(tuple(memories), outputs)

    def _denoise(self, noisy: Tensor, c_noise: Tensor, context: Context) -> Tensor:
        """Pass noisy vectors [N, T', D] through the layers, beside the last T' tokens of the context."""
        assert self.noisy_embedding is not None
        assert self.noise_embedding is not None
        length = noisy.shape[1]
        start = context.length - length
        # Noisy i stands for the token after clean i, and takes its place.
        angles = rotary_angles(start + 1, length, self.head_dim, noisy.device)
        mask = None if length == 1 else _up_to_and_itself(start, length, noisy.device)
        noise = self.noise_embedding(c_noise)  # N, width
        x = self.noisy_embedding(noisy).type_as(noisy)  # N, T', width
        for layer, memory in zip(self.layers, context.memories, strict=True):
            x, _ = layer(x, angles, mask, memory, noise)
        out: Tensor = self.head(x, noise)
        return out


def _up_to(start: int, length: int, device: torch.device) -> Tensor:
    """Mask [length, start + length]: query i, the token number start + i, sees the tokens up to itself."""
    return torch.ones(length, start + length, dtype=torch.bool, device=device).tril(start)


def _up_to_and_itself(start: int, length: int, device: torch.device) -> Tensor:
    """Mask [length, start + 2 length]: noisy start + i sees clean tokens up to start + i, and itself."""
    itself = torch.eye(length, dtype=torch.bool, device=device)
    return torch.cat([_up_to(start, length, device), itself], dim=1)
