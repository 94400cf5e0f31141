"""RecurrentLM: a language model that iterates the same layers, and the one-step denoiser of its states.

Huginn (Geiping et al. 2025, arXiv 2502.05171, Sec. 3): a prelude embeds the tokens, a core maps a state and that
embedding to the next state any number of times, and a coda reads the last state. Layers here are pre-norm, which Huginn
reports as equally good at small scale; the core ends in a norm, as there. For DiffusionBlocks (arXiv 2506.14202) the
state is a noisy vector of the next token, and a training step passes through the core once, at a random noise level.

Axes: N batch, T tokens, D width of a target vector, W width of the state.
"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple, cast, get_args

import torch
from torch import Tensor, nn
from typing_extensions import override

from dbl.data.spec import DataSpec, TextSpec
from dbl.networks.architecture import NETWORK
from dbl.networks.kv_cache import KeyValueBuffer
from dbl.networks.layers import NoiseEmbedding
from dbl.networks.level_modulations import LevelModulations, of_head, of_layers
from dbl.networks.llama import (
    Angles,
    Embedding,
    LanguageModel,
    LlamaHead,
    LlamaLayer,
    embed_tokens,
    initialise_llama,
    rms_norm,
    rotary_angles,
)
from dbl.utils.checks import check_choice, check_numbers, whole
from dbl.utils.errors import UserError


@dataclass(frozen=True)
class RecurrentLM(LanguageModel):
    """Sizes of a recurrent-depth language model; the targets are rows of a table, one per token.

    Args:
        num_layers: number of layers of prelude, core and coda together, each counted once.
        width: width of tokens and state.
        prelude: number of layers that embed the tokens.
        coda: number of layers that read the last state.
        embedding: token embedding, "own" or "table" as in `CausalLM`.
        mean_iterations: number of passes through the core of the end-to-end baseline: the mean in training, exact in
            tests.
        backprop_iterations: number of last passes that are back-propagated in the baseline's training.

    Example:
        >>> import dbl
        >>> network = dbl.RecurrentLM(4, prelude=1, coda=1, width=32, num_heads=2, mlp_width=64, mean_iterations=8)
        >>> network.layer_passes(4)  # a training step of the denoiser passes through each layer once
        4.0
        >>> network.baseline_passes()  # of the baseline: prelude, 8 times the 2 layers of the core, coda
        18.0
    """

    can_be_partitioned: ClassVar[bool] = False
    rereads_text: ClassVar[bool] = True  # states depend on the step
    num_layers: int = 8
    width: int = 512
    num_heads: int = 8
    mlp_width: int = 1376
    prelude: int = 2
    coda: int = 2
    embedding: Embedding = "own"
    mean_iterations: int = 32
    backprop_iterations: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(f"{NETWORK}.embedding", self.embedding, get_args(Embedding))
        outside = whole(0, self.num_layers - 1)
        iterations = whole(1, 10_000)
        check_numbers(NETWORK, self, prelude=outside, coda=outside)
        check_numbers(NETWORK, self, mean_iterations=iterations, backprop_iterations=iterations)
        if self.prelude + self.coda >= self.num_layers:
            raise UserError(
                f"{NETWORK}.num_layers ({self.num_layers}) must leave a layer for the core beside prelude "
                f"({self.prelude}) and coda ({self.coda})"
            )

    @override
    def build(
        self, data: DataSpec, target_shape: tuple[int, ...], num_layers: int, table: Tensor | None = None
    ) -> "RecurrentNetwork":
        """Build the network; the target is [T, D] and cond the clean tokens [N, T] before it."""
        text = self.require(data, TextSpec)
        if len(target_shape) != 2:
            raise UserError("network RecurrentLM denoises one vector for each token: use it with dbl.TokenTarget")
        if num_layers != self.num_layers:
            raise UserError(
                "network RecurrentLM uses the same layers at every noise level and is not cut: set "
                "contract.partition.num_blocks=1"
            )
        return RecurrentNetwork(self, text.num_classes, target_shape[1], table)

    @override
    def baseline_passes(self) -> float:
        core = self.num_layers - self.prelude - self.coda
        forward = self.prelude + self.coda + core * self.mean_iterations
        backward = self.prelude + self.coda + core * min(self.mean_iterations, self.backprop_iterations)
        return (forward + 2 * backward) / 3  # a backward pass costs about twice a forward pass

    def build_recurrent(self, data: DataSpec, target_dim: int, table: Tensor | None = None) -> "RecurrentBaseline":
        """Build the end-to-end baseline: the same layers, iterated."""
        return RecurrentBaseline(self, self.require(data, TextSpec).num_classes, target_dim, table)


class Place(NamedTuple):
    """Where tokens stand, and what was read before them.

    Attributes:
        angles: rotary angles of their positions.
        memories: keys and values of earlier tokens, of each layer; None: there are no earlier tokens.
        mask: [T, S] as in `LlamaLayer.forward`.
    """

    angles: Angles
    memories: tuple[KeyValueBuffer, ...] | None = None
    mask: Tensor | None = None


class NextPlace(NamedTuple):
    """The last place of a text, whose next token is denoised.

    Attributes:
        embedded: [N, 1, W] output of prelude and adapter for its token.
        place: position, and the cache of what one level has read before it.
    """

    embedded: Tensor
    place: Place


class Recurrence(nn.Module):
    """Prelude, core and coda; the `forward` of a subclass decides how often to pass through the core.

    `embedding="table"` needs the frozen `table` [C, D].
    """

    modulated: ClassVar[bool]  # by a noise vector: core, coda and head

    def __init__(self, sizes: RecurrentLM, num_tokens: int, target_dim: int, table: Tensor | None = None) -> None:
        super().__init__()
        self.head_dim = sizes.head_dim
        cond_width = sizes.cond_width if self.modulated else None
        self.core_start, self.coda_start = sizes.prelude, sizes.num_layers - sizes.coda
        self.embedding = embed_tokens(sizes.embedding, num_tokens, sizes.width, table)
        self.layers = nn.ModuleList(
            LlamaLayer(sizes.width, sizes.num_heads, sizes.mlp_width, cond_width if number >= self.core_start else None)
            for number in range(sizes.num_layers)
        )
        # Huginn's adapter of the concatenated state and embedding, split into halves: the embedding's half is the same
        # in every iteration and computed once.
        self.adapt_state = nn.Linear(sizes.width, sizes.width, bias=False)
        self.adapt_embedding = nn.Linear(sizes.width, sizes.width, bias=False)
        self.core_norm = rms_norm(sizes.width)
        self.head = LlamaHead(sizes.width, target_dim, cond_width)
        if self.modulated:
            self.noise_embedding = NoiseEmbedding(sizes.cond_width)
            self.noisy_embedding = nn.Linear(target_dim, sizes.width, bias=False)
        initialise_llama(self, sizes.num_layers)
        for half in (self.adapt_state, self.adapt_embedding):
            # Scaled as one layer with 2 W inputs.
            nn.init.normal_(half.weight, std=(2 * half.in_features) ** -0.5)

    def whole(self, tokens: Tensor) -> Place:
        """The place of tokens [N, T] that are a text from its beginning."""
        return Place(rotary_angles(0, tokens.shape[1], self.head_dim, tokens.device))

    def embed(self, tokens: Tensor, place: Place) -> Tensor:
        """Prelude and its half of the adapter: tokens [N, T] -> [N, T, W], added in every iteration."""
        x = self._through(range(self.core_start), self.embedding(tokens), place, None)  # N, T, W
        return self.adapt_embedding(x).type_as(x)

    def iterate(
        self, state: Tensor, embedded: Tensor, place: Place, noise: Tensor | LevelModulations | None = None
    ) -> Tensor:
        """One pass through the core: state [N, T, W] -> next state [N, T, W]."""
        x = self.adapt_state(state) + embedded
        return self.core_norm(self._through(range(self.core_start, self.coda_start), x, place, noise))

    def read(self, state: Tensor, place: Place, noise: Tensor | LevelModulations | None = None) -> Tensor:
        """Coda and head: last state [N, T, W] -> [N, T, D]."""
        state = self._through(range(self.coda_start, len(self.layers)), state, place, noise)
        return self.head(state, of_head(noise))

    def memorise_in_coda(self, state: Tensor, place: Place, noise: LevelModulations) -> None:
        """Let the coda's layers remember the last state [N, T, W]; what the last layer makes of it is not needed."""
        if self.coda_start == len(self.layers):
            return
        last = len(self.layers) - 1
        x = self._through(range(self.coda_start, last), state, place, noise)
        assert place.memories is not None
        layer = cast(LlamaLayer, self.layers[last])
        layer.memorise(x, place.angles, place.memories[last], noise.layers[last])

    def _through(self, numbers: range, x: Tensor, place: Place, noise: Tensor | LevelModulations | None) -> Tensor:
        """Pass [N, T, W] through some layers."""
        memories = place.memories or [None] * len(self.layers)
        each = list(zip(self.layers, memories, of_layers(noise, len(self.layers)), strict=True))
        for layer, memory, vectors in each[numbers.start : numbers.stop]:
            x, _ = layer(x, place.angles, place.mask, memory, vectors)
        return x


