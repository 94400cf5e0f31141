"""A data set that is large enough for covariances, a short recipe for its classifier, and a stack that makes images."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from toy import DIT, Stripes

from dbl.data import ImageSet, Split
from dbl.denoising.denoiser import Denoiser
from dbl.denoising.sampling import Sampler
from dbl.denoising.targets import PixelTarget
from dbl.diffusion.partition import PartitionConfig
from dbl.evaluation.features import in_domain
from dbl.inference.stack import BlockStack
from dbl.run.contract import ContractConfig
from dbl.run.inference import InferenceConfig
from dbl.utils.seeding import generator_for


class ManyStripes(Stripes):
    """The stripes of `toy`, more of them: half are of class 0, 3/10 of class 1 and 2/10 of class 2."""

    def __init__(self, num_train: int = 150, num_test: int = 80, channels: int = 1, latents: bool = False) -> None:
        super().__init__(eval_batch_size=50)
        self.counts = {"train": num_train, "test": num_test}
        self.channels = channels
        self.latents = latents

    def load(self, split: Split) -> ImageSet | None:
        if split == "validation":
            return None
        generator = torch.Generator().manual_seed(int(split == "test"))
        labels = torch.tensor([0, 1, 0, 2, 0, 1, 0, 2, 0, 1]).repeat(self.counts[split])[: self.counts[split]]
        images = torch.randint(0, 80, (len(labels), self.channels, 4, 6), generator=generator)
        for image, label in zip(images, labels.tolist(), strict=True):
            image[:, :, 2 * label : 2 * label + 2] += 150
        return ImageSet(images / 100 - 1 if self.latents else images.to(torch.uint8), labels)


@pytest.fixture(autouse=True)
def _short_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_domain, "RECIPE", replace(in_domain.RECIPE, steps=40, batch_size=32))


@pytest.fixture(scope="session")
def many_stripes() -> type[ManyStripes]:
    return ManyStripes


@pytest.fixture(scope="session")
def data() -> ManyStripes:
    return ManyStripes()


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A cache folder that the tests of one data set share."""
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def make_stack() -> Callable[..., BlockStack]:
    """Makes a stack for a data set, its weights random: at their start the outputs would not depend on the class."""

    def make(data: ManyStripes, num_steps: int = 3) -> BlockStack:
        contract = ContractConfig(network=DIT, target=PixelTarget(), partition=PartitionConfig(num_blocks=3)).build(
            data.spec
        )

        def load(block: int) -> Denoiser:
            denoiser = contract.denoiser(block).eval()
            generator = generator_for(1, "perturb", block)
            for weights in denoiser.parameters():
                weights.data += 0.1 * torch.randn(weights.shape, generator=generator)
            return denoiser

        return BlockStack(contract, load, InferenceConfig(Sampler(num_steps=num_steps), num_images=4))

    return make
