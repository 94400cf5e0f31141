"""What the end-to-end baselines of text share: exact nats of each token, and a writer."""

from abc import abstractmethod
from typing import cast

from torch import Tensor, nn

from dbl.data.spec import IGNORED
from dbl.denoising.decoding import Decoding
from dbl.denoising.targets import Batch, TokenTarget, mean_cross_entropy, text_spec
from dbl.inference.generation import TextGenerator
from dbl.run.contract import Contract
from dbl.training.module import Losses, TrainingConfig, TrainingModule
from dbl.utils.errors import UserError


class EndToEndText(TrainingModule):
    """A language model trained through all its layers at once: a sibling of `DiffusionBlock`.

    Args:
        contract: of the run that it is compared with; network sizes, data and seed are taken from it.
        recipe: how to train it.

    Attributes:
        network: the model, with its layers in `body`.

    Raises:
        UserError: if the run is not one of next tokens.
    """

    network: nn.Module

    def __init__(self, contract: Contract, recipe: TrainingConfig | None = None) -> None:
        super().__init__("end_to_end", 0, contract, recipe)
        target = contract.config.target
        if not isinstance(target, TokenTarget):
            raise UserError(f"{type(self).__name__} needs contract.target TokenTarget, not {type(target).__name__}")
        self.text = text_spec(contract.data, type(self).__name__)
        self.target_shape = target.shape(contract.data)
        self.space = contract.space()

    @property
    def trained(self) -> nn.Module:
        """The model."""
        return self.network

    @property
    def raw_network(self) -> nn.Module:
        """Its layers."""
        return cast(nn.Module, self.network.body)

    @abstractmethod
    def logits(self, tokens: Tensor, training: bool) -> Tensor:
        """Logits [N, T, C] of the tokens after those given [N, T]."""

    @abstractmethod
    def text_generator(self, decoding: Decoding, num_steps: int | None = None, seed: int = 0) -> TextGenerator:
        """A writer.

        Args:
            decoding: how tokens are drawn.
            num_steps: passes through the core of a recurrent network; nothing for others.
            seed: of all draws.
        """

    def losses(self, batch: Batch) -> Losses:
        """Cross-entropy of each sequence in nats, mean over its scored tokens."""
        clean = self.space.encode(batch)
        return Losses(mean_cross_entropy(self.logits(clean.cond, self.training).float(), clean.labels))

    def exact_nats(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Nats [N] of the scored tokens of each sequence, added up, and their number [N]."""
        scored = (batch["tokens"][:, 1:] != IGNORED).sum(1)
        return self.losses(batch).per_sample * scored, scored

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss; `dbl.evaluation.callbacks.likelihood.Likelihood` reports nats and what follows from them."""
        self.log("test/loss", self.losses(batch).per_sample.mean(), batch_size=len(batch["index"]), sync_dist=True)
