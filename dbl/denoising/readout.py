"""From the output of a network to a prediction and its loss: what denoisers and targets have in common."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import override

from dbl.data.spec import IGNORED
from dbl.denoising.vocabulary import in_chunks, in_one_chunk, label_nats, without_autocast

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


class Prediction:
    """What a block predicts from a noisy target.

    Args:
        denoised: [N, *target_shape].
        logits: [N, C] or [N, T, C] if the target is discrete.
    """

    def __init__(self, denoised: Tensor, logits: Tensor | None = None) -> None:
        self._denoised = denoised
        self._logits = logits

    @property
    def denoised(self) -> Tensor:
        """[N, *target_shape]."""
        return self._denoised

    @property
    def logits(self) -> Tensor | None:
        """[N, C] or [N, T, C] if the target is discrete."""
        return self._logits

    def nats(self, labels: Tensor) -> Tensor:
        """Cross-entropy of labels [N] or [N, T], 0 where nothing is scored. Raises ValueError without logits."""
        if self.logits is None:
            raise ValueError("cross-entropy needs logits: the target must be discrete")
        return label_nats(self.logits.float(), labels)


class RowPrediction(Prediction):
    """A prediction whose logits are made when they are used, chunk by chunk if there are many.

    Args:
        make_logits: function of rows that returns their logits [R, C] in float32.
        denoise: function of these logits and of the rows after the features that returns denoised targets [R, ...].
        num_classes: C.
        shape: [N] or [N, T], the axes that are one axis R for both functions.
        features: [N, ...] or [N, T, ...], the first argument of `make_logits`.
        rows: its other arguments, with the same first axes.
    """

    def __init__(
        self,
        make_logits: Callable[..., Tensor],
        denoise: Callable[..., Tensor],
        num_classes: int,
        shape: torch.Size,
        features: Tensor,
        *rows: Tensor,
    ) -> None:
        self._make_logits = make_logits
        self._denoise = denoise
        self._num_classes = num_classes
        self._shape = shape
        self._rows = [self._as_rows(tensor) for tensor in (features, *rows)]
        self._records_gradients = torch.is_grad_enabled()

    @cached_property
    @override
    def denoised(self) -> Tensor:
        return self._map(self._denoise, *self._rows[1:])

    @cached_property
    @override
    def logits(self) -> Tensor:
        with self._as_created():
            return self._make_logits(*self._rows).unflatten(0, self._shape)

    @override
    def nats(self, labels: Tensor) -> Tensor:
        return self.map(label_nats, labels)

    def map(self, function: Callable[..., Tensor], *more: Tensor) -> Tensor:
        """Apply a function of logits [R, C] and of further tensors [N, ...] or [N, T, ...], row by row.

        Returns:
            Its results, [N, ...] or [N, T, ...].
        """
        return self._map(function, *(self._as_rows(tensor) for tensor in more))

    def _map(self, function: Callable[..., Tensor], *more: Tensor) -> Tensor:
        if "logits" in self.__dict__ or in_one_chunk(self._num_classes, self._rows[0]):
            with self._as_created():
                return function(self.logits.flatten(0, -2), *more).unflatten(0, self._shape)
        num = len(self._rows)

        def of_rows(*rows: Tensor) -> Tensor:
            return function(self._make_logits(*rows[:num]), *rows[num:])

        with self._as_created():
            return in_chunks(of_rows, self._num_classes, *self._rows, *more).unflatten(0, self._shape)

    def _as_rows(self, tensor: Tensor) -> Tensor:
        return tensor.flatten(0, len(self._shape) - 1)

    @contextmanager
    def _as_created(self) -> Iterator[None]:
        """Whatever surrounds the use: gradients as at the creation, and float32 around the network."""
        with torch.set_grad_enabled(self._records_gradients), without_autocast(self._rows[0]):
            yield


class Readout(nn.Module, ABC):
    """Turns the output of the network into a denoised target, with the loss that trains it; belongs to one block."""

    @abstractmethod
    def forward(
        self, estimate: Tensor, output: Tensor, noisy: Tensor, sigma: Tensor, adjust: Adjust | None = None
    ) -> Prediction:
        """Read the output of the network.

        Args:
            estimate: [N, *target_shape] preconditioned output, `c_skip noisy + c_out output`.
            output: [N, *target_shape] raw output of the network, in its precision; all else is float32.
            noisy: [N, *target_shape].
            sigma: [N].
            adjust: change of the network's own logits for discrete targets, such as a temperature, applied before the
                evidence of the noisy target is added.
        """

    def reader(self, output: Tensor, adjust: Adjust | None = None) -> Callable[[Tensor, Tensor], Prediction] | None:
        """Read an output that depends on no noise once, for many levels.

        Args:
            output: [N, *target_shape] raw output of a network that reads the condition alone.
            adjust: as in `forward`.

        Returns:
            The prediction as a function of noisy [N, *target_shape] and levels [N]; None if `forward` must be called.
        """
        return None

    @abstractmethod
    def loss(self, prediction: Prediction, clean: Clean) -> Tensor:
        """[N] loss of a prediction."""

    def unweighted_loss(self, estimate: Tensor, output: Tensor, noisy: Tensor, sigma: Tensor, clean: Clean) -> Tensor:
        """[N] training loss before the weight; arguments as in `forward`. Override it where it needs less than that."""
        return self.loss(self(estimate, output, noisy, sigma), clean)


def mean_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """[N] means of `label_nats` over the scored labels of each sample."""
    return mean_over_scored(label_nats(logits, labels), labels)


def mean_over_scored(values: Tensor, labels: Tensor) -> Tensor:
    """[N] means of values [N] or [N, T], which are 0 where nothing is scored, over the scored labels of each sample."""
    return values if values.ndim == 1 else values.sum(1) / (labels != IGNORED).sum(1).clamp(min=1)


def hidden_labels(labels: Tensor, noisy: Tensor, mask: int) -> Tensor:
    """Labels [N, T] with IGNORED in place of those that are shown in noisy [N, T]."""
    return labels.masked_fill(noisy != mask, IGNORED)
