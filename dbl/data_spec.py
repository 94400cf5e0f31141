"""What the rest of `dbl` must know of a data set before it has seen a sample."""

from dataclasses import dataclass

from dbl.errors import UserError


@dataclass(frozen=True)
class DataSpec:
    """The facts about a data set that fix sizes, scales and frequencies; part of the contract.

    Args:
        name: for people, e.g. "digits".
        identity: a hash that changes when the training data or its split changes.
        shape: of one input, [channels, height, width].
        num_classes: C.
        class_frequencies: [C] shares of the classes in the training split, adding up to 1.
        mean: [channels] mean of the raw training values.
        std: [channels] standard deviation of the raw training values, measured, not assumed.
    """

    name: str
    identity: str
    shape: tuple[int, int, int]
    num_classes: int
    class_frequencies: tuple[float, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("shape", "class_frequencies", "mean", "std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if len(self.class_frequencies) != self.num_classes:
            raise UserError(f"data: {len(self.class_frequencies)} class frequencies for {self.num_classes} classes")
        if not len(self.mean) == len(self.std) == self.shape[0]:
            raise UserError(f"data: mean and std must have one value for each of {self.shape[0]} channels")
        if min(self.std) <= 0:
            raise UserError(f"data: {self.name} has a channel that never changes (standard deviation 0)")