class RecurrentNetwork(Recurrence):
    """The denoiser: the noisy vectors are the state, and one pass through the core denoises them.

    Noisy vector i stands for the token after clean token i. Later positions may attend to it, since it tells them less
    than the clean token that they see anyway.
    """

    modulated = True

    def forward(self, noisy: Tensor, c_noise: Tensor | LevelModulations, cond: Tensor | NextPlace) -> Tensor:
        """Denoise the tokens that follow the clean ones.

        Args:
            noisy: [N, T, D] vectors scaled by c_in.
            c_noise: [N] embedded noise levels, or what `modulations` made of them.
            cond: clean tokens [N, T], or the last place of a text that a `RecurrentContext` has read (T = 1).

        Returns:
            [N, T, D].
        """
        noise = c_noise if isinstance(c_noise, LevelModulations) else self.noise_embedding(c_noise)
        if isinstance(cond, Tensor):
            place = self.whole(cond)
            embedded = self.embed(cond, place)
        else:
            embedded, place = cond
        state = self.iterate(self.noisy_embedding(noisy), embedded, place, noise)  # N, T, W
        return self.read(state, place, noise)  # N, T, D

    def modulations(self, c_noise: Tensor) -> LevelModulations:
        """What modulates core, coda and head at embedded levels [N]; it depends on nothing else."""
        return LevelModulations.of(self.layers, self.head, self.noise_embedding(c_noise))


class RecurrentBaseline(Recurrence):
    """The iterated language model, trained by truncated back-propagation."""

    modulated = False

    def forward(self, tokens: Tensor, state: Tensor, iterations: int, backprop_iterations: int | None = None) -> Tensor:
        """Predict the next tokens: [N, T, D]. Raises UserError if a number of iterations is not positive.

        Args:
            tokens: [N, T] clean tokens.
            state: [N, T, W] initial state, random noise.
            iterations: number of passes through the core.
            backprop_iterations: number of last passes that are back-propagated, into the prelude too; None: all.
        """
        backprop = iterations if backprop_iterations is None else backprop_iterations
        if min(iterations, backprop) < 1:
            raise UserError(f"iterations ({iterations}) and backprop_iterations ({backprop}) must be at least 1")
        place = self.whole(tokens)
        embedded = self.embed(tokens, place)
        for number in range(iterations):
            with torch.set_grad_enabled(torch.is_grad_enabled() and number >= iterations - backprop):
                state = self.iterate(state, embedded, place)
        return self.read(state, place)  # N, T, D
