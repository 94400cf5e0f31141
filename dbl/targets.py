"""Target spaces: what a block denoises, and how the network's answer is read.

A target is chosen in the config (`PixelTarget`, `ClassTarget`). For a data set it gives a `TargetSpace`, which turns a
raw batch into clean targets and conditions and back, and a `Readout`, which turns the preconditioned output of the
network into a denoised target and a loss. The space has no trainable parameter; the readout belongs to one block.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from dbl.data_spec import DataSpec
from dbl.diffusion import append_axes, edm_weight
from dbl.errors import UserError, check_choice
from dbl.seeding import generator_for

Batch = dict[str, Tensor]
ReadoutKind = Literal["cosine", "linear", "posterior"]


class Clean(NamedTuple):
    """A batch without noise.

    Attributes:
        clean: [N, *target_shape] targets.
        cond: what the network may see beside the noisy target: labels [N] or images [N, channels, height, width].
        labels: [N] class labels.
    """

    clean: Tensor
    cond: Tensor
    labels: Tensor


class Prediction(NamedTuple):
    """What a block says about a noisy target: the denoised target [N, *target_shape], and logits [N, C] if discrete."""

    denoised: Tensor
    logits: Tensor | None = None


def unit_rows(table: Tensor) -> Tensor:
    """The one function that normalises target vectors: every row [D] to length 1, in training and in sampling alike."""
    return F.normalize(table, dim=-1)


class TargetSpace(nn.Module, ABC):
    """From raw batches to clean targets, and from denoised targets to answers.

    Args:
        data: for the scale of the inputs.
    """

    def __init__(self, data: DataSpec) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(data.mean).reshape(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(data.std).reshape(-1, 1, 1), persistent=False)

    def standardise(self, images: Tensor) -> Tensor:
        """Raw images [N, channels, height, width] with mean 0 and standard deviation 1 over the training split."""
        return (images.float() - self.mean) / self.std

    @abstractmethod
    def encode(self, batch: Batch) -> Clean:
        """Clean targets and conditions of a raw batch with keys `image` and `label`."""

    @abstractmethod
    def decode(self, denoised: Tensor) -> Tensor:
        """The answer that a denoised target stands for: raw images, or labels [N]."""


class PixelSpace(TargetSpace):
    """Images, scaled so that their measured standard deviation is `sigma_data`; the condition is the label.

    Args:
        data: for mean and standard deviation of each channel.
        sigma_data: standard deviation of the targets.
    """

    def __init__(self, data: DataSpec, sigma_data: float) -> None:
        super().__init__(data)
        self.sigma_data = sigma_data

    def encode(self, batch: Batch) -> Clean:
        """See `TargetSpace.encode`."""
        return Clean(self.standardise(batch["image"]) * self.sigma_data, batch["label"], batch["label"])

    def decode(self, denoised: Tensor) -> Tensor:
        """Raw images (float, unclipped) [N, channels, height, width]."""
        return denoised.float() / self.sigma_data * self.std + self.mean


class TableSpace(TargetSpace):
    """One row of a frozen table for each class; the condition is the image.

    Args:
        data: for the scale of the images.
        table: [C, D] rows of unit length.
    """

    def __init__(self, data: DataSpec, table: Tensor) -> None:
        super().__init__(data)
        self.table: Tensor
        self.register_buffer("table", table, persistent=False)

    def encode(self, batch: Batch) -> Clean:
        """See `TargetSpace.encode`."""
        return Clean(self.table[batch["label"]], self.standardise(batch["image"]), batch["label"])

    def decode(self, denoised: Tensor) -> Tensor:
        """The class [N] whose row is nearest to the denoised vector."""
        return (denoised.float() @ self.table.T).argmax(dim=1)


class Readout(nn.Module, ABC):
    """From the network's answer to a denoised target, with the loss that trains it."""

    @abstractmethod
    def forward(self, estimate: Tensor, output: Tensor, noisy: Tensor, sigma: Tensor) -> Prediction:
        """Read the network's answer.

        Args:
            estimate: [N, *target_shape] preconditioned, `c_skip noisy + c_out output`.
            output: [N, *target_shape] raw output of the network.
            noisy: [N, *target_shape].
            sigma: [N].
        """

    @abstractmethod
    def loss(self, prediction: Prediction, clean: Clean) -> Tensor:
        """[N] loss of each sample, before the weight."""


class PixelReadout(Readout):
    """The preconditioned output is the denoised image; squared error (paper, Eq. 5, continuous targets)."""

    def forward(self, estimate: Tensor, output: Tensor, noisy: Tensor, sigma: Tensor) -> Prediction:
        """See `Readout.forward`."""
        return Prediction(estimate)

    def loss(self, prediction: Prediction, clean: Clean) -> Tensor:
        """Squared error, mean over the coordinates."""
        return (prediction.denoised - clean.clean).square().flatten(1).mean(dim=1)


