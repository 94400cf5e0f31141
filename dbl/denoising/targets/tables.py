"""Discrete targets as rows of a frozen table of unit vectors: the table, how logits over it are read, and the loss."""

import math
from abc import ABC
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
from dbl.denoising.readout import Adjust, Clean, Prediction, Readout, mean_cross_entropy
from dbl.denoising.targets.gaussian import TARGET, GaussianSpace, GaussianTarget, Weight
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
        own = self._own_logits(estimate, output)
        return self.with_evidence(own if adjust is None else adjust(own), noisy, sigma)

    def with_evidence(self, own: Tensor, noisy: Tensor, sigma: Tensor) -> Prediction:
        """The prediction from the network's own logits.

        Args:
            own: [N, C] or [N, T, C] logits, without the evidence of the noisy target.
            noisy: [N, *target_shape].
            sigma: [N].
        """
        logits = self._posterior(own, noisy, sigma)
        return Prediction(logits.softmax(dim=-1) @ self.table, logits)

    def _posterior(self, own: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
        if self.kind != "posterior":
            return own
        # Bayes' rule: log p(y | x, z) = log p(y | x) + <z, e_y> / sigma^2 + const, for rows of equal length.
        return own + (noisy @ self.table.T) / append_axes(sigma, noisy).square()

    @override
    def unweighted_loss(self, estimate: Tensor, output: Tensor, noisy: Tensor, sigma: Tensor, clean: Clean) -> Tensor:
        # Not through `forward`: the loss does not need the expected embedding.
        own, share = self._own_logits(estimate, output), self.context_share
        if share == 1:
            return mean_cross_entropy(own, clean.labels)
        loss = mean_cross_entropy(self._posterior(own, noisy, sigma), clean.labels)
        return torch.lerp(loss, mean_cross_entropy(own, clean.labels), share) if share else loss

    def _own_logits(self, estimate: Tensor, output: Tensor) -> Tensor:
        """Logits without the evidence of the noisy target."""
        if self.kind == "cosine":
            return self.log_scale.exp() * (unit_rows(estimate) @ self.table.T)
        return self.linear(output)

    @override
    def loss(self, prediction: Prediction, clean: Clean) -> Tensor:
        """Cross-entropy in nats, of a sequence the mean over its scored tokens."""
        assert prediction.logits is not None
        return mean_cross_entropy(prediction.logits, clean.labels)


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
