"""The base class of end-to-end language models: cross-entropy, exact nats, text generation."""

from abc import abstractmethod
from typing import cast

from torch import Tensor, nn
from typing_extensions import override

from dbl.data.spec import IGNORED
from dbl.denoising.decoding import Decoding
from dbl.denoising.readout import mean_over_scored
from dbl.denoising.targets import Batch, TokenTarget, text_spec
from dbl.denoising.vocabulary import linear_label_nats
from dbl.inference.generation import TextGenerator
from dbl.run.contract import Contract
from dbl.training.config import TrainingConfig
from dbl.training.module import Losses, TrainingModule
from dbl.utils.errors import UserError


class EndToEndText(TrainingModule):
    """A language model trained end to end. Raises UserError unless the run's target is `TokenTarget`.

    Args:
        contract: contract of the run that it is compared with; gives network sizes, data and seed.
        recipe: training configuration.
    """

    network: nn.Module  # with its layers in `body` and a linear layer `head`

    def __init__(self, contract: Contract, recipe: TrainingConfig | None = None) -> None:
        super().__init__("end_to_end", 0, contract, recipe)
        target = contract.config.target
        if not isinstance(target, TokenTarget):
            raise UserError(f"{type(self).__name__} needs contract.target TokenTarget, not {type(target).__name__}")
        self.text = text_spec(contract.data, type(self).__name__)
        self.target_shape = target.shape(contract.data)
        self.space = contract.space()

    @property
    @override
    def backbone(self) -> nn.Module:
        return self.network.get_submodule("body")

    @property
    def head(self) -> nn.Linear:
        """From features to logits."""
        return cast(nn.Linear, self.network.get_submodule("head"))

    @abstractmethod
    def features(self, tokens: Tensor, training: bool) -> Tensor:
        """Features [N, T, D] from which the head reads the logits of the next tokens of [N, T]."""

    def logits(self, tokens: Tensor, training: bool) -> Tensor:
        """Logits [N, T, C] of the next tokens of [N, T]."""
        return cast(Tensor, self.head(self.features(tokens, training)))

    @abstractmethod
    def text_generator(self, decoding: Decoding, num_steps: int | None = None, seed: int = 0) -> TextGenerator:
        """Create a text generator.

        Args:
            decoding: rule by which tokens are drawn.
            num_steps: number of passes through the core of a recurrent network; ignored by others.
            seed: random seed.
        """

    @override
    def losses(self, batch: Batch) -> Losses:
        """Cross-entropy of each sequence in nats, mean over its scored tokens, by which it is weighted."""
        clean = self.space.encode(batch)
        nats = linear_label_nats(self.head, self.features(clean.cond, self.training), clean.labels)
        per_sample = mean_over_scored(nats, clean.labels)
        return Losses(per_sample, weight=self.contract.sample_weights(clean.labels))

    def exact_nats(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Total nats [N] of the scored tokens of each sequence, and their number [N]."""
        scored = (batch["tokens"][:, 1:] != IGNORED).sum(1)
        return self.losses(batch).per_sample * scored, scored

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the loss; the callback `Likelihood` reports nats and perplexity."""
        self.log_mean("test/loss", self.losses(batch))