class TableReadout(Readout):
    """Logits over the rows of a table; denoised is the expected embedding; the loss is cross-entropy.

    These are the discrete targets of the paper's Eq. 5.

    Args:
        table: [C, D] rows of unit length, frozen.
        kind: how logits are made; see `ClassTarget`.
    """

    def __init__(self, table: Tensor, kind: ReadoutKind) -> None:
        super().__init__()
        self.kind = kind
        self.table: Tensor
        self.register_buffer("table", table, persistent=False)
        if kind == "cosine":
            self.log_scale = nn.Parameter(torch.tensor(math.log(16.0)))
        else:
            self.linear = nn.Linear(table.shape[1], table.shape[0])

    def forward(self, estimate: Tensor, output: Tensor, noisy: Tensor, sigma: Tensor) -> Prediction:
        """See `Readout.forward`."""
        logits = self._logits(estimate, output, noisy, sigma)
        return Prediction(logits.softmax(dim=1) @ self.table, logits)

    def _logits(self, estimate: Tensor, output: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
        if self.kind == "cosine":
            return self.log_scale.exp() * (unit_rows(estimate) @ self.table.T)
        logits: Tensor = self.linear(output)
        if self.kind == "posterior":
            # Bayes' rule: log p(y | x, z) = log p(y | x) + <z, e_y> / sigma^2 + const, for rows of equal length.
            logits = logits + (noisy @ self.table.T) / append_axes(sigma, noisy).square()
        return logits

    def loss(self, prediction: Prediction, clean: Clean) -> Tensor:
        """Cross-entropy in nats."""
        assert prediction.logits is not None
        return F.cross_entropy(prediction.logits, clean.labels, reduction="none")


Weight = Literal["edm", "uniform"]


@dataclass(frozen=True)
class Target(ABC):
    """What a block denoises, for any data set.

    Args:
        sigma_data: standard deviation of a coordinate of the clean target that preconditioning assumes.
        weight: of the loss by level; `edm`: (sigma^2 + sigma_data^2) / (sigma sigma_data)^2; `uniform`: 1.
    """

    sigma_data: float = 0.5
    weight: Weight = "edm"

    def __post_init__(self) -> None:
        if not self.sigma_data > 0:
            raise UserError(f"target.sigma_data ({self.sigma_data}) must be positive")
        check_choice("target.weight", self.weight, get_args(Weight))

    def loss_weight(self, sigma: Tensor) -> Tensor:
        """[N] weights of levels [N]."""
        return edm_weight(sigma, self.sigma_data) if self.weight == "edm" else torch.ones_like(sigma)

    @abstractmethod
    def shape(self, data: DataSpec) -> tuple[int, ...]:
        """Shape of one clean target."""

    @abstractmethod
    def make_table(self, data: DataSpec, seed: int) -> Tensor | None:
        """The frozen table of discrete targets, or None."""

    @abstractmethod
    def space(self, data: DataSpec, table: Tensor | None) -> TargetSpace:
        """The target space for a data set."""

    @abstractmethod
    def readout(self, table: Tensor | None) -> Readout:
        """A new readout, with trainable parameters of its own."""


@dataclass(frozen=True)
class PixelTarget(Target):
    """Denoise images, scaled so that the standard deviation that was measured in training data becomes `sigma_data`."""

    def shape(self, data: DataSpec) -> tuple[int, ...]:
        """See `Target.shape`."""
        return data.shape

    def make_table(self, data: DataSpec, seed: int) -> None:
        """Images need no table."""

    def space(self, data: DataSpec, table: Tensor | None) -> PixelSpace:
        """See `Target.space`."""
        return PixelSpace(data, self.sigma_data)

    def readout(self, table: Tensor | None) -> PixelReadout:
        """See `Target.readout`."""
        return PixelReadout()


@dataclass(frozen=True)
class ClassTarget(Target):
    """Denoise a vector that stands for the class: one frozen row of unit length for each.

    Args:
        sigma_data: as in `Target`. The paper keeps 0.5 although a coordinate of a unit vector is smaller; so do we.
        weight: as in `Target`. EDM's weight makes cross-entropy at low noise dominate, so the default is uniform.
        dim: D, length of a row.
        kind: how logits are read. `cosine`: a learned scale (16 at the start) times the cosine of the preconditioned
            vector with each row. `linear`: a linear layer on the network's output. `posterior`: that plus the evidence
            `<noisy, row> / sigma^2` of Bayes' rule.
        table_file: safetensors file with a tensor `table` [C, dim] to use; by default rows are orthonormal where C <=
            dim, else random, from the seed.
    """

    weight: Weight = "uniform"
    dim: int = 128
    kind: ReadoutKind = "cosine"
    table_file: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("target.kind", self.kind, get_args(ReadoutKind))

    def shape(self, data: DataSpec) -> tuple[int, ...]:
        """See `Target.shape`."""
        return (self.dim,)

    def make_table(self, data: DataSpec, seed: int) -> Tensor:
        """[C, dim] rows of unit length."""
        if self.table_file is not None:
            return unit_rows(_load_table(self.table_file, (data.num_classes, self.dim)))
        rows = torch.randn(self.dim, max(data.num_classes, self.dim), generator=generator_for(seed, "table")).double()
        if data.num_classes <= self.dim:
            rows = torch.linalg.qr(rows).Q
        return unit_rows(rows[:, : data.num_classes].T).float().contiguous()

    def space(self, data: DataSpec, table: Tensor | None) -> TableSpace:
        """See `Target.space`."""
        assert table is not None
        return TableSpace(data, table)

    def readout(self, table: Tensor | None) -> TableReadout:
        """See `Target.readout`."""
        assert table is not None
        return TableReadout(table, self.kind)


def _load_table(path: str, shape: tuple[int, int]) -> Tensor:
    if not Path(path).is_file():
        raise UserError(f"target.table_file {path} does not exist")
    try:
        table = load_file(path)["table"]
    except (SafetensorError, KeyError):
        raise UserError(f"target.table_file {path} is not a safetensors file with a tensor `table`") from None
    if tuple(table.shape) != shape:
        raise UserError(f"target.table_file {path} has shape {list(table.shape)}, but the target needs {list(shape)}")
    if not table.norm(dim=1).all():
        raise UserError(f"target.table_file {path} has a row of zeros, which has no direction")
    return table.float()
