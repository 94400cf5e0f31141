"""RecurrentLM: a language model that passes often through the same layers, and the one-step denoiser of its states.

Huginn (Geiping et al. 2025, arXiv 2502.05171, Sec. 3): a prelude embeds the tokens, a core turns a state and that
embedding into the next state, as often as wanted, and a coda reads the last state. Here the layers are pre-norm, which
the source finds as good at small scale; the core ends in a norm, as there. For DiffusionBlocks (arXiv 2506.14202) the
state is a noisy vector of the next token, and training passes through the core once, at a random noise level.

Axes: N batch, T tokens, D of a target vector, W width of the state.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, get_args

import torch
from torch import Tensor, nn

from dbl.data.spec import DataSpec, TextSpec
from dbl.networks.architecture import Architecture
from dbl.networks.layers import NoiseEmbedding
from dbl.networks.llama import (
    Angles,
    Embedding,
    LlamaHead,
    LlamaLayer,
    check_sizes,
    embed_tokens,
    initialise_llama,
    rms_norm,
    rotary_angles,
)
from dbl.utils.errors import UserError, check_choice


@dataclass(frozen=True)
class RecurrentLM(Architecture):
    """Sizes of a recurrent-depth language model; the target is one vector of a table for each token.

    Args:
        num_layers: L, of prelude, core and coda together, each counted once.
        prelude: layers that embed the tokens.
        coda: layers that read the last state.
        width: of every token inside, and of the state.
        num_heads: attention heads; width / num_heads is even.
        mlp_width: inside the SwiGLU MLP.
        embedding: as in `CausalLM`.
        mean_iterations: passes through the core of the end-to-end baseline, on average in training; in tests exactly.
        backprop_iterations: the last so many of them have gradients in the baseline's training.

    Example:
        >>> import dbl
        >>> network = dbl.RecurrentLM(4, prelude=1, coda=1, width=32, num_heads=2, mlp_width=64, mean_iterations=8)
        >>> network.layer_passes(4)  # a training step of the denoiser goes through its layers once
        4.0
        >>> network.baseline_passes()  # one of the baseline: prelude, 8 times 2 layers of the core, coda
        18.0
    """

    can_be_partitioned: ClassVar[bool] = False
    rereads_text: ClassVar[bool] = True  # states depend on the step
    num_layers: int = 8
    prelude: int = 2
    coda: int = 2
    width: int = 512
    num_heads: int = 8
    mlp_width: int = 1376
    embedding: Embedding = "own"
    mean_iterations: int = 32
    backprop_iterations: int = 8

    def __post_init__(self) -> None:
        check_sizes(self.width, self.num_heads, self.mlp_width)
        check_choice("network.embedding", self.embedding, get_args(Embedding))
        if min(self.prelude, self.coda) < 0 or self.num_layers - self.prelude - self.coda < 1:
            raise UserError(
                f"network.num_layers ({self.num_layers}) must leave a layer for the core beside network.prelude "
                f"({self.prelude}) and network.coda ({self.coda})"
            )
        if min(self.mean_iterations, self.backprop_iterations) < 1:
            raise UserError(
                f"network.mean_iterations ({self.mean_iterations}) and network.backprop_iterations "
                f"({self.backprop_iterations}) must be at least 1"
            )

    def build(
        self, data: DataSpec, target_shape: tuple[int, ...], num_layers: int, table: Tensor | None = None
    ) -> "RecurrentNetwork":
        """See `Architecture.build`; the target is [T, D] and cond the clean tokens [N, T] before it."""
        text = self.require(data, TextSpec)
        if len(target_shape) != 2:
            raise UserError("network RecurrentLM denoises one vector for each token: use it with dbl.TokenTarget")
        if num_layers != self.num_layers:
            raise UserError(
                "network RecurrentLM uses the same layers at every noise level and is not cut: set "
                "contract.partition.num_blocks=1"
            )
        return RecurrentNetwork(self, text.num_classes, target_shape[1], table)

    def baseline_passes(self) -> float:
        """See `Architecture.baseline_passes`: a pass forward counts one third, a pass backward two."""
        core = self.num_layers - self.prelude - self.coda
        forward = self.prelude + self.coda + core * self.mean_iterations
        backward = self.prelude + self.coda + core * min(self.mean_iterations, self.backprop_iterations)
        return (forward + 2 * backward) / 3

    def build_recurrent(self, data: DataSpec, target_dim: int, table: Tensor | None = None) -> "RecurrentBaseline":
        """The same layers as a model that is iterated and trained end to end, for the baseline."""
        return RecurrentBaseline(self, self.require(data, TextSpec).num_classes, target_dim, table)


class Recurrence(nn.Module):
    """Prelude, core and coda; abstract, a subclass says in `forward` how often to pass through the core.

    Args:
        sizes: of the model.
        num_tokens: C.
        target_dim: D.
        table: [C, D] frozen, for `embedding="table"`.
        modulated: whether a noise vector modulates core, coda and head.
    """

    def __init__(
        self, sizes: RecurrentLM, num_tokens: int, target_dim: int, table: Tensor | None, modulated: bool
    ) -> None:
        super().__init__()
        self.head_dim = sizes.width // sizes.num_heads
        self.core_start, self.coda_start = sizes.prelude, sizes.num_layers - sizes.coda
        self.embedding = embed_tokens(sizes.embedding, num_tokens, sizes.width, table)
        self.layers = nn.ModuleList(
            LlamaLayer(sizes.width, sizes.num_heads, sizes.mlp_width, modulated and number >= self.core_start)
            for number in range(sizes.num_layers)
        )
        # Huginn's adapter of the concatenated state and embedding, in two halves: one is the same in every iteration.
        self.adapt_state = nn.Linear(sizes.width, sizes.width, bias=False)
        self.adapt_embedding = nn.Linear(sizes.width, sizes.width, bias=False)
        self.core_norm = rms_norm(sizes.width)
        self.head = LlamaHead(sizes.width, target_dim, modulated)

    def angles(self, tokens: Tensor) -> Angles:
        """Rotary positions of tokens [N, T]."""
        return rotary_angles(0, tokens.shape[1], self.head_dim, tokens.device)

    def embed(self, tokens: Tensor, angles: Angles) -> Tensor:
        """The prelude's part of the adapter's output [N, T, W], which enters every iteration."""
        x = _through(self.layers[: self.core_start], self.embedding(tokens), angles)
        out: Tensor = self.adapt_embedding(x)
        return out.type_as(x)

    def iterate(self, state: Tensor, embedded: Tensor, angles: Angles, noise: Tensor | None = None) -> Tensor:
        """One pass through the core: state [N, T, W] -> next state [N, T, W]."""
        x = self.adapt_state(state) + embedded
        out: Tensor = self.core_norm(_through(self.layers[self.core_start : self.coda_start], x, angles, noise))
        return out

    def read(self, state: Tensor, angles: Angles, noise: Tensor | None = None) -> Tensor:
        """Coda and head: last state [N, T, W] -> [N, T, D]."""
        out: Tensor = self.head(_through(self.layers[self.coda_start :], state, angles, noise), noise)
        return out

    def _initialise(self, depth: int) -> None:
        """As `initialise_llama`, and the adapter's halves as halves of one layer with 2 W inputs."""
        initialise_llama(self, depth)
        for half in (self.adapt_state, self.adapt_embedding):
            nn.init.normal_(half.weight, std=(2 * half.in_features) ** -0.5)


