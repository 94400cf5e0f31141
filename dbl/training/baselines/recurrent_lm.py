"""The recurrent-depth language model trained through its iterations (Huginn, arXiv 2502.05171)."""

from typing import cast

import torch
from torch import Tensor, nn

from dbl.denoising.decoding import Decoding
from dbl.inference.generation import CausalGenerator, RecurrentIterations, TextGenerator
from dbl.networks import RecurrentLM
from dbl.networks.recurrent_lm import RecurrentBaseline
from dbl.run.contract import Contract
from dbl.training.baselines.text import EndToEndText
from dbl.training.module import TrainingConfig
from dbl.utils.errors import UserError
from dbl.utils.seeding import SampleDraws, generator_for, seeded

# Spread of the logarithm of the mean of the Poisson distribution (Huginn, Sec. 3.3).
_LOG_SPREAD = 0.5


class RecurrentModel(nn.Module):
    """The iterated network with a linear readout.

    Args:
        body: prelude, core and coda.
        target_dim: D of the blocks' targets, so that both sides have the same readout.
        num_tokens: C.
    """

    def __init__(self, body: RecurrentBaseline, target_dim: int, num_tokens: int) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(target_dim, num_tokens)

    def forward(self, tokens: Tensor, state: Tensor, iterations: int, backprop_iterations: int | None = None) -> Tensor:
        """Logits [N, T, C]; arguments as in `RecurrentBaseline.forward`."""
        logits: Tensor = self.head(self.body(tokens, state, iterations, backprop_iterations))
        return logits


class EndToEndRecurrentLM(EndToEndText):
    """A run of `RecurrentLM`, trained by truncated back-propagation; arguments as in `EndToEndText`.

    The number of iterations of a training step is a Poisson number whose mean is log-normal around
    `network.mean_iterations`; in tests it is that mean.
    """

    network: RecurrentModel

    def __init__(self, contract: Contract, recipe: TrainingConfig | None = None) -> None:
        super().__init__(contract, recipe)
        sizes = contract.config.network
        if not isinstance(sizes, RecurrentLM):
            raise UserError(f"EndToEndRecurrentLM needs contract.network RecurrentLM, not {type(sizes).__name__}")
        self.sizes = sizes
        target_dim = self.target_shape[1]
        with seeded(contract.config.seed, "weights", "end_to_end"):
            body = sizes.build_recurrent(self.text, target_dim, contract.table)
            self.network = RecurrentModel(body, target_dim, self.text.num_classes)

    def logits(self, tokens: Tensor, training: bool) -> Tensor:
        """See `EndToEndText.logits`; in training, start states and iterations are functions of `batches_seen`.

        In tests all sequences start from one state, so that the nats of a sequence do not depend on its batch.
        """
        shape = (*tokens.shape, self.sizes.width)  # N, T, W
        if not training:
            state = self._normal(shape[1:], tokens, "state", "test").expand(shape)
            return cast(Tensor, self.network(tokens, state, self.sizes.mean_iterations))
        state = self._normal(shape, tokens, "state", self.batches_seen, self.global_rank)
        return cast(Tensor, self.network(tokens, state, self._iterations(), self.sizes.backprop_iterations))

    def _normal(self, shape: tuple[int, ...], like: Tensor, *purpose: str | int) -> Tensor:
        generator = generator_for(self.seed, *purpose, device=like.device)
        return torch.randn(shape, generator=generator, device=like.device)

    def _iterations(self) -> int:
        """At least one, the same on all ranks."""
        if self.stands_for_all_steps:
            return self.sizes.mean_iterations
        generator = generator_for(self.seed, "iterations", self.batches_seen)
        normal = torch.randn(1, generator=generator)
        # The mean of a log-normal number is exp(mu + spread^2 / 2).
        rate = (self.sizes.mean_iterations - 1) * torch.exp(_LOG_SPREAD * normal - _LOG_SPREAD**2 / 2)
        return 1 + int(torch.poisson(rate, generator=generator))

    def text_generator(self, decoding: Decoding, num_steps: int | None = None, seed: int = 0) -> TextGenerator:
        """See `EndToEndText.text_generator`."""
        iterations = self.sizes.mean_iterations if num_steps is None else num_steps
        reader = RecurrentIterations(self.network, iterations, decoding, self._start)
        return CausalGenerator(reader, self.text.seq_len, seed)

    def _start(self, tokens: Tensor, draws: SampleDraws) -> Tensor:
        return draws.normal(torch.empty(*tokens.shape, self.sizes.width, device=tokens.device))
