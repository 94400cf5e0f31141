"""FID and its relatives against torch-fidelity's own run, closed forms and an independent formula."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dbl.evaluation.image_metrics import NAMES, ImageFeatures, _fid, image_metrics
from dbl.utils.errors import UserError


def _images(num: int, shift: float = 0.0, seed: int = 0, num_features: int = 6) -> ImageFeatures:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(num_features, num_features, generator=generator)
    features = torch.randn(num, num_features, generator=generator) @ mix + shift
    return ImageFeatures(features, torch.randn(num, 4, generator=generator))


class _Pixels(Dataset[Tensor]):
    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


def _extract(images: Tensor) -> tuple[Tensor, Tensor]:
    """Ten features and five scores of uint8 images, by fixed random projections."""
    generator = torch.Generator().manual_seed(3)
    hidden = (images.flatten(1).float() / 50 - 2) @ torch.randn(48, 10, generator=generator)
    return hidden.sin() + 0.1 * hidden, hidden @ torch.randn(10, 5, generator=generator)


def test_all_numbers_equal_those_of_torch_fidelity_end_to_end() -> None:
    """Catches swapped sides of precision and recall, features for scores, other defaults, or another covariance."""
    fidelity = pytest.importorskip("torch_fidelity")
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase

    class Tiny(FeatureExtractorBase):  # type: ignore[misc]
        def __init__(self, name: str, features_list: list[str], **_: object) -> None:
            super().__init__(name, features_list)

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return "features", "scores"

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "scores" if metric == "isc" else "features"

        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            found = dict(zip(("features", "scores"), _extract(images), strict=True))
            return tuple(found[name] for name in self.features_list)

    fidelity.register_feature_extractor("dbl-tiny", Tiny)
    generator = torch.Generator().manual_seed(0)
    real = torch.randint(0, 256, (400, 3, 4, 4), generator=generator).to(torch.uint8)
    made = torch.randint(60, 190, (300, 3, 4, 4), generator=generator).to(torch.uint8)
    theirs = fidelity.calculate_metrics(
        input1=_Pixels(made),
        input2=_Pixels(real),
        feature_extractor="dbl-tiny",
        **dict.fromkeys(("isc", "fid", "kid", "prc"), True),
        isc_splits=1,
        kid_subset_size=300,
        kid_subsets=14,
        cuda=False,
        cache=False,
        save_cpu_ram=True,
        verbose=False,
    )
    ours = image_metrics(ImageFeatures(*_extract(real)), ImageFeatures(*_extract(made)))
    keys = ("frechet_inception_distance", "kernel_inception_distance_mean", "inception_score_mean")
    for name, key in zip(NAMES, (*keys, "precision", "recall"), strict=True):
        assert ours[name] == pytest.approx(theirs[key], rel=1e-3), name
    assert ours["precision"] > ours["recall"] + 0.1  # the made images vary less


def test_fid_of_two_gaussians_is_the_closed_form() -> None:
    """Catches a distance without the covariances' off-diagonal config or with unsquared means."""
    generator = torch.Generator().manual_seed(0)
    mixes = torch.randn(2, 5, 5, generator=generator, dtype=torch.float64)
    means = torch.tensor([[0.0, 1, 2, 3, 4], [1.0, 1, 0, 3, 5]], dtype=torch.float64)
    sides = [
        ImageFeatures(
            torch.randn(40_000, 5, generator=generator, dtype=torch.float64) @ mix.T + mean, torch.zeros(1, 2)
        )
        for mix, mean in zip(mixes, means, strict=True)
    ]
    first, second = (mix @ mix.T for mix in mixes)
    values, vectors = torch.linalg.eigh(first)
    root = vectors @ values.clamp(min=0).sqrt().diag() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ second @ root).clamp(min=0).sqrt().sum()
    expected = (means[0] - means[1]).square().sum() + first.trace() + second.trace() - 2 * cross
    # Not by `image_metrics`: precision and recall of 40,000 images would take a minute.
    assert _fid(*sides) == pytest.approx(float(expected), rel=0.01)


