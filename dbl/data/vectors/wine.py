"""Chemical analyses of wines that come with scikit-learn: real vectors without a download."""

import torch
from typing_extensions import override

from dbl.data.module import Split
from dbl.data.splits import cut_test
from dbl.data.vectors.module import VectorData
from dbl.data.vectors.vector_set import VectorSet

_TEST_SHARE = 0.3


class Wine(VectorData):
    """13 measurements of 178 wines of 3 growers (UCI, "Wine"). A fixed 30 % of each class are the test split.

    Example:
        >>> import dbl
        >>> data = dbl.Wine(batch_size=32, eval_batch_size=64)
        >>> data.spec.num_features, data.spec.num_classes
        (13, 3)
        >>> len(data.split("train")), len(data.split("validation")), len(data.split("test"))
        (114, 12, 52)
    """

    @override
    def load(self, split: Split) -> VectorSet | None:
        if split == "validation":
            return None
        from sklearn.datasets import load_wine

        wine = load_wine()
        labels = torch.from_numpy(wine.target).long()
        train, test = cut_test(labels, _TEST_SHARE)
        return VectorSet(torch.from_numpy(wine.data).float(), labels).select(train if split == "train" else test)
