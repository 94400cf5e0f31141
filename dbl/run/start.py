"""Where the weights of a block come from before its first step: from a seed, or from an ancestor."""

from dataclasses import dataclass, field

from typing_extensions import override

from dbl.diffusion.partition import Partition
from dbl.utils.checks import Number, check_numbers, whole
from dbl.utils.errors import UserError

START = "contract.start.init_args"


class Start:
    """Where the weights of a block come from before its first step.

    Subclasses are frozen dataclasses, whose fields the contract records.

    Attributes:
        share: share of the compute of the whole run that is spent before the blocks' own first step.
        num_blocks: number of blocks of the run that is trained before; 0 if there is none.
    """

    share: float = 0.0
    num_blocks: int = 0

    @property
    def num_parts(self) -> int:
        """Number of networks that are trained before the blocks, those before the ancestor among them."""
        return 0

    def check(self, partition: Partition) -> None:
        """Raise UserError if the blocks of this partition cannot start so."""


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
        >>> [tree.source(block, num_blocks=4) for block in range(4)]
        [0, 0, 1, 1]
    """

    share: float = 0.5
    num_blocks: int = 1
    start: Start = field(default_factory=RandomStart)

    def __post_init__(self) -> None:
        check_numbers(START, self, share=Number(above=0, below=1), num_blocks=whole(1, 10_000))

    @property
    @override
    def num_parts(self) -> int:
        return self.num_blocks + self.start.num_parts

    def source(self, block: int, num_blocks: int) -> int:
        """The block of the ancestor from which block `block` of `num_blocks` starts: the one that owns its levels."""
        return block * self.num_blocks // num_blocks

    @override
    def check(self, partition: Partition) -> None:
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
