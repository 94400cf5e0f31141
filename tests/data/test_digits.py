"""The digits that come with scikit-learn."""

import torch
from sklearn.datasets import load_digits

from dbl.data import Digits


def whole(data: Digits, split: str) -> torch.Tensor:
    images = data.split(split)
    return images.images[torch.arange(len(images))]


def test_splits_hold_every_scan_once():
    """Catches overlapping splits, lost scans and wrong scaling of the raw values."""
    data = Digits(batch_size=8, eval_batch_size=8)
    ours = torch.cat([whole(data, split) for split in ("train", "validation", "test")])
    raw = torch.from_numpy(load_digits().data)
    expected = (raw * 255 / 16).round().long()
    assert (ours.shape, ours.dtype) == ((1797, 1, 8, 8), torch.uint8)
    assert sorted(ours.flatten(1).tolist()) == sorted(expected.tolist())
    assert ours.min() == 0
    assert ours.max() == 255


def test_labels_belong_to_their_scans():
    """Catches images and labels that are selected with different indices."""
    raw = load_digits()
    classes = {tuple(row): int(c) for row, c in zip((raw.data * 255 / 16).round().tolist(), raw.target, strict=True)}
    data = Digits(batch_size=8, eval_batch_size=8)
    for split in ("train", "validation", "test"):
        labels = [classes[tuple(image)] for image in whole(data, split).flatten(1).tolist()]
        assert data.split(split).labels.tolist() == labels


def test_test_split_is_fixed_and_stratified():
    """Catches a test split that moves with a seed, so that runs are not comparable."""
    first = Digits(batch_size=8, eval_batch_size=8)
    other = Digits(batch_size=8, eval_batch_size=8, split_seed=5, seed=5, validation_share=0.3)
    assert torch.equal(whole(first, "test"), whole(other, "test"))
    counts = torch.tensor(load_digits().target).bincount()
    assert torch.equal(first.split("test").labels.bincount(), counts // 5)
    assert first.spec.num_classes == 10
