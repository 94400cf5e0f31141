"""Image sets and the batches made of them."""

import pytest
import torch

from dbl.data import Augmentation, BatchIndex, HorizontalFlip, ImageBatches, ImageSet, PaddedCrop, RandAugment
from dbl.utils.errors import UserError


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (12, 3, 6, 8), generator=generator).to(torch.uint8)
    return ImageSet(pixels, torch.arange(12) % 5)


def test_batch_holds_the_images_that_were_asked_for(images):
    """Catches labels or indices that belong to other images than those of the batch."""
    indices = torch.tensor([7, 2, 11])
    batch = ImageBatches(images)[BatchIndex(3, indices)]
    assert torch.equal(batch["image"], images.images[indices])
    assert batch["label"].tolist() == [2, 2, 1]
    assert batch["index"].tolist() == [7, 2, 11]
    assert batch["position"] == 3


def test_selection_of_a_selection(images):
    """Catches a view that applies its rows to the wrong set."""
    part = images.select(torch.tensor([9, 4, 1, 0])).select(torch.tensor([2, 0]))
    assert torch.equal(part.images[torch.tensor([0, 1])], images.images[torch.tensor([1, 9])])
    assert part.labels.tolist() == [1, 4]
    assert (len(part), part.images.shape, part.images.dtype) == (2, (2, 3, 6, 8), torch.uint8)


@pytest.mark.parametrize("augmentation", [HorizontalFlip(), PaddedCrop(2), RandAugment()], ids=repr)
def test_augmentation_is_a_function_of_its_counters(images, augmentation):
    """Catches randomness that depends on history or ignores seed, block, position or rank."""

    def augmented(seed=0, block=0, position=0, rank=0):
        batches = ImageBatches(images, [augmentation], seed, block, rank)
        return batches[BatchIndex(position, torch.arange(12))]["image"]

    first = augmented()
    torch.manual_seed(5)
    assert torch.equal(augmented(), first)
    for other in ({"seed": 1}, {"block": 1}, {"position": 1}, {"rank": 1}):
        assert not torch.equal(augmented(**other), first), other


def test_global_generator_is_left_alone(images):
    """Catches augmentations that shift what the rest of the program draws."""
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    _ = ImageBatches(images, [HorizontalFlip(), PaddedCrop(), RandAugment()])[BatchIndex(0, torch.arange(12))]
    assert torch.equal(torch.rand(4), expected)


def test_augmentations_run_in_their_order(images):
    """Catches a reversed or skipped list."""

    class Brighten(Augmentation):
        def __call__(self, images):
            return images // 2 + 100

    class Halve(Augmentation):
        def __call__(self, images):
            return images // 2

    batch = ImageBatches(images, [Brighten(), Halve()])[BatchIndex(0, torch.arange(12))]
    assert torch.equal(batch["image"], (images.images // 2 + 100) // 2)


@pytest.mark.parametrize(
    ("pixels", "labels", "message"),
    [
        (torch.zeros(3, 4, 4, dtype=torch.uint8), torch.zeros(3).long(), r"\[N,C,H,W\]"),
        (torch.zeros(3, 1, 4, 4, dtype=torch.float64), torch.zeros(3).long(), "float64"),
        (torch.zeros(3, 1, 4, 4), torch.zeros(2).long(), "N = 3"),
        (torch.zeros(3, 1, 4, 4), torch.zeros(3), "int64"),
        (torch.zeros(3, 1, 4, 4), torch.tensor([0, -1, 1]), "label -1"),
    ],
)
def test_malformed_sets_are_refused(pixels, labels, message):
    """Catches sets whose fault would show much later, as a wrong loss or a broadcast."""
    with pytest.raises(UserError, match=message):
        ImageSet(pixels, labels)


def test_foreign_order_is_refused(images):
    """Catches a trainer that put its own sampler in the place of the order."""
    with pytest.raises(UserError, match="overfit_batches"):
        ImageBatches(images)[3]
