"""Contrastive Forward-Forward: each layer learns to bring images of one class together.

After arXiv 2502.00571, for a ViT: a supervised contrastive loss for each layer, whose margin falls over the layers.
The paper trains the readout in a second stage; here it is trained beside the layers, on features without
gradient, so that all arms of a comparison have one training. At the end of it, when the learning rate falls to 0, the
features hardly change.

Axes: N images, V views, L layers, T tokens, D token width, C classes.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from dbl.data.images.augment import PaddedCrop
from dbl.denoising.targets import Batch
from dbl.networks import ViT
from dbl.networks.vit import ViTClassifier
from dbl.run.contract import Contract
from dbl.training.baselines.classifier import Classifier
from dbl.training.config import TrainingConfig
from dbl.training.module import Losses
from dbl.utils.checks import Number, check_numbers, whole


class ContrastiveForwardForwardViT(Classifier):
    """The layers of a ViT, each trained by a contrastive loss of its own; no gradient passes from one to another.

    A step has two passes, one for each view of an image, so it costs twice a step of the end-to-end network.

    Args:
        contract: contract of the run that it is compared with; gives network sizes, data and seed.
        recipe: training configuration.
        temperature: divisor of similarities.
        first_margin: margin of the first layer: so much is added to the similarity of images of one class, up to 1.
        last_margin: margin of the last layer; between them it falls evenly.
        padding: largest shift of the second view, in pixels.
    """

    network: "SeparateLayers"
    serves = (ViT,)

    def __init__(
        self,
        contract: Contract,
        recipe: TrainingConfig | None = None,
        temperature: float = 0.15,
        first_margin: float = 0.4,
        last_margin: float = 0.1,
        padding: int = 1,
    ) -> None:
        part = "contrastive_forward_forward"
        super().__init__(part, contract, recipe, lambda sizes: SeparateLayers(sizes.build_classifier(contract.data)))
        self.temperature, self.padding = temperature, padding
        self.first_margin, self.last_margin = first_margin, last_margin
        margin = Number(at_least=0, at_most=2)
        check_numbers("model", self, temperature=Number(above=0, at_most=1e3), padding=whole(0, 10_000))
        check_numbers("model", self, first_margin=margin, last_margin=margin)
        self.layer_passes = 2 * self.layer_passes
        self.margins = torch.linspace(first_margin, last_margin, len(self.network.layers)).tolist()

    @override
    def losses(self, batch: Batch) -> Losses:
        """Contrastive losses of all layers and the cross-entropy of the readout, of each image."""
        clean = self.space.encode(batch)
        views = [clean.cond]
        if self.training:  # torch's generator is seeded for each batch
            views.append(PaddedCrop(self.padding)(clean.cond))
        labels = clean.labels.repeat(len(views))
        features, logits = self.network(torch.cat(views))
        loss = F.cross_entropy(logits.float(), labels, reduction="none")
        for layer, margin in zip(features, self.margins, strict=True):
            loss = loss + contrastive_loss(layer, labels, margin, self.temperature)
        return Losses(loss.unflatten(0, (len(views), -1)).mean(dim=0))

    @override
    def class_logits(self, images: Tensor, indices: Tensor) -> Tensor:
        logits: Tensor = self.network(images)[1]
        return logits


def contrastive_loss(features: Tensor, labels: Tensor, margin: float, temperature: float) -> Tensor:
    """Supervised contrastive loss of each image (arXiv 2004.11362, Eq. 2), with a margin for its own class.

    Args:
        features: [N, D].
        labels: [N].
        margin: increase of the similarity of images of one class, which stays at most 1.
        temperature: divisor of similarities.

    Returns:
        [N], 0 for an image without another of its class.
    """
    unit = F.normalize(features.float(), dim=1)
    similarity = unit @ unit.T  # N, N
    others = ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    positive = (labels[:, None] == labels) & others
    similarity = torch.where(positive, (similarity + margin).clamp(max=1), similarity) / temperature
    log_sum = similarity.masked_fill(~others, -torch.inf).logsumexp(dim=1, keepdim=True)
    log_probability = (similarity - log_sum).masked_fill(~positive, 0)
    return -log_probability.sum(dim=1) / positive.sum(dim=1).clamp(min=1)


class SeparateLayers(nn.Module):
    """The layers of a classifier, each cut off from the others, and its readout, cut off from all.

    Args:
        classifier: the end-to-end network.
    """

    def __init__(self, classifier: ViTClassifier) -> None:
        super().__init__()
        self.classifier = classifier

    @property
    def layers(self) -> nn.ModuleList:
        """The layers, which activation checkpointing looks for."""
        return self.classifier.layers

    def forward(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """[N, channels, height, width] -> features [N, D] of each layer, and logits [N, C]."""
        x = self.classifier.first_tokens(images)
        features = []
        for layer in self.layers:
            x = layer(x)
            features.append(x.mean(dim=1))
            x = x.detach()
        return features, self.classifier.head(self.classifier.norm(features[-1].detach()))
