"""The recurrent-depth language model trained through its iterations (Huginn, arXiv 2502.05171)."""

import torch
from torch import Tensor, nn
from typing_extensions import override

from dbl.denoising.decoding import Decoding
from dbl.inference.generation import CausalGenerator, RecurrentIterations, TextGenerator
from dbl.networks import RecurrentLM
from dbl.networks.recurrent_lm import RecurrentBaseline
from dbl.run.contract import Contract
from dbl.training.baselines.text import EndToEndText
from dbl.training.config import TrainingConfig
from dbl.utils.errors import UserError
from dbl.utils.seeding import SampleDraws, generator_for, seeded

# Standard deviation of the log of the Poisson rate (Huginn, Sec. 3.3).
_LOG_SPREAD = 0.5


class RecurrentModel(nn.Module):
    """Prelude, core and coda, with a linear readout from the width D of the blocks' targets."""

    def __init__(self, body: RecurrentBaseline, target_dim: int, num_tokens: int) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(target_dim, num_tokens)

    def forward(self, tokens: Tensor, state: Tensor, iterations: int, backprop_iterations: int | None = None) -> Tensor:
        """Logits [N, T, C]; arguments as in `RecurrentBaseline.forward`, which makes the features."""
        return self.head(self.body(tokens, state, iterations, backprop_iterations))


class EndToEndRecurrentLM(EndToEndText):
    """A run of `RecurrentLM`, trained by truncated back-propagation; arguments as in `EndToEndText`.

    In training the number of iterations is Poisson with a log-normal rate of mean `network.mean_iterations` (Huginn,
    Sec. 3.3); in tests it is that mean.
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

    @override
    def features(self, tokens: Tensor, training: bool) -> Tensor:
        """In training, start states and iterations are functions of `batches_seen`."""
        shape = (*tokens.shape, self.sizes.width)  # N, T, W
        if not training:  # one state for all sequences, so that the nats of a sequence do not depend on its batch
            state = self._normal(shape[1:], tokens, "state", "test").expand(shape)
            return self.network.body(tokens, state, self.sizes.mean_iterations)
        state = self._normal(shape, tokens, "state", self.batches_seen, self.global_rank)
        return self.network.body(tokens, state, self._iterations(), self.sizes.backprop_iterations)

    def _normal(self, shape: tuple[int, ...], like: Tensor, *purpose: str | int) -> Tensor:
        generator = generator_for(self.seed, *purpose, device=like.device)
        return torch.randn(shape, generator=generator, device=like.device)

    def _iterations(self) -> int:
        """Draw the number of iterations, at least one and the same on all ranks."""
        if self.use_expected_cost:
            return self.sizes.mean_iterations
        generator = generator_for(self.seed, "iterations", self.batches_seen)
        normal = torch.randn(1, generator=generator)
        # A log-normal variable has the mean exp(mu + spread^2 / 2).
        rate = (self.sizes.mean_iterations - 1) * torch.exp(_LOG_SPREAD * normal - _LOG_SPREAD**2 / 2)
        return 1 + int(torch.poisson(rate, generator=generator))

    @override
    def text_generator(self, decoding: Decoding, num_steps: int | None = None, seed: int = 0) -> TextGenerator:
        iterations = self.sizes.mean_iterations if num_steps is None else num_steps
        reader = RecurrentIterations(self.network, iterations, decoding, self._start)
        return CausalGenerator(reader, self.text.seq_len, seed)

    def _start(self, tokens: Tensor, draws: SampleDraws) -> Tensor:
        return draws.normal(torch.empty(*tokens.shape, self.sizes.width, device=tokens.device))