class RecurrentNetwork(Recurrence):
    """The denoiser: noisy vectors are the state, and one pass through the core denoises them.

    Noisy i stands for the token after clean token i. Later positions may see it, since it tells less than the clean
    token that they see anyway.

    Args:
        sizes: of the model.
        num_tokens: C.
        target_dim: D.
        table: [C, D] frozen, for `embedding="table"`.
    """

    def __init__(self, sizes: RecurrentLM, num_tokens: int, target_dim: int, table: Tensor | None = None) -> None:
        super().__init__(sizes, num_tokens, target_dim, table, modulated=True)
        self.noise_embedding = NoiseEmbedding(sizes.width)
        self.noisy_embedding = nn.Linear(target_dim, sizes.width, bias=False)
        self._initialise(sizes.num_layers)

    def forward(self, noisy: Tensor, c_noise: Tensor, cond: Tensor) -> Tensor:
        """Noisy vectors [N, T, D], already scaled by c_in; c_noise [N]; clean tokens [N, T] -> [N, T, D]."""
        angles, noise = self.angles(cond), self.noise_embedding(c_noise)
        state = self.noisy_embedding(noisy)  # N, T, W
        return self.read(self.iterate(state, self.embed(cond, angles), angles, noise), angles, noise)


class RecurrentBaseline(Recurrence):
    """The iterated language model, trained by truncated back-propagation.

    Args:
        sizes: of the model.
        num_tokens: C.
        target_dim: D.
        table: [C, D] frozen, for `embedding="table"`.
    """

    def __init__(self, sizes: RecurrentLM, num_tokens: int, target_dim: int, table: Tensor | None = None) -> None:
        super().__init__(sizes, num_tokens, target_dim, table, modulated=False)
        self._initialise(sizes.num_layers)

    def forward(self, tokens: Tensor, state: Tensor, iterations: int, backprop_iterations: int | None = None) -> Tensor:
        """Predict the tokens after the given ones.

        Args:
            tokens: [N, T] clean.
            state: [N, T, W] to start from, noise of the caller's.
            iterations: passes through the core.
            backprop_iterations: the last so many of them have gradients, for the prelude too; None: all.

        Returns:
            [N, T, D].

        Raises:
            UserError: if a number of iterations is not positive.
        """
        backprop = iterations if backprop_iterations is None else backprop_iterations
        if min(iterations, backprop) < 1:
            raise UserError(f"iterations ({iterations}) and backprop_iterations ({backprop}) must be at least 1")
        angles = self.angles(tokens)
        embedded = self.embed(tokens, angles)
        for number in range(iterations):
            with torch.set_grad_enabled(torch.is_grad_enabled() and number >= iterations - backprop):
                state = self.iterate(state, embedded, angles)
        return self.read(state, angles)


def _through(layers: Iterable[nn.Module], x: Tensor, angles: Angles, noise: Tensor | None = None) -> Tensor:
    """Pass [N, T, W] through layers, each token seeing those up to itself."""
    for layer in layers:
        x, _ = layer(x, angles, noise=noise)
    return x
