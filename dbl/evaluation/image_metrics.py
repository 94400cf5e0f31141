"""How far generated images are from real ones: distances between two sets of image features.

The numbers are those of torch-fidelity, computed in float64. torchmetrics gives the same FID, but other draws for KID
and the inception score, and has no precision and recall. Axes: N images, D features, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor

from dbl.data.splits import evenly_spaced
from dbl.utils.errors import UserError

NAMES = ("fid", "kid", "inception_score", "precision", "recall")

_IMAGES_PER_SPLIT, _MAX_SPLITS = 1_000, 10  # inception score
_MAX_SUBSET, _MAX_SUBSETS = 1_000, 100  # KID
_USES = 10  # how often the subsets of KID use each image
_NEIGHBOURS = 3  # precision and recall
_MAX_NEIGHBOURHOODS = 10_000  # images of each side in precision and recall, whose cost grows with their square


@dataclass(frozen=True, eq=False)
class ImageFeatures:
    """What a feature extractor computes for N images.

    Args:
        features: features [N, D].
        logits: unnormalised log probabilities [N, C] of classes.
    """

    features: Tensor
    logits: Tensor

    def __len__(self) -> int:
        return len(self.features)

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """All images of the parts, in order."""
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)))


def check_torch_fidelity() -> None:
    """Raise UserError unless torch-fidelity, and the torchvision that it needs, can be imported."""
    try:
        import torch_fidelity  # noqa: F401
    except (ImportError, RuntimeError) as error:
        raise UserError(
            f"image_quality.features: torch-fidelity cannot be imported ({error}); install it with its torchvision, "
            "or set image_quality.features to none"
        ) from None


def image_metrics(real: ImageFeatures, generated: ImageFeatures, suffix: str = "") -> dict[str, float]:
    """Compare generated images with real ones; equal arguments give equal numbers, bit for bit.

    - `fid`: Frechet distance (arXiv 1706.08500) of the two Gaussians with the measured means and covariances; 0 is
      best. It has a bias that falls with N, so compare it at equal numbers of images only.
    - `kid`: squared maximum mean discrepancy of a cubic kernel (arXiv 1801.01401), without bias, so it can be below 0;
      the mean over subsets of at most 1,000 images, as many as use each image about ten times (at most 100).
    - `inception_score` (arXiv 1606.03498): of the generated images alone, from 1 to C, higher is better; the mean over
      as many splits of at least 1,000 images as there are, from 1 to the usual 10.
    - `precision`, `recall` (arXiv 1904.06991): share of generated images that lie among the real ones, and share of
      real images that lie among the generated ones; three neighbours.

    Raises UserError if the features differ in width, are not finite or come from too few images.

    Args:
        real: features of the reference images.
        generated: features of the images to judge.
        suffix: ending of the names, e.g. `digits` for `fid_digits`. "" stands for the Inception network alone: numbers
            of other features must not be mistaken for those of the literature.
    """
    _check(real, generated)
    real, generated = (
        ImageFeatures(images.features.detach().cpu().double(), images.logits.detach().cpu().double())
        for images in (real, generated)
    )
    distances = (_fid(real, generated), _kid(real, generated))
    values = (*distances, _inception_score(generated), *_precision_and_recall(real, generated))
    return {f"{name}_{suffix}" if suffix else name: value for name, value in zip(NAMES, values, strict=True)}


def least_images(feature_size: int) -> int:
    """Smallest number of images for which the covariance of `feature_size` features need not be singular: D + 1.

    Precision and recall need one image more than neighbours, which matters for very few features only.
    """
    return max(feature_size, _NEIGHBOURS) + 1


def _check(real: ImageFeatures, generated: ImageFeatures) -> None:
    size = real.features.shape[1]
    if generated.features.shape[1] != size:
        raise UserError(
            f"image metrics: {generated.features.shape[1]} features of the generated images cannot be compared with "
            f"{size} features of the real ones; extract both with the same network"
        )
    for name, images in (("real", real), ("generated", generated)):
        if len(images) < least_images(size):
            raise UserError(
                f"image metrics: {len(images)} {name} images are too few for {size} features; "
                f"at least {least_images(size)} are needed"
            )
        if not (images.features.isfinite().all() and images.logits.isfinite().all()):
            raise UserError(f"image metrics: features of the {name} images are not finite; check the images")


def _fid(real: ImageFeatures, generated: ImageFeatures) -> float:
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

    statistics = [fid_features_to_statistics(images.features) for images in (generated, real)]
    return float(fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID])


def _kid(real: ImageFeatures, generated: ImageFeatures) -> float:
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

    smaller, larger = sorted((len(real), len(generated)))
    size = min(smaller, _MAX_SUBSET)
    # Where both sets are one subset, another draw would only permute it.
    num_subsets = 1 if larger == size else min(_MAX_SUBSETS, -(-_USES * larger // size))
    options = {"kid_subsets": num_subsets, "kid_subset_size": size, "verbose": False}
    return float(kid_features_to_metric(generated.features, real.features, **options)[KEY_METRIC_KID_MEAN])


def _inception_score(generated: ImageFeatures) -> float:
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric

    splits = min(max(len(generated) // _IMAGES_PER_SPLIT, 1), _MAX_SPLITS)
    return float(isc_features_to_metric(generated.logits, splits)[KEY_METRIC_ISC_MEAN])


def _precision_and_recall(real: ImageFeatures, generated: ImageFeatures) -> tuple[float, float]:
    from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

    some_real, some_generated = (
        images.features[evenly_spaced(len(images), _MAX_NEIGHBOURHOODS)] for images in (real, generated)
    )
    # In parts of 1,000 rows: all distances at once would take gigabytes.
    options = {"prc_neighborhood": _NEIGHBOURS, "prc_batch_size": 1_000, "save_cpu_ram": True, "verbose": False}
    found = prc_features_to_metric(some_generated, some_real, **options)
    return float(found[KEY_METRIC_PRECISION]), float(found[KEY_METRIC_RECALL])
