"""The base class of classifiers that are trained otherwise than in blocks: accuracy and nats of the label."""

from abc import abstractmethod

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from dbl.denoising.targets import Batch
from dbl.networks import ViT
from dbl.run.contract import Contract
from dbl.training.config import TrainingConfig
from dbl.training.module import TrainingModule
from dbl.utils.errors import UserError


class Classifier(TrainingModule):
    """A whole network that labels images. Raises UserError unless the run's network is a `ViT`.

    Args:
        part: name of its folder in the run folder.
        contract: contract of the run that it is compared with; gives network sizes, data and seed.
        recipe: training configuration.
    """

    def __init__(self, part: str, contract: Contract, recipe: TrainingConfig | None = None) -> None:
        super().__init__(part, 0, contract, recipe)
        network = contract.config.network
        if not isinstance(network, ViT):
            raise UserError(f"{type(self).__name__} needs contract.network ViT, not {type(network).__name__}")
        self.sizes = network
        self.space = contract.space()
        self.accuracy = MulticlassAccuracy(contract.data.num_classes, average="micro")

    @abstractmethod
    def class_logits(self, images: Tensor) -> Tensor:
        """Logits [N, C] of standardised images [N, channels, height, width]."""

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Accuracy and cross-entropy in nats over every test image."""
        clean = self.space.encode(batch)
        logits = self.class_logits(clean.cond)
        self.accuracy(logits, clean.labels)
        self.log("test/accuracy", self.accuracy, batch_size=len(clean.labels))
        nats = F.cross_entropy(logits.float(), clean.labels)
        self.log("test/nats", nats, batch_size=len(clean.labels), sync_dist=True)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Predicted labels [N]."""
        return torch.argmax(self.class_logits(self.space.encode(batch).cond), dim=1)
