"""Forward-Forward: each layer learns to tell images with their own label from images with a wrong one.

Hinton, The Forward-Forward Algorithm (arXiv 2212.13345), for a ViT. The label is a token of its own, since the
pixels of one patch tell few classes apart; the symmetric loss of SymBa (arXiv 2303.08418) can be chosen.

Axes: N images, T tokens, D token width, C classes.
"""

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from dbl.data.spec import DataSpec, ImageSpec
from dbl.denoising.targets import Batch
from dbl.networks import ViT
from dbl.networks.layers import initialise
from dbl.networks.vit import PatchTokens, plain_layers
from dbl.run.contract import Contract
from dbl.training.baselines.classifier import Classifier
from dbl.training.config import TrainingConfig
from dbl.training.module import Losses
from dbl.utils.checks import Number, check_choice, check_numbers
from dbl.utils.seeding import generator_for

Comparison = Literal["threshold", "difference"]


class ForwardForwardViT(Classifier):
    """The layers of a ViT, each trained by its own goodness; no gradient passes from one to another.

    A step has two passes, one with right and one with wrong labels, so it costs twice a step of the end-to-end network.

    Args:
        contract: contract of the run that it is compared with; gives network sizes, data and seed.
        recipe: training configuration.
        comparison: loss of a layer. threshold: the goodness of right labels above `threshold`, that of wrong ones
            below (Hinton). difference: that of right labels above that of wrong ones (SymBa, Eq. 3).
        threshold: goodness between right and wrong labels.
        sharpness: factor on the difference of goodness.
    """

    network: "GoodnessNetwork"
    serves = (ViT,)

    def __init__(
        self,
        contract: Contract,
        recipe: TrainingConfig | None = None,
        comparison: Comparison = "threshold",
        threshold: float = 2.0,
        sharpness: float = 1.0,
    ) -> None:
        super().__init__("forward_forward", contract, recipe, lambda sizes: GoodnessNetwork(sizes, contract.data))
        check_choice("model.comparison", comparison, get_args(Comparison))
        self.comparison, self.threshold, self.sharpness = comparison, threshold, sharpness
        check_numbers("model", self, threshold=Number(above=0, at_most=1e6), sharpness=Number(above=0, at_most=1e6))
        self.layer_passes = 2 * self.layer_passes

    @override
    def losses(self, batch: Batch) -> Losses:
        """Sum over layers of the loss of each image."""
        clean = self.space.encode(batch)
        right = self.network(clean.cond, clean.labels)  # N, L
        wrong = self.network(clean.cond, self._wrong_labels(clean.labels))
        if self.comparison == "difference":
            return Losses(F.softplus(self.sharpness * (wrong - right)).sum(dim=1))
        return Losses((F.softplus(self.threshold - right) + F.softplus(wrong - self.threshold)).sum(dim=1))

    def _wrong_labels(self, labels: Tensor) -> Tensor:
        """Labels [N] of other classes, each as probable; the same in each validation."""
        purpose = ("training", self.batches_seen, self.global_rank) if self.training else ("validation",)
        generator = generator_for(self.seed, "wrong labels", self.stream, *purpose)
        others = torch.randint(1, self.contract.data.num_classes, labels.shape, generator=generator)
        return (labels + others.to(labels.device)) % self.contract.data.num_classes

    @override
    def class_logits(self, images: Tensor, indices: Tensor) -> Tensor:
        """Goodness of each label, summed over all layers [N, C]: a pass for each class."""
        classes = range(self.contract.data.num_classes)
        return torch.stack([self.network(images, self._all(images, label)).sum(dim=1) for label in classes], dim=1)

    @staticmethod
    def _all(images: Tensor, label: int) -> Tensor:
        return torch.full((len(images),), label, device=images.device)


class GoodnessNetwork(nn.Module):
    """Layers of a ViT that see an image beside a label, each cut off from the others.

    Args:
        sizes: sizes of the whole network.
        data: image shape and number of classes.
    """

    patterns: Tensor

    def __init__(self, sizes: ViT, data: DataSpec) -> None:
        super().__init__()
        self.tokens = PatchTokens(sizes, sizes.require(data, ImageSpec))
        self.layers = plain_layers(sizes)
        # Unrelated labels: orthogonal as far as the width allows, each coordinate of size 1.
        self.register_buffer("patterns", _orthogonal(data.num_classes, sizes.width))
        initialise(self)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Images [N, channels, height, width] and labels [N] -> goodness of each layer [N, L]."""
        x = self.tokens(self.patterns[labels], images)  # N, 1 + T, D
        goodness = []
        for layer in self.layers:
            # Of its input a layer sees the direction alone: the length is the goodness that the layer before it found.
            x = layer(F.normalize(x, dim=2) * x.shape[2] ** 0.5)
            goodness.append(x.mean(dim=1).square().mean(dim=1))
            x = x.detach()
        return torch.stack(goodness, dim=1)


def _orthogonal(num_rows: int, width: int) -> Tensor:
    """Rows of length sqrt(width), orthogonal in each group of `width` of them."""
    groups = [nn.init.orthogonal_(torch.empty(width, width)) for _ in range(-(-num_rows // width))]
    return torch.cat(groups)[:num_rows] * width**0.5
