"""The ViT, trained end to end with cross-entropy."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy
from typing_extensions import override

from dbl.denoising.targets import Batch
from dbl.networks import ViT
from dbl.run.contract import Contract
from dbl.training.config import TrainingConfig
from dbl.training.module import Losses, TrainingModule
from dbl.utils.errors import UserError
from dbl.utils.seeding import seeded


class EndToEndViT(TrainingModule):
    """The layers of all blocks of a ViT run as one classifier; arguments as in `EndToEndText`."""

    def __init__(self, contract: Contract, recipe: TrainingConfig | None = None) -> None:
        super().__init__("end_to_end", 0, contract, recipe)
        network = contract.config.network
        if not isinstance(network, ViT):
            raise UserError(f"EndToEndViT needs contract.network ViT, not {type(network).__name__}")
        self.space = contract.space()
        with seeded(contract.config.seed, "weights", "end_to_end"):
            self.network = network.build_classifier(contract.data)
        self.accuracy = MulticlassAccuracy(contract.data.num_classes, average="micro")

    @property
    @override
    def backbone(self) -> nn.Module:
        return self.network

    @override
    def losses(self, batch: Batch) -> Losses:
        """Cross-entropy of each sample in nats."""
        clean = self.space.encode(batch)
        return Losses(F.cross_entropy(self.network(clean.cond).float(), clean.labels, reduction="none"))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Accuracy and cross-entropy in nats over every test image."""
        clean = self.space.encode(batch)
        logits = self.network(clean.cond)
        self.accuracy(logits, clean.labels)
        self.log("test/accuracy", self.accuracy, batch_size=len(clean.labels))
        nats = F.cross_entropy(logits.float(), clean.labels)
        self.log("test/nats", nats, batch_size=len(clean.labels), sync_dist=True)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Predicted labels [N]."""
        return torch.argmax(self.network(self.space.encode(batch).cond), dim=1)
