"""Where image features come from: training, caching, weights from files, refusals."""

import io
import os
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from dbl.data import ImageData
from dbl.evaluation.features import InceptionFeatures, InDomainFeatures, Reference, in_domain
from dbl.evaluation.features.in_domain import check_classifier, classifier_path
from dbl.utils.errors import UserError

pytest.importorskip("torch_fidelity")


def _all_images(data: ImageData, split: str = "test") -> Tensor:
    images = data.split(split)  # type: ignore[arg-type]
    return images.images[torch.arange(len(images))]


def test_the_classifier_learns_and_tells_its_accuracy(data: ImageData, cache: str) -> None:
    """Catches labels that are mixed up with images, training statistics used in tests, and accuracy on other images."""
    extractor = InDomainFeatures(data, cache)
    found = extractor(_all_images(data))
    right = (found.logits.argmax(dim=1) == data.split("test").labels).double().mean()
    assert extractor.accuracy == float(right) > 0.95
    assert found.features.shape == (80, 64)
    torch.testing.assert_close(extractor(_all_images(data)[:7]).features, found.features[:7])


def test_the_classifier_is_a_function_of_the_data_alone(data: ImageData, tmp_path: Path) -> None:
    """Catches draws from the global generator, and one that is left disturbed."""
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = InDomainFeatures(data, str(tmp_path / "a")).identity
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert InDomainFeatures(data, str(tmp_path / "b")).identity == first


def test_the_classifier_can_be_trained_in_a_test(many_stripes: type, tmp_path: Path) -> None:
    """Catches weights or images that are made under Lightning's inference mode, which has no gradients."""
    with torch.inference_mode():
        extractor = InDomainFeatures(many_stripes(), str(tmp_path))
    assert extractor.accuracy is not None
    assert extractor.accuracy > 0.95


