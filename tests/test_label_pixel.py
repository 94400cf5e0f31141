"""The benchmark of where Forward-Forward shows its label: the pictures, the places, and a short run of each arm."""

import pytest
import torch

import dbl
from benchmarks.label_pixel import ARMS, CLASSES, DigitPairs, PixelLabels, accuracy, label_places


def test_pairs_are_two_digits_below_a_black_half() -> None:
    """Catches labels of other digits, test digits among the training pairs, and pixels of labels that hide a digit."""
    data = DigitPairs(num_train=600, num_test=50)
    pairs, digits = data.split("test"), dbl.Digits(batch_size=1, eval_batch_size=1).split("test")
    scans = digits.images[torch.arange(len(digits))]
    assert pairs.images.shape == (50, 1, 16, 16)
    assert pairs.images[:, :, :8].max() == 0
    for image, label in zip(pairs.images[:, :, 8:], pairs.labels.tolist(), strict=True):
        for half, number in ((image[..., :8], label // 10), (image[..., 8:], label % 10)):
            same = (scans == half).flatten(1).all(dim=1)
            assert number in digits.labels[same].tolist()


def test_labels_are_one_pixel_each() -> None:
    """Catches two classes with one pixel where there is room, and pixels outside of the first patch."""
    places = label_places(in_one_patch=False)
    assert len(places.unique()) == CLASSES
    assert places.max() < 8 * 16
    shared = label_places(in_one_patch=True)
    assert len(shared.unique()) == 16
    assert (shared // 16).max() == (shared % 16).max() == 3


def test_only_the_pixel_tells_a_layer_the_label() -> None:
    """Catches a token that knows the class beside the pixel, and a pixel that is not written."""
    data = DigitPairs(num_train=600, num_test=4)
    network = PixelLabels(
        dbl.ViT(num_layers=1, width=16, num_heads=2, patch_size=4, mlp_width=16), data.spec, label_places(True)
    )
    images, labels = torch.zeros(2, 1, 16, 16), torch.tensor([3, 3 + 16])
    images[:, :, 9, 9] = 1.0  # white, as wherever there are digits
    network.eval()
    goodness = network(images, labels)
    assert torch.equal(goodness[0], goodness[1])  # of one pixel
    assert not torch.equal(goodness[0], network(images, labels + 1)[0])


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_trains_and_is_tested(arm: str) -> None:
    """Catches an arm that cannot be trained."""
    assert 0 <= accuracy(arm, 0, 2, DigitPairs(num_train=600, num_test=10)) <= 1
