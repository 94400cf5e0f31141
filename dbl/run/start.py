"""Where the weights of a block come from before its first step: a seed, an ancestor, or a network trained elsewhere."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple, get_args

from typing_extensions import override

from dbl.diffusion.partition import Partition
from dbl.networks import Architecture
from dbl.utils.checks import Number, check_choice, check_items, check_numbers, shown, whole
from dbl.utils.errors import UserError

START = "contract.start.init_args"


class Origin(NamedTuple):
    """What a block starts from.

    Attributes:
        block: index of the block of the model that was trained before.
        layers: indices of its layers, in the order in which they run in the new block; None for all of them.
    """

    block: int
    layers: list[int] | None = None


class Start:
    """Where the weights of a block come from before its first step.

    Subclasses are frozen dataclasses, whose fields the contract records.

    Attributes:
        share: share of the compute of the whole run that is spent before the blocks' own first step.
        num_blocks: number of blocks of the model from which they start; 0 if there is none.
        folder: folder of that model in the run folder; it holds a folder `model`.
        remedy: advice if it is not there.
    """

    share: float = 0.0
    num_blocks: int = 0
    folder: ClassVar[str] = ""
    remedy: ClassVar[str] = ""

    @property
    def num_parts(self) -> int:
        """Number of networks that the run trains before the blocks, those before the ancestor among them."""
        return 0

    def check(self, network: Architecture, partition: Partition) -> None:
        """Raise UserError if the blocks of this network and partition cannot start so."""

    def origin(self, block: int, partition: Partition) -> Origin | None:
        """What block `block` starts from; None if its weights are random."""
        return None


@dataclass(frozen=True)
class RandomStart(Start):
    """Random weights, a function of the seed and the block.

    Example:
        >>> import dbl
        >>> dbl.RandomStart().num_parts
        0
    """


@dataclass(frozen=True)
class Ancestor(Start):
    """Weights of an ancestor: a run of fewer blocks of the same size, which share all levels among them.

    An ancestor of one block is a network of the size of a block, trained over all noise levels before the blocks; then
    each block starts from its weights and specialises on its own interval. The compute for what all levels have in
    common is spent once in place of B times, and at every moment the memory is that of one block.

    With more blocks the ancestor has an ancestor of its own, and so on: a tree. For 4 blocks, `Ancestor(num_blocks=2,
    start=Ancestor())` halves the range of levels at each branching.

    Args:
        share: share of the compute of the whole run that the ancestor takes, its own ancestors included; the blocks
            train for `trainer.max_steps` each, so it is trained for `share / (1 - share)` times their steps together.
        num_blocks: number of blocks of the ancestor; divides that of the run. With as many as the run, each block is
            trained twice in a row: the second time from its averaged weights, with a new optimizer and schedule.
        start: source of the weights of the ancestor.

    Example:
        >>> import dbl
        >>> tree = dbl.Ancestor(share=0.5, num_blocks=2, start=dbl.Ancestor(share=0.5))
        >>> tree.num_parts  # two blocks, and the one before them
        3
        >>> four = dbl.Partition(boundaries=(16.0, 8.0, 4.0, 2.0, 1.0), layers=(3, 3, 3, 3))
        >>> [tree.origin(block, four).block for block in range(4)]
        [0, 0, 1, 1]
    """

    folder: ClassVar[str] = "ancestor"
    remedy: ClassVar[str] = (
        "the ancestor of the blocks is not trained yet: run dbl train --blocks ancestor, or copy the folder ancestor "
        "of the run to here"
    )

    share: float = 0.5
    num_blocks: int = 1
    start: Start = field(default_factory=RandomStart)

    def __post_init__(self) -> None:
        check_numbers(START, self, share=Number(above=0, below=1), num_blocks=whole(1, 10_000))

    @property
    @override
    def num_parts(self) -> int:
        return self.num_blocks + self.start.num_parts

    @override
    def origin(self, block: int, partition: Partition) -> Origin:
        """The block of the ancestor that owns the levels of block `block`."""
        return Origin(block * self.num_blocks // partition.num_blocks)

    @override
    def check(self, network: Architecture, partition: Partition) -> None:
        blocks = partition.num_blocks
        if blocks % self.num_blocks:
            raise UserError(
                f"{START}.num_blocks ({self.num_blocks}) must divide contract.partition.num_blocks ({blocks}): else "
                "use --contract.start dbl.RandomStart"
            )
        if len(set(partition.layers)) > 1:
            raise UserError(
                f"contract.partition.layers {list(partition.layers)} must be equal: blocks that start from an ancestor "
                "have its size; else use --contract.start dbl.RandomStart"
            )


Cut = Literal["interleaved", "contiguous"]


@dataclass(frozen=True)
class Pretrained(Start):
    """Weights of a whole network that is trained already: each block takes some of its layers.

    Stem, embeddings and head are copied into each block. `dbl convert` makes such a run and puts the network, a
    denoiser for all levels in one block, into its folder `source`. Not for causal language models; docs/converting.md
    says why.

    Args:
        cut: layers of each block. interleaved: b, b + B, b + 2 B, ... for block b of B, so that each block has layers
            from all depths; contiguous: those that the partition gives to the block; or a list of layers for each
            block, disjoint, in the order in which they run.

    Example:
        >>> import dbl
        >>> three = dbl.Partition(boundaries=(8.0, 4.0, 2.0, 1.0), layers=(2, 2, 2))
        >>> [dbl.Pretrained().origin(block, three).layers for block in range(3)]
        [[0, 3], [1, 4], [2, 5]]
    """

    cut: Cut | list[list[int]] = "interleaved"
    num_blocks = 1  # the whole network
    folder: ClassVar[str] = "source"
    remedy: ClassVar[str] = (
        "the network from which the blocks start is missing: make the run with dbl convert, or copy the folder source "
        "of the run to here"
    )

    def __post_init__(self) -> None:
        if isinstance(self.cut, str):
            check_choice(f"{START}.cut", self.cut, get_args(Cut))
            return
        for layers in self.cut:
            if not isinstance(layers, list | tuple):
                raise UserError(f"{START}.cut ({shown(self.cut)}) must have a list of layers for each block")
            check_items(f"{START}.cut", layers, whole(0, 10_000))

    @override
    def origin(self, block: int, partition: Partition) -> Origin:
        """Its layers of the whole network."""
        return Origin(0, self._layers(block, partition))

    def _layers(self, block: int, partition: Partition) -> list[int]:
        if self.cut == "contiguous":
            return list(partition.layer_range(block))
        if self.cut == "interleaved":
            return list(range(block, sum(partition.layers), partition.num_blocks))
        assert not isinstance(self.cut, str)
        return list(self.cut[block])

    @override
    def check(self, network: Architecture, partition: Partition) -> None:
        if not network.can_be_converted:
            raise UserError(
                f"contract.start dbl.Pretrained: {type(network).__name__} cannot be cut into blocks that go on from "
                "its weights (docs/converting.md): use --contract.start dbl.RandomStart"
            )
        if not isinstance(self.cut, str) and len(self.cut) != partition.num_blocks:
            raise UserError(f"{START}.cut must have a list for each of {partition.num_blocks} blocks")
        cut = [self._layers(block, partition) for block in range(partition.num_blocks)]
        sizes, chosen = [len(layers) for layers in cut], [layer for layers in cut for layer in layers]
        if sizes != list(partition.layers):
            raise UserError(
                f"{START}.cut gives the blocks {sizes} layers and contract.partition.layers {list(partition.layers)}: "
                "give equal numbers"
            )
        if sorted(chosen) != list(range(sum(partition.layers))):
            raise UserError(f"{START}.cut must have each layer from 0 to {sum(partition.layers) - 1} once")