def test_fid_agrees_with_torchmetrics() -> None:
    """Catches a covariance divided by N, and a mean or covariance of the wrong axis."""
    from torchmetrics.image.fid import _compute_fid

    real, made = _images(50), _images(70, shift=0.5, seed=1)
    moments = [(side.features.double().mean(0), side.features.double().T.cov()) for side in (real, made)]
    expected = _compute_fid(*moments[0], *moments[1])
    assert image_metrics(real, made)["fid"] == pytest.approx(float(expected), rel=1e-9)


def test_kid_has_no_bias_and_fid_has() -> None:
    """Catches the biased estimate, whose mean over equal distributions is above 0."""
    generator = torch.Generator().manual_seed(0)
    pairs = [
        tuple(ImageFeatures(torch.randn(60, 6, generator=generator), torch.zeros(60, 2)) for _ in range(2))
        for _ in range(30)
    ]
    found = [image_metrics(*pair) for pair in pairs]
    kids = np.array([values["kid"] for values in found])
    assert abs(kids.mean()) < 3 * kids.std() / 30**0.5
    assert min(values["fid"] for values in found) > 0.1


def test_a_set_is_at_no_distance_from_itself() -> None:
    """Catches sides that are prepared differently."""
    values = image_metrics(_images(40), _images(40))
    assert values["fid"] == pytest.approx(0, abs=1e-9)
    assert (values["precision"], values["recall"]) == (1, 1)


def test_inception_score_reaches_the_number_of_classes_and_uses_splits_of_1000() -> None:
    """Catches scores of the real images, a softmax over the wrong axis, and ten splits of a few images each."""
    from torch_fidelity.metric_isc import isc_features_to_metric

    sure = ImageFeatures(torch.randn(40, 3), 100 * torch.eye(4).repeat(10, 1))
    assert image_metrics(_images(40, num_features=3), sure)["inception_score"] == pytest.approx(4)
    many = _images(2_500, num_features=3)
    expected = isc_features_to_metric(many.logits, splits=2)["inception_score_mean"]
    assert image_metrics(_images(9, num_features=3), many)["inception_score"] == pytest.approx(expected, rel=1e-6)


def test_numbers_are_repeatable_and_leave_global_generators_alone() -> None:
    """Catches subsets drawn from a global generator."""
    real, made = _images(50), _images(80, seed=1)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    first = image_metrics(real, made)
    assert np.array_equal(np.random.get_state()[1], before[0])
    assert torch.equal(torch.get_rng_state(), before[1])
    np.random.seed(7)
    assert image_metrics(real, made) == first


def test_the_suffix_keeps_numbers_of_other_features_apart() -> None:
    """Catches in-domain numbers under the names of the literature."""
    real = _images(20)
    assert set(image_metrics(real, real)) == {"fid", "kid", "inception_score", "precision", "recall"}
    assert set(image_metrics(real, real, "digits")) == {f"{name}_digits" for name in NAMES}


def _bad(value: float) -> ImageFeatures:
    images = _images(20)
    images.features[3, 2] = value
    return images


@pytest.mark.parametrize(
    ("real", "generated", "message"),
    [
        (_images(6), _images(20), r"6 real images are too few for 6 features; at least 7"),
        (_images(20), _images(6), r"6 generated images are too few for 6 features; at least 7"),
        (_images(20), _images(20, num_features=5), r"5 features .* cannot be compared with 6 features"),
        (_images(20), _bad(float("nan")), r"generated images are not finite"),
        (_bad(float("inf")), _images(20), r"real images are not finite"),
    ],
)
def test_bad_features_are_refused(real: ImageFeatures, generated: ImageFeatures, message: str) -> None:
    """Catches a number that means nothing: singular covariances, or a diverged network with a FID."""
    with pytest.raises(UserError, match=message):
        image_metrics(real, generated)


def test_one_image_more_than_features_is_enough() -> None:
    """Catches a limit that is off by one."""
    assert image_metrics(_images(7), _images(7, seed=1))["fid"] > 0
