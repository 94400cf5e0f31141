"""Features that know the data set itself: a small classifier trained on its training split.

Inception's features are made for photographs and say little about scans of 8x8 pixels, and nothing about latents.
Axes: N images, C channels, H rows, W columns, D features.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from dbl.data import ImageData, ImageSet
from dbl.data.spec import ImageSpec
from dbl.data.splits import evenly_spaced
from dbl.denoising.targets.pixels import ImageScale
from dbl.evaluation.features.extractor import FeatureExtractor
from dbl.evaluation.features.stored import cache_folder, damaged, plain_name, read_stored, short_hash, stored
from dbl.evaluation.image_metrics import ImageFeatures
from dbl.utils.seeding import generator_for, seeded


@dataclass(frozen=True)
class ClassifierRecipe:
    """How the classifier is built and trained; any change gives another file in the cache.

    Args:
        version: number to raise when the code of this file changes what the classifier learns.
        feature_size: D.
        width: channels of the first layer.
        steps: number of training steps, whatever the size of the data set.
        batch_size: number of images in a step.
        learning_rate: peak learning rate.
        seed: random seed of the initial weights and of the order of the images.
        max_tested: largest number of test images, evenly spaced, that the accuracy is measured on.
    """

    version: int = 2
    feature_size: int = 64
    width: int = 32
    steps: int = 500
    batch_size: int = 64
    learning_rate: float = 2e-3
    seed: int = 0
    max_tested: int = 10_000


RECIPE = ClassifierRecipe()


class InDomainFeatures(FeatureExtractor):
    """The averaged last feature maps, D = 64, and the class scores of a classifier of the data set itself.

    It is trained once, in seconds for small images, and kept in `cache_dir`. The fixed recipe makes runs on one data
    set comparable with each other, but not with the literature: names of metrics end with the data set's name. Raises
    UserError if the cache is damaged or cannot be written.

    Args:
        data: images or latents of at least 4x4; trains on the training split, the test split gives the accuracy.
        cache_dir: folder for the classifier.
        device: device that it is trained and runs on.
    """

    def __init__(self, data: ImageData, cache_dir: str, device: torch.device | str = "cpu") -> None:
        with torch.inference_mode(False):  # Lightning tests in inference mode, whose tensors cannot be trained
            network = _Classifier(data.spec, RECIPE).to(device)
        names, path = _names(network), classifier_path(data.spec, cache_dir)
        tensors = stored(path, names, lambda: _trained(network, data))
        try:
            network.load_state_dict({name: tensors[name] for name in names - {"accuracy"}})
        except RuntimeError:
            raise damaged(path) from None
        self.title, self.suffix = f"in_domain ({data.spec.name})", plain_name(data.spec.name)
        self.identity = f"in_domain-{_digest(tensors)}"
        self.feature_size, self.accuracy = RECIPE.feature_size, float(tensors["accuracy"])
        self._network, self._device = network.eval().requires_grad_(False), device

    @override
    @torch.no_grad()
    def __call__(self, images: Tensor) -> ImageFeatures:
        features, logits = self._network(images.to(self._device))
        return ImageFeatures(features.cpu(), logits.cpu())


def classifier_path(data: ImageSpec, cache_dir: str) -> Path:
    """The file that keeps the classifier of a data set."""
    return cache_folder(cache_dir, data) / f"classifier-{short_hash(asdict(RECIPE))}.safetensors"


def check_classifier(data: ImageSpec, cache_dir: str) -> None:
    """Raise UserError if there is a classifier in the cache and it is damaged."""
    read_stored(classifier_path(data, cache_dir), _names(_Classifier(data, RECIPE)))


class _Classifier(nn.Module):
    """Convolutions down to 4 or fewer rows or columns, the mean over all places, and a linear layer.

    Normalization uses the statistics of training and not of the image: an image that is too bright or noisy must keep
    features that are too large.
    """

    def __init__(self, data: ImageSpec, recipe: ClassifierRecipe) -> None:
        super().__init__()
        channels, *size = data.shape
        side, width = min(size), recipe.width
        self.standardise = ImageScale(data)
        with seeded(recipe.seed, "features", "weights"):
            layers = [_convolution(channels, width, stride=1 if side <= 32 else 2)]
            side = side if side <= 32 else (side + 1) // 2
            while side > 4:
                layers.append(_convolution(width, recipe.feature_size, stride=2))
                side, width = (side + 1) // 2, recipe.feature_size
            layers.append(_convolution(width, recipe.feature_size, stride=1))
            self.body = nn.Sequential(*layers)
            self.head = nn.Linear(recipe.feature_size, data.num_classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features [N,D] and logits of raw images [N,C,H,W]."""
        features = self.body(self.standardise(images)).mean((2, 3))
        return features, self.head(features)


def _convolution(channels: int, width: int, stride: int) -> nn.Module:
    convolution = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU())


def _names(network: nn.Module) -> set[str]:
    """Names of the tensors in the file."""
    return {*network.state_dict(), "accuracy"}


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _trained(network: _Classifier, data: ImageData) -> dict[str, Tensor]:
    """Train the network in place; return its weights and its accuracy, on the CPU."""
    with torch.inference_mode(False), torch.enable_grad():
        _train(network, data.split("train"))
    accuracy = _accuracy(network, data.split("test"))
    weights = {name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}
    return {**weights, "accuracy": torch.tensor(accuracy, dtype=torch.float64)}


def _train(network: _Classifier, images: ImageSet) -> None:
    optimizer = torch.optim.AdamW(network.parameters(), lr=RECIPE.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RECIPE.learning_rate, total_steps=RECIPE.steps)
    generator = generator_for(RECIPE.seed, "features", "batches")
    network.train()
    for _ in range(RECIPE.steps):
        indices = torch.randint(len(images), (RECIPE.batch_size,), generator=generator)  # with replacement
        _, logits = network(images.images[indices].to(network.head.weight.device))
        optimizer.zero_grad()
        F.cross_entropy(logits, images.labels[indices].to(logits.device)).backward()
        optimizer.step()
        schedule.step()
    network.eval()


@torch.no_grad()
def _accuracy(network: _Classifier, images: ImageSet) -> float:
    chosen, right = evenly_spaced(len(images), RECIPE.max_tested), 0
    for indices in chosen.split(256):
        _, logits = network(images.images[indices].to(network.head.weight.device))
        right += int((logits.argmax(dim=1).cpu() == images.labels[indices]).sum())
    return right / len(chosen)
