"""Classifiers that are trained otherwise than in blocks: their base class, and the network trained end to end."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy
from typing_extensions import override

from dbl.denoising.targets import Batch
from dbl.networks import Architecture, LabelCNN, ViT
from dbl.run.contract import Contract
from dbl.training.config import TrainingConfig
from dbl.training.module import Losses, TrainingModule
from dbl.utils.errors import UserError
from dbl.utils.seeding import seeded


class Classifier(TrainingModule):
    """A whole network that labels images or vectors. Raises UserError if it cannot be made of the run's network.

    Args:
        part: name of its folder in the run folder.
        contract: contract of the run that it is compared with; gives network sizes, data and seed.
        recipe: training configuration.
        make: factory of the network from the sizes; its random weights are a function of the seed and the part.
    """

    network: nn.Module
    serves: ClassVar[tuple[type[Architecture], ...]] = (ViT, LabelCNN)

    def __init__(
        self, part: str, contract: Contract, recipe: TrainingConfig | None, make: Callable[[Any], nn.Module]
    ) -> None:
        super().__init__(part, 0, contract, recipe)
        sizes = contract.config.network
        if not isinstance(sizes, self.serves):
            names = " or ".join(kind.__name__ for kind in self.serves)
            raise UserError(f"{type(self).__name__} needs contract.network {names}, not {type(sizes).__name__}")
        with seeded(contract.config.seed, "weights", part):
            self.network = make(sizes)
        if self.network is None:
            raise UserError(f"contract.network {type(sizes).__name__} has no plain form: give it a build_classifier")
        self.space = contract.space()
        self.accuracy = MulticlassAccuracy(contract.data.num_classes, average="micro")

    @property
    @override
    def backbone(self) -> nn.Module:
        return self.network

    @abstractmethod
    def class_logits(self, images: Tensor, indices: Tensor) -> Tensor:
        """Logits [N, C] of standardised images (or vectors) [N, ...]; draws follow from the indices [N]."""

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Accuracy and cross-entropy in nats over every test image."""
        clean = self.space.encode(batch)
        logits = self.class_logits(clean.cond, batch["index"])
        self.accuracy(logits, clean.labels)
        self.log("test/accuracy", self.accuracy, batch_size=len(clean.labels))
        nats = F.cross_entropy(logits.float(), clean.labels)
        self.log("test/nats", nats, batch_size=len(clean.labels), sync_dist=True)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Predicted labels [N]."""
        return torch.argmax(self.class_logits(self.space.encode(batch).cond, batch["index"]), dim=1)


class EndToEndClassifier(Classifier):
    """The layers of all blocks as one classifier, trained with cross-entropy; arguments as in `EndToEndText`."""

    serves = (Architecture,)

    def __init__(self, contract: Contract, recipe: TrainingConfig | None = None) -> None:
        super().__init__("end_to_end", contract, recipe, lambda sizes: sizes.build_classifier(contract.data))

    @override
    def class_logits(self, images: Tensor, indices: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits

    @override
    def losses(self, batch: Batch) -> Losses:
        """Cross-entropy of each sample in nats."""
        clean = self.space.encode(batch)
        return Losses(F.cross_entropy(self.network(clean.cond).float(), clean.labels, reduction="none"))
