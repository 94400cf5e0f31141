"""What the rest of `dbl` must know about a data set: sizes, frequencies and an identity."""

from dataclasses import dataclass

from dbl.utils.checks import Number, check_items, check_numbers, whole
from dbl.utils.errors import UserError

# Label of a position that is not scored, such as padding; torch's own convention.
IGNORED = -100
# What sizes of data may be: the largest ones fit no machine.
NUM_CLASSES = whole(1, 10**7)
IMAGE_SIZE = whole(1, 65_536)
SEQ_LEN = whole(1, 10**7)
NUM_FEATURES = whole(1, 10**7)
_OF_MOMENTS = 1e-3  # tolerance of measured moments


@dataclass(frozen=True)
class DataSpec:
    """The facts about any data set that fix sizes and frequencies; part of the contract.

    Args:
        name: name for people, e.g. "digits".
        identity: hash that changes when the training data or its split changes.
        num_classes: C, number of classes of images, or of tokens of a vocabulary.
        class_frequencies: [C] shares of the classes in the training split, adding up to 1.
    """

    name: str
    identity: str
    num_classes: int
    class_frequencies: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "class_frequencies", tuple(self.class_frequencies))
        check_numbers("data", self, num_classes=NUM_CLASSES)
        check_items("data.class_frequencies", self.class_frequencies, Number(at_least=0, at_most=1))
        if len(self.class_frequencies) != self.num_classes:
            raise UserError(f"data: {len(self.class_frequencies)} class frequencies for {self.num_classes} classes")


@dataclass(frozen=True)
class ImageSpec(DataSpec):
    """The facts about labelled images: those of `DataSpec`, and three more.

    Args:
        shape: shape of one image, [channels, height, width].
        mean: mean [channels] of the raw training values.
        std: standard deviation [channels] of the raw training values, measured, not assumed.

    Example:
        >>> import dbl
        >>> dbl.ImageSpec("toy", "toy-1", 2, (0.5, 0.5), shape=(1, 8, 8), mean=(0.0,), std=(1.0,)).num_classes
        2
    """

    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("shape", "mean", "std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        check_items("data.shape", self.shape, IMAGE_SIZE)
        check_items("data.mean", self.mean, Number(at_least=-1e30, at_most=1e30))
        check_items("data.std", self.std, Number(at_least=0, at_most=1e30))
        if len(self.shape) != 3:
            raise UserError(f"data: the shape {list(self.shape)} of an image must be [channels, height, width]")
        if not len(self.mean) == len(self.std) == self.shape[0]:
            raise UserError(f"data: mean and std must have one value for each of {self.shape[0]} channels")
        if min(self.std) <= 0:
            raise UserError(f"data: {self.name} has a channel that never changes (standard deviation 0)")


def white_value(data: ImageSpec) -> float | None:
    """The raw value of white, 255 or 1; None where the values are no pixels, such as those of latents.

    It follows from the moments that the contract keeps: values in [0, w] of mean m have a variance of at most
    m (w - m) (Bhatia and Davis 2000).
    """
    if data.shape[0] not in (1, 3) or min(data.mean) < 0:
        return None
    white = 255.0 if max(data.mean) > 1 else 1.0
    moments = zip(data.mean, data.std, strict=True)
    fits = all(std**2 <= mean * (white - mean) * (1 + _OF_MOMENTS) for mean, std in moments)
    return white if fits else None


@dataclass(frozen=True)
class VectorSpec(DataSpec):
    """The facts about labelled vectors, such as the rows of a table: those of `DataSpec`, and three more.

    Args:
        num_features: F, number of numbers in one vector.
        mean: mean [F] of the training vectors.
        std: standard deviation [F] of the training vectors; 0 for a feature that never changes.

    Example:
        >>> import dbl
        >>> dbl.VectorSpec("toy", "toy-1", 2, (0.5, 0.5), num_features=2, mean=(0.0, 1.0), std=(1.0, 3.0)).num_features
        2
    """

    num_features: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("mean", "std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        check_numbers("data", self, num_features=NUM_FEATURES)
        check_items("data.mean", self.mean, Number(at_least=-1e30, at_most=1e30))
        check_items("data.std", self.std, Number(at_least=0, at_most=1e30))
        if not len(self.mean) == len(self.std) == self.num_features:
            raise UserError(f"data: mean and std must have one value for each of {self.num_features} features")


@dataclass(frozen=True)
class TextSpec(DataSpec):
    """The facts about text that was cut into sequences of tokens: those of `DataSpec`, and four more.

    The identity also changes with the tokenizer. Frequencies count each token once more than it occurs: none is 0.
    Raises UserError if `seq_len` is not positive or `end` is no token.

    Args:
        seq_len: T, number of tokens that are predicted in one sequence; each sequence has one token more before them.
        tokenizer: hash of the tokenizer.
        end: token behind which a sequence is empty, the end of a document under `packing: document`; None if there may
            be text behind any token.
        mean_scored: mean number of scored tokens of a training sequence; None if all T are scored in each.

    Example:
        >>> import dbl
        >>> dbl.TextSpec("toy", "toy-1", 2, (0.5, 0.5), seq_len=16, tokenizer="ab").seq_len
        16
    """

    seq_len: int
    tokenizer: str
    end: int | None = None
    mean_scored: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers("data.init_args", self, seq_len=SEQ_LEN)
        check_numbers("data", self, end=whole(0, self.num_classes - 1, optional=True))
        check_numbers("data", self, mean_scored=Number(above=0, at_most=self.seq_len, optional=True))


def kind_of(data: DataSpec) -> str:
    """What kind of data it is, in a word for messages: image, vector, text, or that of a class of one's own."""
    return type(data).__name__.removesuffix("Spec").lower()
