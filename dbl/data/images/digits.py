"""Handwritten digits that come with scikit-learn: a real data set without a download."""

import torch
from typing_extensions import override

from dbl.data.images.image_set import ImageSet
from dbl.data.images.module import ImageData, Split
from dbl.data.splits import cut_test

_TEST_SHARE = 0.2


class Digits(ImageData):
    """1,797 scans of 8x8 pixels in 10 classes (UCI, "Optical Recognition of Handwritten Digits").

    Raw values 0 to 16 are spread over 0 to 255. A fixed fifth of each class is the test split.

    Example:
        >>> import dbl
        >>> data = dbl.Digits(batch_size=64, eval_batch_size=256)
        >>> data.spec.shape, data.spec.num_classes
        ((1, 8, 8), 10)
        >>> len(data.split("train")), len(data.split("validation")), len(data.split("test"))
        (1302, 140, 355)
    """

    @override
    def load(self, split: Split) -> ImageSet | None:
        if split == "validation":
            return None
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = torch.from_numpy(digits.images * 255 / 16).round().to(torch.uint8).unsqueeze(1)  # [N,1,8,8]
        labels = torch.from_numpy(digits.target).long()
        train, test = cut_test(labels, _TEST_SHARE)
        return ImageSet(images, labels).select(train if split == "train" else test)
