"""CausalLM: a Llama that denoises the next token given the clean earlier ones, and a plain language model.

Paper: arXiv 2506.14202, App. E.4. Two streams pass through the same layers: clean tokens, and noisy vectors, of which
number i stands for the token after clean token i. Noisy vector i attends to clean tokens up to i and to itself, never
to another noisy vector. Clean tokens attend to earlier clean tokens only and are not modulated by the noise level, so
their keys and values (`Context`) are computed once and serve every level.

Axes: N batch, T tokens, D of a target vector, H heads, C vocabulary.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, cast, get_args

import torch
from torch import Tensor, nn
from typing_extensions import override

from dbl.data.spec import DataSpec, TextSpec
from dbl.networks.architecture import NETWORK
from dbl.networks.kv_cache import KeysValues
from dbl.networks.layers import NoiseEmbedding
from dbl.networks.level_modulations import LevelModulations, of_head, of_layers
from dbl.networks.llama import (
    Embedding,
    LanguageModel,
    LlamaHead,
    LlamaLayer,
    embed_tokens,
    initialise_llama,
    rotary_angles,
    up_to,
)
from dbl.utils.checks import check_choice
from dbl.utils.errors import UserError

Streams = Literal["two", "clean"]


@dataclass(frozen=True)
class CausalLM(LanguageModel):
    """Sizes of a causal language model; the targets are rows of a table, one per token.

    Args:
        streams: stream layout. "two": clean tokens and noisy vectors. "clean": an ordinary language model
            without noisy vectors or modulation. It is the end-to-end baseline, and can be a block if the readout adds
            the evidence (`TokenTarget.kind`).
        embedding: token embedding. "own": a learned vector per token in each block (C * width parameters). "table": the
            frozen table of the targets and a learned projection (D * width parameters); it is small, but tokens that
            are close in the table stay close, and at most D directions of the width are used.

    Example:
        >>> import dbl
        >>> data = dbl.PyDoc(seq_len=64, tokenizer=dbl.Characters(), batch_size=8, eval_batch_size=8)
        >>> network = dbl.CausalLM(6, width=32, num_heads=2, mlp_width=64, streams="clean")
        >>> config = dbl.ContractConfig(network, dbl.TokenTarget(), dbl.InformationNoise(0.1, 10.0))
        >>> config.build(data.spec).partition.layers
        (2, 2, 2)
    """

    can_be_converted: ClassVar[bool] = False
    streams: Streams = "two"
    embedding: Embedding = "own"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(f"{NETWORK}.streams", self.streams, get_args(Streams))
        check_choice(f"{NETWORK}.embedding", self.embedding, get_args(Embedding))
        if self.streams == "clean" and self.conditioning_width is not None:
            raise UserError(
                f"{NETWORK}.conditioning_width ({self.conditioning_width}) has no use with streams=clean, which has no "
                "modulation: set it to null"
            )

    @property
    @override
    def reads_context_alone(self) -> bool:
        return self.streams == "clean"

    @override
    def layer_passes(self, num_layers: int) -> float:
        return float(num_layers * (2 if self.streams == "two" else 1))  # both streams pass through every layer

    @override
    def build(
        self, data: DataSpec, target_shape: tuple[int, ...], num_layers: int, table: Tensor | None = None
    ) -> "CausalNetwork":
        """Build one block; the target is [T, D], cond the clean tokens [N, T] before it or a `Context`."""
        text = self.require(data, TextSpec)
        if len(target_shape) != 2:
            raise UserError("network CausalLM denoises one vector for each token: use it with dbl.TokenTarget")
        return CausalNetwork(self, text.num_classes, target_shape[1], num_layers, table)


class Context(NamedTuple):
    """Cached state of the clean tokens read so far; independent of the noise level."""

    memories: tuple[KeysValues, ...]  # of each layer, [N, H, T, width / H] each
    outputs: Tensor | None = None  # [N, T, D] outputs of the clean tokens, with `streams="clean"` only

    @property
    def length(self) -> int:
        """Number of clean tokens, T."""
        return self.memories[0].keys.shape[2]


class CausalNetwork(nn.Module):
    """One block of a causal language model; `embedding="table"` needs the frozen `table` [C, D]."""

    def __init__(
        self, sizes: CausalLM, num_tokens: int, target_dim: int, num_layers: int, table: Tensor | None = None
    ) -> None:
        super().__init__()
        denoises = sizes.streams == "two"
        self.reads_context_alone = not denoises
        cond_width = sizes.cond_width if denoises else None
        self.head_dim = sizes.head_dim
        self.embedding = embed_tokens(sizes.embedding, num_tokens, sizes.width, table)
        self.noise_embedding = NoiseEmbedding(sizes.cond_width) if denoises else None
        self.noisy_embedding = nn.Linear(target_dim, sizes.width, bias=False) if denoises else None
        self.layers = nn.ModuleList(
            LlamaLayer(sizes.width, sizes.num_heads, sizes.mlp_width, cond_width) for _ in range(num_layers)
        )
        self.head = LlamaHead(sizes.width, target_dim, cond_width)
        initialise_llama(self, depth=num_layers)

    def forward(
        self, noisy: Tensor | None, c_noise: Tensor | LevelModulations | None, cond: Tensor | Context
    ) -> Tensor:
        """Denoise the tokens that follow the clean ones, or predict them from the clean ones alone.

        Args:
            noisy: [N, T', D] vectors scaled by c_in, for the tokens after the last T' clean ones. Only T' matters with
                `streams="clean"`; None means one per token in `cond`, or one after a `Context`.
            c_noise: [N] embedded noise levels, or what `modulations` made of them; ignored with `streams="clean"`.
            cond: clean tokens [N, T], or their `Context` from `extend`.

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
            tokens: [N, S] token ids.
            context: context of the tokens before them; it is not modified.

        Returns:
            The context of all tokens so far.
        """
        start, length = 0 if context is None else context.length, tokens.shape[1]
        angles = rotary_angles(start, length, self.head_dim, tokens.device)
        # Without earlier tokens attention is causal by itself; a single token sees all of them.
        mask = None if start == 0 or length == 1 else up_to(start, length, tokens.device)
        pasts = [None] * len(self.layers) if context is None else list(context.memories)
        memories = []
        x = self.embedding(tokens)  # N, S, width
        for layer, past in zip(self.layers, pasts, strict=True):
            if layer is self.layers[-1] and self.noise_embedding is not None:
                # Noisy vectors use only its keys and values; the outputs of clean tokens are not needed.
                memories.append(cast(LlamaLayer, layer).memorise(x, angles, past))
            else:
                x, memory = layer(x, angles, mask, past)
                memories.append(memory)
        if self.noise_embedding is not None:
            return Context(tuple(memories))
        outputs = self.head(x)  # N, S, D
        if context is not None and context.outputs is not None:
            outputs = torch.cat([context.outputs, outputs], dim=1)
        return Context(tuple(memories), outputs)

    def modulations(self, c_noise: Tensor) -> LevelModulations:
        """What modulates the noisy vectors at embedded levels [N]; it depends on nothing else."""
        assert self.noise_embedding is not None
        return LevelModulations.of(self.layers, self.head, self.noise_embedding(c_noise))

    def _denoise(self, noisy: Tensor, c_noise: Tensor | LevelModulations, context: Context) -> Tensor:
        """Denoise vectors [N, T', D] that follow the last T' tokens of the context."""
        assert self.noisy_embedding is not None
        assert self.noise_embedding is not None
        length = noisy.shape[1]
        start = context.length - length
        # Noisy vector i takes the position of the token it stands for, the one after clean token i.
        angles = rotary_angles(start + 1, length, self.head_dim, noisy.device)
        noise = c_noise if isinstance(c_noise, LevelModulations) else self.noise_embedding(c_noise)  # N, W
        x = self.noisy_embedding(noisy).type_as(noisy)  # N, T', width
        each = of_layers(noise, len(self.layers))
        for layer, memory, vectors in zip(self.layers, context.memories, each, strict=True):
            # A single vector comes last and sees everything, whatever holds it.
            x, _ = layer(x, angles, None, memory, vectors, length > 1)
        return self.head(x, of_head(noise))  # N, T', D
