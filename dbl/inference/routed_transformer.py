"""Blocks as a transformer of diffusers that routes each sample to the owner of its level.

Importing this module imports diffusers. A pipeline that `dbl export --format diffusers` wrote names these classes, and
diffusers finds them where this module was imported before.
"""

from types import SimpleNamespace
from typing import Any

import torch
from diffusers import ConfigMixin, DiTTransformer2DModel, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import Tensor, nn


class RoutedTransformer(ModelMixin, ConfigMixin):
    """All blocks, each a `DiTTransformer2DModel`, in the place of one in `DiTPipeline`.

    Args:
        layers: [B] number of layers of each block, that of the highest noise first.
        last_steps: [B-1] highest training step below each cut: from there on the next block answers.
        in_channels: channels of an image or latent.
        out_channels: the same, or twice as many with the variance.
        sample_size: side of an image or latent.
        num_embeds_ada_norm: number of classes.
        sizes: further arguments of `DiTTransformer2DModel`.
    """

    @register_to_config
    def __init__(
        self,
        layers: list[int],
        last_steps: list[float],
        in_channels: int,
        out_channels: int,
        sample_size: int,
        num_embeds_ada_norm: int,
        sizes: dict[str, Any],
    ) -> None:
        super().__init__()
        own = {"in_channels": in_channels, "out_channels": out_channels, "sample_size": sample_size}
        own |= {"num_embeds_ada_norm": num_embeds_ada_norm}
        blocks: list[Any] = [DiTTransformer2DModel(num_layers=number, **own, **sizes) for number in layers]
        self.blocks = nn.ModuleList(blocks)

    def forward(
        self, hidden_states: Tensor, timestep: Tensor, class_labels: Tensor, return_dict: bool = True
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """As that of `DiTTransformer2DModel`; the steps [N] may be those of several blocks."""
        # Of any number of classes: the pipeline takes 1000 for no class.
        labels = class_labels.clamp(max=self.config["num_embeds_ada_norm"])
        cuts = torch.tensor(self.config["last_steps"], device=timestep.device)
        owners = (timestep.unsqueeze(1) <= cuts).sum(1)
        shape = (len(hidden_states), self.config["out_channels"], *hidden_states.shape[2:])
        output = hidden_states.new_empty(shape)
        for block in owners.unique().tolist():
            rows = owners == block
            arguments = {"timestep": timestep[rows], "class_labels": labels[rows], "return_dict": False}
            output[rows] = self.blocks[block](hidden_states[rows], **arguments)[0]
        return Transformer2DModelOutput(sample=output) if return_dict else (output,)


class PixelDecoder(ModelMixin, ConfigMixin):
    """In the place of an autoencoder, where a network makes pixels itself.

    Args:
        mean: [C] value that 0 becomes, where pixels are from -1 to 1.
        std: [C] factor before that.
        scaling_factor: 1, as `DiTPipeline` asks for it.
    """

    @register_to_config
    def __init__(self, mean: list[float], std: list[float], scaling_factor: float = 1.0) -> None:
        super().__init__()
        # Buffers, as diffusers looks for a file of weights.
        self.shift = nn.Buffer(torch.tensor(mean).reshape(-1, 1, 1))
        self.scale = nn.Buffer(torch.tensor(std).reshape(-1, 1, 1))

    def decode(self, latents: Tensor) -> Any:
        """Pixels from -1 to 1, under `sample`, from targets [N,C,H,W]."""
        return SimpleNamespace(sample=latents * self.scale + self.shift)