def test_a_second_run_reads_the_file(data: ImageData, cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a cache that is written but never read, or that loses weights or accuracy."""
    first = InDomainFeatures(data, cache)
    expected = first(_all_images(data))

    def refuse(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(in_domain, "_train", refuse)
    second = InDomainFeatures(data, cache)
    assert torch.equal(second(_all_images(data)).features, expected.features)
    assert (second.accuracy, second.identity) == (first.accuracy, first.identity)


def test_other_data_or_another_recipe_is_trained_anew(
    many_stripes: type, data: ImageData, cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a cache that is found by the data set's name alone, or outlives a change of the recipe."""
    first = InDomainFeatures(data, cache)
    assert InDomainFeatures(many_stripes(num_train=140), cache).identity != first.identity
    monkeypatch.setattr(in_domain, "RECIPE", in_domain.ClassifierRecipe(steps=3))
    assert InDomainFeatures(data, cache).identity != first.identity


@pytest.mark.parametrize("channels", [2, 4])
def test_latents_of_any_number_of_channels_have_features(many_stripes: type, channels: int, tmp_path: Path) -> None:
    """Catches a network that takes 1 or 3 channels, or values from 0 to 255, for granted."""
    data = many_stripes(channels=channels, latents=True)
    extractor = InDomainFeatures(data, str(tmp_path))
    assert extractor.accuracy is not None
    assert extractor.accuracy > 0.95
    assert extractor.title == "in_domain (manystripes)"


@pytest.mark.parametrize("size", [(4, 4), (7, 33), (64, 48)])
def test_the_classifier_takes_images_of_any_size(size: tuple[int, int], data: ImageData) -> None:
    """Catches maps that shrink to nothing, and features that depend on the size."""
    from dataclasses import replace

    network = in_domain._Classifier(replace(data.spec, shape=(1, *size)), in_domain.RECIPE)
    features, logits = network(torch.zeros(2, 1, *size, dtype=torch.uint8))
    assert (features.shape, logits.shape) == ((2, 64), (2, 3))


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _replace(path: Path) -> None:
    save_file({"other": torch.zeros(2)}, path)


@pytest.mark.parametrize("damage", [_truncate, _replace])
def test_a_damaged_cache_is_refused(damage: object, data: ImageData, tmp_path: Path) -> None:
    """Catches half a file that is used, and an error that does not say what to do."""
    extractor = InDomainFeatures(data, str(tmp_path))
    Reference().features(extractor, data, str(tmp_path))
    for path in tmp_path.rglob("*.safetensors"):
        damage(path)  # type: ignore[operator]
    with pytest.raises(UserError, match=r"train-\d+-.*safetensors is damaged: delete it"):
        Reference().features(extractor, data, str(tmp_path))
    with pytest.raises(UserError, match=r"classifier-.*safetensors is damaged: delete it"):
        InDomainFeatures(data, str(tmp_path))
    with pytest.raises(UserError, match=r"classifier-.*safetensors is damaged: delete it"):
        check_classifier(data.spec, str(tmp_path))


def test_weights_of_other_shapes_are_a_damaged_cache(data: ImageData, tmp_path: Path) -> None:
    """Catches hundreds of lines of torch about shapes."""
    InDomainFeatures(data, str(tmp_path))
    path = classifier_path(data.spec, str(tmp_path))
    names = in_domain._names(in_domain._Classifier(data.spec, in_domain.RECIPE))
    save_file({name: torch.zeros(1) for name in names}, path)
    with pytest.raises(UserError, match="damaged: delete it"):
        InDomainFeatures(data, str(tmp_path))


def test_a_cache_that_cannot_be_written_is_refused_before_training(
    data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a crash after the work was done."""
    (tmp_path / "file").touch()
    monkeypatch.setattr(in_domain, "_train", None)
    with pytest.raises(UserError, match=r"image_quality.cache_dir: cannot write"):
        InDomainFeatures(data, str(tmp_path / "file" / "cache"))


def test_the_reference_is_spread_over_the_split_and_kept(
    data: ImageData, cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches the first images of a sorted split, a cache of another number or split, and one that is never read."""
    extractor = InDomainFeatures(data, cache)
    every = extractor(_all_images(data, "train")).features
    num = len(every)
    for count in (None, 70):
        expected = every if count is None else every[torch.arange(70) * num // 70]
        found = Reference("train", count).features(extractor, data, cache, batch_size=33)
        torch.testing.assert_close(found.features, expected)
    test = Reference("test").features(extractor, data, cache).features
    torch.testing.assert_close(test, extractor(_all_images(data)).features)
    monkeypatch.setattr(InDomainFeatures, "__call__", None)
    assert torch.equal(Reference("train", 70).features(extractor, data, cache).features, found.features)


def test_other_test_images_are_extracted_anew(many_stripes: type, data: ImageData, cache: str) -> None:
    """Catches a key of the training split alone: the identity of the data says nothing about its test split."""
    other = many_stripes()
    other.split("test").images.add_(1)
    extractor = InDomainFeatures(data, cache)
    before = Reference("test").features(extractor, data, cache).features
    assert other.spec.identity == data.spec.identity
    assert not torch.equal(Reference("test").features(extractor, other, cache).features, before)


def test_more_reference_images_than_there_are_is_refused(data: ImageData, cache: str) -> None:
    """Catches images that are used twice."""
    extractor = InDomainFeatures(data, cache)
    with pytest.raises(UserError, match=r"image_quality.num_reference \(81\) must be at most 80: the test split"):
        Reference("test", 81).features(extractor, data, cache)


@pytest.fixture(scope="module")
def inception_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of torch-fidelity's network with random weights."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Blank(FeatureExtractorInceptionV3):  # type: ignore[misc]
        def load_state_dict(self, *_: object) -> None:
            """Keep the initial weights."""

    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    torch.manual_seed(0)
    network = Blank("inception-v3-compat", ["2048"], feature_extractor_weights_path=nothing)
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(network.state_dict(), path)
    return path


def test_inception_features_are_those_of_torch_fidelity(inception_weights: Path) -> None:
    """Catches other layers, grey images that are not repeated, and constructors that disturb the global generator."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    before = torch.get_rng_state()
    extractor = InceptionFeatures(str(inception_weights))
    assert torch.equal(torch.get_rng_state(), before)
    grey = torch.randint(0, 256, (2, 1, 5, 7), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    layers = ["2048", "logits_unbiased"]
    theirs = FeatureExtractorInceptionV3(
        "inception-v3-compat", layers, feature_extractor_weights_path=str(inception_weights)
    )
    expected = theirs(grey.repeat(1, 3, 1, 1))
    found = extractor(grey)
    torch.testing.assert_close(found.features, expected[0])
    torch.testing.assert_close(found.logits, expected[1])
    assert (extractor.feature_size, extractor.suffix, extractor.accuracy) == (2048, "", None)
    for images in (torch.zeros(2, 4, 5, 7), torch.zeros(2, 3, 5, 7), torch.zeros(2, 2, 5, 7, dtype=torch.uint8)):
        with pytest.raises(UserError, match=r"image_quality.features: inception .* use in_domain"):
            extractor(images)


class _Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_a_file_that_is_not_the_weights_is_refused_without_running_it(tmp_path: Path) -> None:
    """Catches torch-fidelity's own load, which would run the code in the file, and errors of hundreds of lines."""
    for name, content in {"trap": {"fc.weight": _Trap(tmp_path / "trapped")}, "list": [1, 2]}.items():
        torch.save(content, tmp_path / f"{name}.pth")
    torch.save({"fc.weight": torch.zeros(3, 3)}, tmp_path / "other.pth")
    (tmp_path / "text.pth").write_text("no weights")
    reasons = {
        "trap": "damaged or not a file of weights",
        "text": "damaged or not a file of weights",
        "list": "does not hold the weights",
        "other": "does not hold the weights",
        "absent": "does not exist",
    }
    for name, reason in reasons.items():
        with pytest.raises(UserError, match=rf"image_quality.weights_path: .*{name}.pth.* {reason}|{reason}") as caught:
            InceptionFeatures(str(tmp_path / f"{name}.pth"))
        assert "\n" not in str(caught.value)
        assert f"{name}.pth" in str(caught.value)
    assert not (tmp_path / "trapped").exists()


def test_no_network_and_no_file_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a traceback of urllib, and a line that does not say which file goes where."""

    def offline(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(UserError, match=r"image_quality.weights_path: .*no route to host") as caught:
        InceptionFeatures()
    file = tmp_path / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_in_the_hub_folder_are_found(
    inception_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a file that was put where the error says and is not looked for there."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", None)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth").symlink_to(inception_weights)
    assert InceptionFeatures().identity == InceptionFeatures(str(inception_weights)).identity
