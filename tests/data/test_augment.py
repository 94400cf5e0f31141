"""Augmentations: each image has a draw of its own, pixels are moved and not invented."""

import pytest
import torch

from dbl.data import HorizontalFlip, PaddedCrop, RandAugment
from dbl.utils.errors import UserError

ALL = [HorizontalFlip(), PaddedCrop(2), RandAugment()]


@pytest.fixture
def images():
    return torch.randint(256, (16, 3, 8, 10), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


@pytest.mark.parametrize("augmentation", ALL, ids=repr)
def test_each_image_has_its_own_draw(augmentation):
    """Catches one flip, one crop or one operation for the whole batch."""
    torch.manual_seed(1)
    same = torch.randint(256, (1, 3, 8, 10)).to(torch.uint8).expand(16, -1, -1, -1)
    assert len(augmentation(same).flatten(1).unique(dim=0)) > 1


@pytest.mark.parametrize("augmentation", ALL, ids=repr)
def test_shape_and_type_stay_and_the_input_is_untouched(augmentation, images):
    """Catches floats, swapped axes, and changes in place that would alter the data set itself."""
    before = images.clone()
    changed = augmentation(images)
    assert (changed.shape, changed.dtype) == (images.shape, torch.uint8)
    assert torch.equal(images, before)
    assert not torch.equal(changed, images)


@pytest.mark.parametrize("augmentation", ALL, ids=repr)
def test_grey_images_work(augmentation, images):
    """Catches operations that need three channels."""
    assert augmentation(images[:, :1]).shape == (16, 1, 8, 10)


def test_flip_mirrors_about_its_share_of_the_images(images):
    """Catches a flip of rows instead of columns, and of pixels of one image independently."""
    assert torch.equal(HorizontalFlip(0)(images), images)
    assert torch.equal(HorizontalFlip(1)(images), images.flip(3))
    torch.manual_seed(0)
    many = torch.arange(10).to(torch.uint8).expand(4000, 1, 1, 10)
    flipped = HorizontalFlip(0.25)(many)
    left = flipped[:, 0, 0, 0]
    assert set(left.tolist()) == {0, 9}
    assert abs((left == 9).float().mean() - 0.25) < 0.03
    assert torch.equal(flipped.sort(-1).values, many)


def test_crop_shifts_by_up_to_its_padding_and_fills_with_zero(images):
    """Catches shifts that are swapped, too large or too small, and lost or invented pixels."""
    torch.manual_seed(0)
    image = torch.arange(1, 81).to(torch.uint8).view(1, 1, 8, 10)
    expected = set()
    for down in range(-2, 3):
        for right in range(-2, 3):
            shifted = torch.zeros_like(image)
            shifted[:, :, max(0, down) : 8 + down, max(0, right) : 10 + right] = image[
                :, :, max(0, -down) : 8 - down, max(0, -right) : 10 - right
            ]
            expected.add(tuple(shifted.flatten().tolist()))
    seen = {tuple(crop.flatten().tolist()) for crop in PaddedCrop(2)(image.expand(800, -1, -1, -1))}
    assert seen == expected
    assert torch.equal(PaddedCrop(0)(images), images)


def test_impossible_settings_are_refused(images):
    """Catches settings that would be taken silently and never do what they say."""
    with pytest.raises(UserError, match="probability"):
        HorizontalFlip(1.5)
    with pytest.raises(UserError, match="padding"):
        PaddedCrop(-1)
    with pytest.raises(UserError, match="magnitude"):
        RandAugment(magnitude=31)
    with pytest.raises(UserError, match="uint8"):
        RandAugment()(images.float())
