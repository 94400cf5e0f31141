"""The DiT of the library diffusers, built one block at a time: its own module, which published weights fit."""

import logging
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from typing_extensions import override

from dbl.data.spec import NUM_CLASSES, DataSpec, ImageSpec
from dbl.networks.architecture import NETWORK, SIZES, Architecture, count_patches
from dbl.utils.checks import Number, check_choice, check_numbers, whole
from dbl.utils.errors import UserError, optional_package

Activation = Literal["gelu-approximate", "gelu"]


@dataclass(frozen=True)
class DiffusersDiT(Architecture):
    """`DiTTransformer2DModel` of diffusers: the DiT and, with the preconditioning `dbl.Flow`, the SiT as published.

    Arguments that diffusers has too are named as there. The head of a block reads level and class by the embeddings of
    its first layer; in published weights those of all layers are equal.

    Args:
        num_layers: number of layers of the whole network, L.
        num_attention_heads: number of attention heads.
        attention_head_dim: width of a head; the token width is that of all heads.
        patch_size: side of a patch in pixels.
        num_embeds_ada_norm: number of classes that the network knows; the data may have fewer.
        learns_variance: whether the network has twice as many output channels as the images, of which those after the
            prediction, its variance, are neither read nor trained.
        dropout: dropout of each layer.
        attention_bias: whether queries, keys and values have a bias.
        activation_fn: activation of the MLP: gelu-approximate (by a tanh) or gelu.
        norm_elementwise_affine: whether norms have weights.
        norm_eps: constant in the denominator of norms.
        cond_dropout: fraction of labels replaced by "no class" in training, for classifier-free guidance.

    Example:
        >>> import dbl
        >>> data = dbl.Digits(batch_size=64, eval_batch_size=64)
        >>> network = dbl.DiffusersDiT(num_layers=4, num_attention_heads=2, attention_head_dim=8)
        >>> len(network.build(data.spec, data.spec.shape, num_layers=2).layers)
        2
    """

    reads_steps: ClassVar[bool] = True
    layer_list: ClassVar[str] = "module.transformer_blocks"

    num_layers: int = 28
    num_attention_heads: int = 16
    attention_head_dim: int = 72
    patch_size: int = 2
    num_embeds_ada_norm: int = 1000
    learns_variance: bool = False
    dropout: float = 0.0
    attention_bias: bool = True
    activation_fn: Activation = "gelu-approximate"
    norm_elementwise_affine: bool = False
    norm_eps: float = 1e-5
    cond_dropout: float = 0.1

    def __post_init__(self) -> None:
        heads = SIZES["num_heads"]
        check_numbers(
            NETWORK,
            self,
            num_layers=SIZES["num_layers"],
            num_attention_heads=heads,
            attention_head_dim=whole(1, 2**16),
            patch_size=SIZES["patch_size"],
            num_embeds_ada_norm=NUM_CLASSES,
            dropout=Number(at_least=0, below=1),
            norm_eps=Number(at_least=0, at_most=1),
            cond_dropout=Number(at_least=0, below=1),
        )
        check_choice(f"{NETWORK}.activation_fn", self.activation_fn, get_args(Activation))
        width = self.num_attention_heads * self.attention_head_dim
        if width % 4 or width > SIZES["width"].at_most:  # type: ignore[operator]
            raise UserError(
                f"{NETWORK}.attention_head_dim ({self.attention_head_dim}) times num_attention_heads must be a "
                f"multiple of 4, at most {SIZES['width'].at_most}"
            )

    @override
    def build(
        self, data: DataSpec, target_shape: tuple[int, ...], num_layers: int, table: Tensor | None = None
    ) -> "DiffusersDiTNetwork":
        """Build one block; cond is a class label [N], with C for "no class"."""
        images = self.require(data, ImageSpec)
        _, height, width = images.shape
        if tuple(target_shape) != images.shape:
            raise UserError("network DiffusersDiT denoises images: use it with the target dbl.PixelTarget")
        count_patches(images, self.patch_size)
        if height != width:
            raise UserError(f"network DiffusersDiT is for square images, not {height} x {width}, as in {data.name}")
        if data.num_classes > self.num_embeds_ada_norm:
            raise UserError(
                f"{NETWORK}.num_embeds_ada_norm ({self.num_embeds_ada_norm}) must be at least the {data.num_classes} "
                f"classes of data {data.name}"
            )
        return DiffusersDiTNetwork(self, images, num_layers)

    def arguments(self, data: ImageSpec, num_layers: int) -> dict[str, Any]:
        """Arguments of `DiTTransformer2DModel` for one block."""
        channels, size, _ = data.shape
        outputs = 2 * channels if self.learns_variance else channels
        own = asdict(self) | {"num_layers": num_layers}
        del own["learns_variance"], own["cond_dropout"]
        return own | {"in_channels": channels, "out_channels": outputs, "sample_size": size}


def transformer_class() -> Any:
    """The class of the library. Raises UserError if it is not installed."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # importing it, other packages say what they lack
    try:
        library = optional_package("diffusers", "convert", "contract.network dbl.DiffusersDiT")
        return library.DiTTransformer2DModel
    finally:
        logging.disable(before)


class DiffusersDiTNetwork(nn.Module):
    """One block: a `DiTTransformer2DModel` with `num_layers` of the layers."""

    def __init__(self, sizes: DiffusersDiT, data: ImageSpec, num_layers: int) -> None:
        super().__init__()
        self.channels = data.shape[0]
        self.no_class = data.num_classes
        self.no_embedding = sizes.num_embeds_ada_norm
        self.cond_dropout = sizes.cond_dropout
        self.module = transformer_class()(**sizes.arguments(data, num_layers))
        for part in self.module.modules():
            if hasattr(part, "dropout_prob"):
                part.dropout_prob = 0.0  # of embeddings of labels: each layer would drop other ones

    @property
    def layers(self) -> nn.ModuleList:
        """The residual layers."""
        layers: nn.ModuleList = self.module.transformer_blocks
        return layers

    def forward(self, noisy: Tensor, c_noise: Tensor, cond: Tensor) -> Tensor:
        """Images [N, channels, height, width] scaled by c_in, steps c_noise [N], labels [N] -> shape of the images."""
        hidden = cond == self.no_class
        if self.training and self.cond_dropout:
            hidden = hidden | (torch.rand(cond.shape, device=cond.device) < self.cond_dropout)
        labels = cond.masked_fill(hidden, self.no_embedding)
        output: Tensor = self.module(noisy, timestep=c_noise, class_labels=labels, return_dict=False)[0]
        return output[:, : self.channels]
