"""From the output of a network to a prediction and its loss: what denoisers and targets have in common."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from dbl.data.spec import IGNORED

Adjust = Callable[[Tensor], Tensor]


class Clean(NamedTuple):
    """A batch without noise.

    Attributes:
        clean: [N, *target_shape] targets.
        cond: condition beside the noisy target: labels [N], images [N, channels, height, width] or
            earlier tokens [N, T].
        labels: [N] class labels, or [N, T] tokens, IGNORED where nothing is scored.
    """

    clean: Tensor
    cond: Tensor
    labels: Tensor


class Prediction(NamedTuple):
    """What a block predicts from a noisy target.

    Attributes:
        denoised: [N, *target_shape].
        logits: [N, C] or [N, T, C] if the target is discrete.
    """

    denoised: Tensor
    logits: Tensor | None = None


class Readout(nn.Module, ABC):
    """Turns the output of the network into a denoised target, with the loss that trains it; belongs to one block."""

    @abstractmethod
    def forward(
        self, estimate: Tensor, output: Tensor, noisy: Tensor, sigma: Tensor, adjust: Adjust | None = None
    ) -> Prediction:
        """Read the output of the network.

        Args:
            estimate: [N, *target_shape] preconditioned output, `c_skip noisy + c_out output`.
            output: [N, *target_shape] raw output of the network.
            noisy: [N, *target_shape].
            sigma: [N].
            adjust: change of the network's own logits for discrete targets, such as a temperature, applied before the
                evidence of the noisy target is added.
        """

    @abstractmethod
    def loss(self, prediction: Prediction, clean: Clean) -> Tensor:
        """[N] loss of a prediction."""

    def unweighted_loss(self, estimate: Tensor, output: Tensor, noisy: Tensor, sigma: Tensor, clean: Clean) -> Tensor:
        """[N] training loss before the weight; arguments as in `forward`. Override it where it needs less than that."""
        return self.loss(self(estimate, output, noisy, sigma), clean)


def label_nats(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each label, 0 where nothing is scored; logits [N, C] or [N, T, C], labels [N] or [N, T]."""
    nats = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none", ignore_index=IGNORED)
    return nats.reshape(labels.shape)


def mean_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """[N] means of `label_nats` over the scored labels of each sample."""
    return mean_over_scored(label_nats(logits, labels), labels)


def mean_over_scored(values: Tensor, labels: Tensor) -> Tensor:
    """[N] means of values [N] or [N, T], which are 0 where nothing is scored, over the scored labels of each sample."""
    return values if values.ndim == 1 else values.sum(1) / (labels != IGNORED).sum(1).clamp(min=1)


def hidden_nats(logits: Tensor, labels: Tensor, noisy: Tensor, mask: int) -> Tensor:
    """[N, T] cross-entropy of the hidden tokens, 0 elsewhere; from logits [N, T, C], labels and noisy [N, T]."""
    return label_nats(logits, labels.masked_fill(noisy != mask, IGNORED))
