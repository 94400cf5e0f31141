"""The ViT, trained end to end with cross-entropy."""

from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from dbl.denoising.targets import Batch
from dbl.run.contract import Contract
from dbl.training.baselines.classifier import Classifier
from dbl.training.config import TrainingConfig
from dbl.training.module import Losses
from dbl.utils.seeding import seeded


class EndToEndViT(Classifier):
    """The layers of all blocks of a ViT run as one classifier; arguments as in `EndToEndText`."""

    def __init__(self, contract: Contract, recipe: TrainingConfig | None = None) -> None:
        super().__init__("end_to_end", contract, recipe)
        with seeded(contract.config.seed, "weights", "end_to_end"):
            self.network = self.sizes.build_classifier(contract.data)

    @property
    @override
    def backbone(self) -> nn.Module:
        return self.network

    @override
    def class_logits(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits

    @override
    def losses(self, batch: Batch) -> Losses:
        """Cross-entropy of each sample in nats."""
        clean = self.space.encode(batch)
        return Losses(F.cross_entropy(self.network(clean.cond).float(), clean.labels, reduction="none"))
