"""The contract: everything the blocks of a run agree on, frozen before the first step.

`ContractConfig` holds the user's choices. Its `build` adds what follows from the data (statistics, target table, fitted
noise distribution, boundaries) and returns the `Contract`. Every block checkpoint and assembled file carries its hash.
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from dbl.data.spec import IGNORED, DataSpec, TextSpec
from dbl.denoising.denoiser import Denoiser
from dbl.denoising.targets import PixelTarget, TableTarget, Target, TargetSpace
from dbl.diffusion.noise import LogNormalNoise, NoiseDistribution
from dbl.diffusion.partition import Partition, PartitionConfig
from dbl.diffusion.preconditioning import EDM
from dbl.networks import Architecture, DiT
from dbl.run.start import Ancestor, RandomStart, Start
from dbl.utils.checks import SEED, check_numbers
from dbl.utils.errors import UserError
from dbl.utils.seeding import seeded
from dbl.utils.serialization import from_plain, to_plain

# Incremented whenever the meaning of a stored contract changes; other versions are refused.
VERSION = 6

_KEYS = {"version", "config", "data", "noise", "partition", "table_sha256", "start_sha256"}


@dataclass(frozen=True)
class ContractConfig:
    """The user's choices on which all blocks agree.

    Args:
        network: architecture and its sizes.
        target: quantity that is denoised, and its readout.
        noise: distribution of the noise levels.
        partition: division of layers and levels into blocks.
        start: source of the weights of a block before its first step.
        seed: random seed of initial weights, data order, noise and the target table.

    Example:
        >>> import dbl
        >>> data = dbl.Digits(batch_size=64, eval_batch_size=64)
        >>> config = dbl.ContractConfig(
        ...     network=dbl.DiT(num_layers=6, width=32, num_heads=2),
        ...     target=dbl.PixelTarget(),
        ...     noise=dbl.LogNormalNoise(),
        ...     partition=dbl.PartitionConfig(num_blocks=2),
        ... )
        >>> config.build(data.spec).partition.layers
        (3, 3)
    """

    network: Architecture = field(default_factory=DiT)
    target: Target = field(default_factory=PixelTarget)
    noise: NoiseDistribution = field(default_factory=LogNormalNoise)
    partition: PartitionConfig = field(default_factory=PartitionConfig)
    start: Start = field(default_factory=RandomStart)
    seed: int = 0

    def __post_init__(self) -> None:
        check_numbers("contract", self, seed=SEED)

    def build(self, data: DataSpec, start_sha256: Sequence[str] = ()) -> "Contract":
        """Build the contract for a data set.

        Raises UserError if noise, partition, start, target and data are incompatible.

        Args:
            data: shape, classes and statistics of the data.
            start_sha256: SHA-256 of the weights of each block of the model from which they start; see `Contract`.
        """
        self.target.check(self.noise)
        self.target.shape(data)  # refuses data of another kind
        table = self.target.make_table(data, self.seed)
        noise = self.noise.fit(table, torch.tensor(data.class_frequencies))
        self._check_steps()
        partition = self.partition.build(noise, self.network.num_layers)
        self.start.check(self.network, partition)
        return Contract(self, data, noise, partition, table, start_sha256)

    def _check_steps(self) -> None:
        """Raise UserError if the network reads another number for a level than the preconditioning gives it."""
        scales, network = getattr(self.target, "preconditioning", EDM()), type(self.network).__name__
        if scales.gives_steps and not self.network.reads_steps:
            raise UserError(
                f"contract.target.init_args.preconditioning {type(scales).__name__} gives levels as training steps, "
                f"and {network} does not read them so: use dbl.EDM, or the network dbl.DiffusersDiT"
            )
        if self.network.reads_steps and not scales.gives_steps:
            raise UserError(
                f"contract.network {network} reads levels as training steps: use it with contract.target "
                "dbl.PixelTarget and its preconditioning dbl.VP or dbl.Flow"
            )

    def with_num_blocks(self, num_blocks: int, start: Start) -> "ContractConfig":
        """The same for a run of at most as many blocks of the same size, hence with fewer layers in all.

        Raises UserError if the network cannot have another number of layers.

        Args:
            num_blocks: number of blocks, which divides the present one; or 1, of the size of the largest block.
            start: source of their weights.
        """
        size = max(self.partition.split(self.network.num_layers))
        network = self.network.with_layers(num_blocks * size)
        return replace(self, network=network, partition=self.partition.coarsened(num_blocks), start=start)

    def ancestor(self) -> "ContractConfig | None":
        """The config of the run from which the blocks start; None if they start from random weights."""
        return (
            self.with_num_blocks(self.start.num_blocks, self.start.start) if isinstance(self.start, Ancestor) else None
        )

    def check_start(self, trained: "ContractConfig", path: str) -> None:
        """Raise UserError unless the blocks can start from the model in `path`, which has the contract `trained`."""
        ancestor = self.ancestor()
        if ancestor is not None and to_plain(trained) != to_plain(ancestor):
            raise UserError(f"{path} is no ancestor for this config: start another run (--run.name), or remove it")
        if ancestor is None and (trained.network, trained.target) != (self.network, self.target):
            raise UserError(
                f"{path} has another contract.network or contract.target than this config: put them back, or make "
                "another run with dbl convert"
            )
        if ancestor is None and trained.partition.num_blocks != self.start.num_blocks:
            raise UserError(f"{path} is a network in {trained.partition.num_blocks} blocks: dbl convert needs one")


class Contract:
    """The user's choices and what follows from them for one data set.

    Args:
        config: the user's choices.
        data: shape, classes and statistics of the data.
        noise: noise distribution, fitted to the table if it depends on one.
        partition: boundaries and layers of the blocks.
        table: [C, D] frozen target rows, or None for pixels.
        start_sha256: SHA-256 of the weights of each block of the model from which the blocks start; empty for random
            weights, and as long as an ancestor is not trained.

    Example:
        >>> import dbl
        >>> from dataclasses import replace
        >>> data = dbl.Digits(batch_size=64, eval_batch_size=64)
        >>> config = dbl.ContractConfig(dbl.DiT(6, width=32, num_heads=2), dbl.PixelTarget(), seed=0)
        >>> contract = config.build(data.spec)
        >>> contract.partition.num_blocks
        3
        >>> contract.hash == replace(config, seed=1).build(data.spec).hash  # kept in every checkpoint of its blocks
        False
    """

    def __init__(
        self,
        config: ContractConfig,
        data: DataSpec,
        noise: NoiseDistribution,
        partition: Partition,
        table: Tensor | None = None,
        start_sha256: Sequence[str] = (),
    ) -> None:
        self.config = config
        self.data = data
        self.noise = noise
        self.partition = partition
        self.table = table
        self.start_sha256 = tuple(start_sha256)

    def to_plain(self) -> dict[str, Any]:
        """Convert to JSON values, with the table represented by its hash."""
        return {
            "version": VERSION,
            "config": to_plain(self.config),
            "data": to_plain(self.data),
            "noise": to_plain(self.noise),
            "partition": to_plain(self.partition),
            "table_sha256": None if self.table is None else _tensor_hash(self.table),
            "start_sha256": list(self.start_sha256),
        }

    @classmethod
    def from_plain(cls, plain: Any, table: Tensor | None, source: str, trusted: Collection[str] = ()) -> "Contract":
        """Restore what `to_plain` converted, and the table stored beside it.

        Raises UserError on another version, a class that may not be imported, an unknown, missing or wrong field, or
        another table.

        Args:
            plain: the JSON values; the hash that a file holds as well is left to the caller.
            table: target table.
            source: file that messages name.
            trusted: packages of your own that the file may import; see `BlockStack.from_pretrained`.
        """
        version = plain.get("version") if isinstance(plain, Mapping) else None
        if version != VERSION:
            raise UserError(
                f"{source} has contract version {version}, this dbl reads version {VERSION}: train the "
                "run again in a new folder (--run.name), or use the dbl that wrote it"
            )
        if plain.keys() - {"sha256"} != _KEYS:
            odd = min(map(str, (plain.keys() - {"sha256"}) ^ _KEYS))[:40]
            raise UserError(f"{source} is not a contract ({odd}): restore the file or start a new run")
        try:
            contract = cls(
                config=from_plain(plain["config"], ContractConfig, trusted, "config"),
                data=from_plain(plain["data"], DataSpec, trusted, "data"),
                noise=from_plain(plain["noise"], NoiseDistribution, trusted, "noise"),  # type: ignore[type-abstract]
                partition=from_plain(plain["partition"], Partition, trusted, "partition"),
                table=table,
                start_sha256=_digests(plain["start_sha256"]),
            )
            contract.config.start.check(contract.config.network, contract.partition)
        except UserError as error:
            raise UserError(f"{source}: {error}") from None
        if contract.to_plain()["table_sha256"] != plain["table_sha256"]:
            raise UserError(f"{source} was made with another target table than the table.safetensors beside it")
        if not contract._fits_together():
            raise UserError(
                f"{source} is not a contract: network, noise, partition, table and start do not fit; restore it"
            )
        return contract

    def _fits_together(self) -> bool:
        """Whether the partition cuts all layers and levels as the config says, and a target has the table it needs."""
        ends = self.partition.boundaries[0], self.partition.boundaries[-1]
        return (
            sum(self.partition.layers) == self.config.network.num_layers
            and self.partition.num_blocks == self.config.partition.num_blocks
            and ends == (self.noise.sigma_max, self.noise.sigma_min)
            and not (self.table is None and isinstance(self.config.target, TableTarget))
            and len(self.start_sha256) == self.config.start.num_blocks
        )

    def check_storable(self, source: str) -> None:
        """Raise UserError if the file `source` could not be read back: better before a training than after it.

        A class of the user's may have fields that JSON does not keep, or of other types than it declares; and the model
        from which the blocks start may not be there yet.
        """
        if len(self.start_sha256) != self.config.start.num_blocks:
            raise UserError(f"contract.start: {self.config.start.remedy}")
        try:
            stored = json.loads(json.dumps(self.to_plain()))
        except (TypeError, ValueError) as error:
            raise UserError(f"{source} cannot be written ({error}): its fields must be plain values") from None
        if Contract.from_plain(stored, self.table, source).hash != self.hash:
            raise UserError(f"{source} would not be the same when it is read: its fields must be plain values")

    @cached_property
    def hash(self) -> str:
        """SHA-256 of `to_plain`, which every checkpoint carries."""
        return plain_hash(self.to_plain())

    def denoiser(self, block: int) -> Denoiser:
        """Create the denoiser of one block; its weights are a function of (seed, block) alone."""
        num_layers = len(self.partition.layer_range(block))
        config = self.config
        # A seed per block: its weights must not depend on which blocks were built before it.
        with seeded(config.seed, "weights", block):
            network = config.network.build(self.data, config.target.shape(self.data), num_layers, self.table)
            return config.target.make_denoiser(network, self.table, self.noise, self.data.num_classes)

    def sample_weights(self, labels: Tensor) -> Tensor | None:
        """[N] weights of samples in a mean of losses, with mean 1 over the training set; None if all are equal.

        A sequence weighs as many as its scored tokens, so that a token of a short text weighs as much as one of a long
        text, as in the bound.

        Args:
            labels: [N] or [N, T].
        """
        if not isinstance(self.data, TextSpec) or self.data.mean_scored is None:
            return None
        # Divided by a constant and not by the tokens of the batch, so that it does not matter how batches, ranks and
        # accumulation divide the sequences.
        return (labels != IGNORED).sum(1) / self.data.mean_scored

    def space(self) -> TargetSpace:
        """Target space that maps raw batches to clean targets and back."""
        return self.config.target.space(self.data, self.table)


def _digests(stored: Any) -> list[str]:
    if not isinstance(stored, list) or not all(isinstance(digest, str) for digest in stored):
        raise UserError("start_sha256 must be a list of texts")
    return stored


def plain_hash(plain: Mapping[str, Any]) -> str:
    """SHA-256 of JSON values, independent of the order of keys."""
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _tensor_hash(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.detach().cpu().contiguous().numpy().tobytes()).hexdigest()
