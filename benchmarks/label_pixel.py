"""Forward-Forward with 100 classes: is the label that a layer is shown to blame for its failure?

python -m benchmarks.label_pixel --steps 2000 --seeds 0,1,2

Forward-Forward (Hinton, arXiv 2212.13345) shows a layer each image beside a label, and for ten classes writes it into
the first ten pixels. A patch of a ViT has few pixels for a hundred. The arms, on pairs of digits of scikit-learn as 100
classes, at equal compute:

token       the label is a token of its own with a pattern for each class, as `dbl` has it
pixels      the label is one white pixel among the first 100 of the image, which are black
patch       the label is one white pixel of the first patch; with 16 pixels, classes share them
end_to_end  back-propagation

Prints a JSON object: for each arm, the test accuracy of each seed.
"""

import argparse
import json
from functools import partial

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import dbl
from dbl.data import Split
from dbl.data.spec import DataSpec
from dbl.run.contract import Contract
from dbl.training.baselines import EndToEndClassifier
from dbl.training.baselines.forward_forward import ForwardForwardViT, GoodnessNetwork
from dbl.training.module import TrainingModule

PATCH = 4
CLASSES = 100
_SIDE = 16


class DigitPairs(dbl.ImageData):
    """Pairs of digits on 16 x 16 pixels, of which the upper half is black: 100 classes.

    Args:
        num_train: number of pairs of training digits.
        num_test: number of pairs of test digits.
        seed: random seed of the order of the training images.
    """

    def __init__(self, num_train: int = 20_000, num_test: int = 2_000, seed: int = 0) -> None:
        super().__init__(batch_size=64, eval_batch_size=500, seed=seed)
        self._sizes = {"train": num_train, "test": num_test}

    def load(self, split: Split) -> dbl.ImageSet | None:
        """Draw the pairs, the same for all seeds."""
        if split == "validation":
            return None
        digits = dbl.Digits(batch_size=1, eval_batch_size=1, validation_share=0.0).split(split)
        generator = torch.Generator().manual_seed(int(split == "test"))
        pairs = torch.randint(len(digits), (self._sizes[split], 2), generator=generator)
        images = F.pad(torch.cat(tuple(digits.images[pairs[:, i]] for i in (0, 1)), dim=3), (0, 0, 8, 0))
        return dbl.ImageSet(images, 10 * digits.labels[pairs[:, 0]] + digits.labels[pairs[:, 1]])


class PixelLabels(GoodnessNetwork):
    """Goodness of images into which the label is written, all with the same first token.

    Args:
        sizes: sizes of the whole network.
        data: image shape and number of classes.
        places: pixels [C], each row times 16 and column, of the labels.
    """

    places: Tensor

    def __init__(self, sizes: dbl.ViT, data: DataSpec, places: Tensor) -> None:
        super().__init__(sizes, data)
        self.register_buffer("places", places)
        self.patterns = torch.ones_like(self.patterns)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Images [N, channels, height, width] and labels [N] -> goodness of each layer [N, L]."""
        white = images.amax()
        written = images.flatten(2).index_put((torch.arange(len(images)), torch.tensor(0), self.places[labels]), white)
        return super().forward(written.view_as(images), labels)


class PixelForwardForward(ForwardForwardViT):
    """Forward-Forward with labels in pixels."""

    def __init__(self, contract: Contract, recipe: dbl.TrainingConfig, places: Tensor) -> None:
        super().__init__(contract, recipe)
        self.network: nn.Module = PixelLabels(contract.config.network, contract.data, places)  # type: ignore[arg-type, assignment]


def label_places(in_one_patch: bool) -> Tensor:
    """Pixels [C] of the labels: the first C of an image, or those of its first patch in turn."""
    classes = torch.arange(CLASSES)
    if not in_one_patch:
        return classes
    within = classes % PATCH**2
    return within // PATCH * _SIDE + within % PATCH


ARMS = {
    "token": ForwardForwardViT,
    "pixels": partial(PixelForwardForward, places=label_places(in_one_patch=False)),
    "patch": partial(PixelForwardForward, places=label_places(in_one_patch=True)),
    "end_to_end": EndToEndClassifier,
}


def accuracy(arm: str, seed: int, steps: int, data: DigitPairs) -> float:
    """Train one arm with the compute of `steps` steps of Forward-Forward, and test it.

    Args:
        arm: name of one of `ARMS`.
        seed: random seed of weights and wrong labels.
        steps: number of training steps; end to end, whose steps cost a half, twice as many.
        data: pairs, in an order of its own.
    """
    network = dbl.ViT(num_layers=4, width=64, num_heads=4, patch_size=PATCH, mlp_width=256, dropout=0.0)
    config = dbl.ContractConfig(network, dbl.ClassTarget(dim=128), partition=dbl.PartitionConfig(1), seed=seed)
    part: TrainingModule = ARMS[arm](config.build(data.spec), dbl.TrainingConfig())
    length = 2 * steps if arm == "end_to_end" else steps
    quiet = dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False)
    trainer = L.Trainer(max_steps=length, max_epochs=-1, accelerator="cpu", limit_val_batches=0, **quiet)  # type: ignore[arg-type]
    trainer.fit(part, data)
    return trainer.test(part, data, verbose=False)[0]["test/accuracy"]


def main() -> None:
    """Run all arms and print their accuracies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[0, 1, 2])
    options = parser.parse_args()
    found = {arm: [accuracy(arm, seed, options.steps, DigitPairs(seed=seed)) for seed in options.seeds] for arm in ARMS}
    print(json.dumps({"steps": options.steps, "seeds": options.seeds, "accuracy": found}, indent=2))


if __name__ == "__main__":
    main()
