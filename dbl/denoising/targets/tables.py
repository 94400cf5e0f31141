"""Discrete targets as rows of a frozen table of unit vectors: the table, how logits over it are read, and the loss."""

import math
from abc import ABC
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from dbl.data.spec import DataSpec
from dbl.denoising.readout import Adjust, Clean, Prediction, Readout, RowPrediction, mean_over_scored
from dbl.denoising.targets.gaussian import TARGET, GaussianSpace, GaussianTarget, Weight
from dbl.denoising.vocabulary import exact_evaluation, label_nats, project
from dbl.diffusion.gaussian import append_axes
from dbl.utils.checks import check_choice, check_numbers, whole
from dbl.utils.errors import UserError
from dbl.utils.seeding import generator_for

ReadoutKind = Literal["cosine", "linear", "posterior"]


def unit_rows(table: Tensor) -> Tensor:
    """The one function that normalises target vectors: every row [D] to length 1, in training and in sampling alike."""
    return F.normalize(table, dim=-1)


class TableReadout(Readout):
    """Logits over the rows of a table; denoised is the expected embedding; the loss is cross-entropy.

    These are the discrete targets of the paper's Eq. 5. Targets are vectors [N, D] or sequences of them [N, T, D].

    Args:
        table: [C, D] rows of unit length, frozen.
        kind: kind of logits; see `TableTarget`.
        context_share: share of the loss on the logits without evidence; see `TokenTarget`.
    """

    def __init__(self, table: Tensor, kind: ReadoutKind, context_share: float = 0.0) -> None:
        super().__init__()
        self.kind = kind
        self.context_share = context_share
        self.table: Tensor
        self.register_buffer("table", table, persistent=False)
        if kind == "cosine":
            self.log_scale = nn.Parameter(torch.tensor([math.log(16.0)]))  # of shape [1]: FSDP has no scalars
        else:
            self.linear = nn.Linear(table.shape[1], table.shape[0])

    @override
    def forward(
        self, estimate: Tensor, output: Tensor, noisy: Tensor, sigma: Tensor, adjust: Adjust | None = None
    ) -> Prediction:
        return self.prediction(self._own_logits, self._features(estimate, output), noisy, sigma, adjust)

    @override
    def reader(self, output: Tensor, adjust: Adjust | None = None) -> Callable[[Tensor, Tensor], Prediction] | None:
        if self.kind == "cosine":
            return None
        return self.reader_of(self._own_logits(output.flatten(0, -2)).unflatten(0, output.shape[:-1]), adjust)

    def reader_of(self, own: Tensor, adjust: Adjust | None = None) -> Callable[[Tensor, Tensor], Prediction]:
        """The same from logits [N, C] or [N, T, C] without evidence, which are few enough to be kept."""
        adjusted = own if adjust is None else adjust(own)
        rows = adjusted.flatten(0, -2)

        def read(noisy: Tensor, sigma: Tensor) -> Prediction:
            levels = _levels(sigma, noisy).flatten()
            logits = self._with_evidence(rows, noisy.flatten(0, -2), levels)
            denoised = self._expected_row(logits)
            return Prediction(denoised.reshape(noisy.shape), logits.reshape(adjusted.shape))

        return read

    def prediction(
        self,
        own_logits: Callable[[Tensor], Tensor],
        features: Tensor,
        noisy: Tensor,
        sigma: Tensor,
        adjust: Adjust | None = None,
    ) -> RowPrediction:
        """The prediction from the network's own logits, made for a chunk of rows at a time.

        Args:
            own_logits: function of rows of features [R, ...] that returns their logits [R, C] without the evidence.
            features: [N, ...] or [N, T, ...].
            noisy: [N, *target_shape].
            sigma: [N].
            adjust: change of the own logits.
        """

        def make_logits(features: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
            own = own_logits(features)
            return self._with_evidence(own if adjust is None else adjust(own), noisy, sigma)

        levels, shape = _levels(sigma, noisy), noisy.shape[:-1]
        return RowPrediction(make_logits, self._expected_row, len(self.table), shape, features, noisy, levels)

    def _expected_row(self, logits: Tensor, *_: Tensor) -> Tensor:
        with exact_evaluation():
            return logits.softmax(dim=-1) @ self.table

    def _with_evidence(self, own: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
        """Logits of rows: own [R, C], noisy [R, D] and levels [R]."""
        if self.kind != "posterior":
            return own
        # Bayes' rule: log p(y | x, z) = log p(y | x) + <z, e_y> / sigma^2 + const, for rows of equal length.
        with exact_evaluation():
            evidence = noisy @ self.table.T
        return evidence.div_(sigma.square().unsqueeze(-1)).add_(own)  # in place: a large vocabulary makes it large

    @override
    def unweighted_loss(self, estimate: Tensor, output: Tensor, noisy: Tensor, sigma: Tensor, clean: Clean) -> Tensor:
        if self.context_share == 0:
            return self.loss(self(estimate, output, noisy, sigma), clean)
        shape, num_classes = clean.labels.shape, len(self.table)
        own = RowPrediction(self._own_logits, self._expected_row, num_classes, shape, self._features(estimate, output))
        if self.context_share == 1:
            return self.loss(own, clean)
        both = own.map(self._both_nats, noisy, _levels(sigma, noisy), clean.labels)
        loss, own_loss = (mean_over_scored(nats.contiguous(), clean.labels) for nats in both.unbind(-1))
        return torch.lerp(loss, own_loss, self.context_share)

    def _both_nats(self, own: Tensor, noisy: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
        """[R, 2] cross-entropy with the evidence and without it."""
        return torch.stack(
            [label_nats(self._with_evidence(own, noisy, sigma), labels), label_nats(own, labels)], dim=-1
        )

    def _features(self, estimate: Tensor, output: Tensor) -> Tensor:
        """What the logits without evidence are read from: the cosine knows the noisy target, in float32."""
        return estimate if self.kind == "cosine" else output

    def _own_logits(self, features: Tensor) -> Tensor:
        """Logits without the evidence of the noisy target."""
        if self.kind == "cosine":
            with exact_evaluation():
                return self.log_scale.exp() * (unit_rows(features) @ self.table.T)
        return project(self.linear, features)

    @override
    def loss(self, prediction: Prediction, clean: Clean) -> Tensor:
        """Cross-entropy in nats, of a sequence the mean over its scored tokens."""
        return mean_over_scored(prediction.nats(clean.labels), clean.labels)


def _levels(sigma: Tensor, noisy: Tensor) -> Tensor:
    """Levels [N] or [N, T] of noisy vectors [N, D] or [N, T, D], from [N]."""
    return append_axes(sigma, noisy)[..., 0].expand(noisy.shape[:-1])


class TableSpace(GaussianSpace):
    """One row of a frozen table for each class or token.

    Args:
        table: [C, D] rows of unit length.
    """

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table: Tensor
        self.register_buffer("table", table, persistent=False)

    @override
    def decode(self, denoised: Tensor) -> Tensor:
        """The class [N], or the tokens [N, T], whose rows are nearest to the denoised vectors."""
        return (denoised.float() @ self.table.T).argmax(dim=-1)


@dataclass(frozen=True)
class TableTarget(GaussianTarget, ABC):
    """Denoise a vector that stands for a class or token: one frozen row of unit length for each.

    `sigma_data` is 0.5 as in the paper, although a coordinate of a unit vector is smaller. The weight is uniform: EDM's
    would make cross-entropy at low noise dominate. Both are those of `GaussianTarget`.

    Args:
        dim: length D of a row.
        kind: readout of the logits. `cosine`: a learned scale (16 at the start) times the cosine of the preconditioned
            vector with each row. `linear`: a linear layer on the network's output. `posterior`: that plus the evidence
            `<noisy, row> / sigma^2` of Bayes' rule.
        table_file: safetensors file with the table to use, e.g. of a trained model; by default rows are orthonormal
            where C <= dim, else random, from the seed.
        table_name: name of the tensor [C, dim] in that file.
    """

    loss_unit: ClassVar = "cross-entropy in nats"
    weight: Weight = "uniform"
    dim: int = 128
    kind: ReadoutKind = "cosine"
    table_file: str | None = None
    table_name: str = "table"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(TARGET, self, dim=whole(1, 2**20))
        check_choice(f"{TARGET}.kind", self.kind, get_args(ReadoutKind))

    @property
    @override
    def adds_evidence(self) -> bool:
        return self.kind == "posterior"

    @override
    def make_table(self, data: DataSpec, seed: int) -> Tensor:
        """[C, dim] rows of unit length."""
        if self.table_file is not None:
            return unit_rows(_load_table(self.table_file, self.table_name, (data.num_classes, self.dim)))
        rows = torch.randn(self.dim, max(data.num_classes, self.dim), generator=generator_for(seed, "table")).double()
        if data.num_classes <= self.dim:
            rows = torch.linalg.qr(rows).Q
        return unit_rows(rows[:, : data.num_classes].T).float().contiguous()


def _load_table(path: str, name: str, shape: tuple[int, int]) -> Tensor:
    if not Path(path).is_file():
        raise UserError(f"{TARGET}.table_file {path} does not exist")
    try:
        table = load_file(path)[name]
    except (SafetensorError, KeyError):
        raise UserError(f"{TARGET}.table_file {path} is not a safetensors file with a tensor `{name}`") from None
    if tuple(table.shape) != shape:
        raise UserError(f"{TARGET}.table_file {path} has shape {list(table.shape)}, but the target needs {list(shape)}")
    if not table.norm(dim=1).all():
        raise UserError(f"{TARGET}.table_file {path} has a row of zeros, which has no direction")
    return table.float()
