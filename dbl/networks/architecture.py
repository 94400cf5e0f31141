"""The interface of a network that can be trained in blocks."""

from abc import ABC, abstractmethod
from dataclasses import fields, is_dataclass, replace
from typing import ClassVar, Self, TypeVar

from torch import Tensor, nn

from dbl.data.spec import DataSpec, ImageSpec, kind_of
from dbl.utils.checks import check_numbers, whole
from dbl.utils.errors import UserError

# Key of a network in a config.
NETWORK = "contract.network.init_args"
# What the sizes of a network may be: the largest ones fit no machine.
SIZES = {
    "num_layers": whole(1, 10_000),
    "width": whole(1, 2**20),
    "num_heads": whole(1, 2**20),
    "mlp_width": whole(1, 2**24),
    "conditioning_width": whole(1, 2**20, optional=True),
    "patch_size": whole(1, 2**16),
}

Spec = TypeVar("Spec", bound=DataSpec)


class Architecture(ABC):
    """Sizes of a residual network that can be cut into blocks, and the factory of its blocks.

    Subclasses are frozen dataclasses. Their fields are what a config sets and the contract records, and together with
    the data they determine the network.

    Example:
        >>> import dbl
        >>> data = dbl.Digits(batch_size=64, eval_batch_size=64)
        >>> network = dbl.DiT(num_layers=4, width=32, num_heads=2)
        >>> isinstance(network, dbl.Architecture)
        True
        >>> block = network.build(data.spec, data.spec.shape, num_layers=2)
        >>> len(block.layers)
        2
    """

    num_layers: int
    can_be_partitioned: ClassVar[bool] = True  # into more than one block
    can_be_converted: ClassVar[bool] = True  # from a trained network to blocks; see `Pretrained`
    reads_steps: ClassVar[bool] = False  # as level: a training step, from `dbl.VP` or `dbl.Flow`, not ln(sigma) / 4
    layer_list: ClassVar[str] = "layers"  # name of the list of residual layers in the module that `build` returns
    rereads_text: ClassVar[bool] = False  # in each iteration for each token: generation has a cache of each iteration

    @abstractmethod
    def build(
        self, data: DataSpec, target_shape: tuple[int, ...], num_layers: int, table: Tensor | None = None
    ) -> nn.Module:
        """Build the network of one block: its own stem, `num_layers` layers and its own head.

        Raises UserError if the sizes do not fit the data.

        Args:
            data: shape of the inputs and number of classes.
            target_shape: shape of one clean target, without the batch axis.
            num_layers: number of layers of this block.
            table: [C, D] frozen table of discrete targets, for networks that embed their input with it.

        Returns:
            A module with `forward(noisy [N, *target_shape], c_noise [N], cond) -> [N, *target_shape]` (logits [N, T, C]
            for masked text). Activation checkpointing needs its residual layers in an `nn.ModuleList` named `layers`.
        """

    def build_classifier(self, data: DataSpec) -> nn.Module | None:
        """Build the whole network as a plain classifier, which `dbl compare` trains end to end beside the blocks.

        Args:
            data: shape of the inputs and number of classes C.

        Returns:
            A module that maps standardised inputs [N, ...] to logits [N, C]; None if the network has no such form.
        """
        return None

    @property
    def reads_context_alone(self) -> bool:
        """Whether the output depends on the condition alone, not on the noisy target or its level."""
        return False

    def with_layers(self, num_layers: int) -> Self:
        """The same network with another number of layers. Raises UserError if it cannot have so many."""
        if not is_dataclass(self) or "num_layers" not in {field.name for field in fields(self) if field.init}:
            raise UserError(
                f"contract.network {type(self).__name__} must be a dataclass with a field num_layers, so that a "
                "network of the size of one block can be made of it"
            )
        return replace(self, num_layers=num_layers)

    def layer_passes(self, num_layers: int) -> float:
        """Compute of a block's training step per sample, in forward-and-backward passes through one layer."""
        return float(num_layers)

    def baseline_passes(self) -> float:
        """The same for the end-to-end network."""
        return float(self.num_layers)

    def label_width(self, target_shape: tuple[int, ...]) -> int:
        """Width of a label vector, the target of a classifier. Raises UserError if the target is something else."""
        if len(target_shape) != 1:
            name = type(self).__name__
            raise UserError(f"network {name} denoises label vectors: use it with the target dbl.ClassTarget")
        return target_shape[0]

    def require(self, data: DataSpec, kind: type[Spec]) -> Spec:
        """Return the data if they are of the kind that this network needs. Raises UserError otherwise."""
        if not isinstance(data, kind):
            wanted = kind.__name__.removesuffix("Spec").lower()
            raise UserError(
                f"contract.network {type(self).__name__} is for {wanted} data, but data {data.name} is "
                f"{kind_of(data)}: change network or data"
            )
        return data


def count_patches(data: ImageSpec, patch_size: int) -> int:
    """Count the patches of one image. Raises UserError if they do not tile it."""
    _, height, width = data.shape
    if height % patch_size or width % patch_size:
        raise UserError(f"{NETWORK}.patch_size ({patch_size}) must divide the image size {height} x {width}")
    return (height // patch_size) * (width // patch_size)


def check_sizes(network: Architecture) -> None:
    """Raise UserError unless those sizes of `SIZES` that a network has are possible."""
    check_numbers(NETWORK, network, **{name: number for name, number in SIZES.items() if hasattr(network, name)})


def check_heads(width: int, num_heads: int) -> None:
    """Raise UserError unless the width splits into heads and into the four parts of `sincos_positions`."""
    if width % num_heads or width % 4:
        raise UserError(f"{NETWORK}.width ({width}) must be a multiple of 4 and of num_heads ({num_heads})")
