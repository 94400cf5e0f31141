"""Images of a local folder with a subfolder for each class."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from own_data import write_images
from PIL import Image

from dbl.data import ImageFolder
from dbl.utils.errors import UserError


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ImageFolder]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DBL_DATA", raising=False)
    defaults = {"folder": "photos", "image_size": 12, "batch_size": 2, "eval_batch_size": 4}
    return lambda **settings: ImageFolder(**(defaults | settings))


def test_one_folder_is_split_and_keeps_each_image_with_its_class(make: Any, tmp_path: Path) -> None:
    """Catches images of another class, an image that is in two splits, and one that is in none."""
    write_images(tmp_path / "photos", ("cats", "dogs"), number=20)
    for index, path in enumerate(sorted((tmp_path / "photos").rglob("*.png"))):
        Image.new("RGB", (12, 12), (index, 0, 255 if "dogs" in str(path) else 0)).save(path)
    (tmp_path / "photos/cats/notes.txt").write_text("no image")
    (tmp_path / "photos/cats/._000.png").write_text("a shadow that macOS leaves")
    (tmp_path / "photos/.thumbnails").mkdir()
    data = make(test_share=0.2, validation_share=0.25)
    assert data.name == "photos"
    assert data.classes == ["cats", "dogs"]
    assert data.declared_spec.num_classes == data.spec.num_classes == 2
    sizes = [len(data.split(name)) for name in ("train", "validation", "test")]
    assert sizes == [24, 8, 8]
    found = set()
    for name in ("train", "validation", "test"):
        images = data.split(name)
        pixels = images.images[torch.arange(len(images))]
        plain = (pixels[:, 1] == 0).flatten(1).all(dim=1)
        assert torch.equal(pixels[plain, 2, 0, 0] == 255, images.labels[plain] == 1)
        found |= set(pixels[plain, 0, 0, 0].tolist())
    assert found == set(range(20))


def test_the_test_split_does_not_follow_the_seed_of_the_validation(make: Any, tmp_path: Path) -> None:
    """Catches runs of several seeds that are tested on each other's training images."""
    write_images(tmp_path / "photos")
    one, other = make(), make(split_seed=5)
    assert torch.equal(one.split("test").images[torch.arange(8)], other.split("test").images[torch.arange(8)])


@pytest.mark.parametrize("validation", ["val", "validation", None])
def test_folders_of_splits_are_used(make: Any, tmp_path: Path, validation: str | None) -> None:
    """Catches a test that is cut from the training images although it has a folder, and a name that is not known."""
    write_images(tmp_path / "photos/train", number=10)
    write_images(tmp_path / "photos/test", number=3)
    if validation:
        write_images(tmp_path / "photos" / validation, number=2)
    data = make(validation_share=0.2)
    sizes = [len(data.split(name)) for name in ("train", "validation", "test")]
    assert sizes == ([20, 4, 6] if validation else [16, 4, 6])


def test_a_class_may_be_called_train(make: Any, tmp_path: Path) -> None:
    """Catches a class that is taken for a split."""
    write_images(tmp_path / "photos", ("plane", "train"))
    assert make().classes == ["plane", "train"]


def test_images_that_change_are_read_again(make: Any, tmp_path: Path) -> None:
    """Catches decoded images that are kept although the files were replaced or renamed to another class."""
    write_images(tmp_path / "photos", number=10)
    before = make().spec.identity
    Image.new("RGB", (12, 12)).save(tmp_path / "photos/cats/000.png")
    changed = make().spec.identity
    (tmp_path / "photos/cats/001.jpg").rename(tmp_path / "photos/dogs/100.jpg")
    assert len({before, changed, make().spec.identity}) == 3


def _without_images(photos: Path) -> None:
    (photos / "cats").mkdir(parents=True)


def _flat(photos: Path) -> None:
    photos.mkdir()
    Image.new("RGB", (8, 8)).save(photos / "a.png")


def _flat_splits(photos: Path) -> None:
    write_images(photos, ("train", "test"), number=2)


def _unlike(photos: Path) -> None:
    write_images(photos / "train", ("cats", "dogs"), number=4)
    write_images(photos / "test", ("cats", "birds"), number=4)


def _missing(photos: Path) -> None:
    write_images(photos / "train", ("cats", "dogs"), number=4)
    write_images(photos / "test", ("cats",), number=4)


def _damaged(photos: Path) -> None:
    write_images(photos, number=20)
    (photos / "dogs/007.jpg").write_bytes(b"not an image")


def _few(photos: Path) -> None:
    write_images(photos, number=5)


def _twice(photos: Path) -> None:
    for name in ("train", "val", "valid"):
        write_images(photos / name, number=4)


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda photos: None, r"folder: there is no folder photos$"),
        (_without_images, r"folder: photos/cats has no images \(\.png"),
        (_flat, r"folder: photos has no subfolders; each class needs one"),
        (_flat_splits, r"folder: photos/train has no subfolders"),
        (_unlike, r"folder: photos/test has a class 'birds', but photos/train has not$"),
        (_missing, r"folder: photos/train has a class 'dogs', but photos/test has not$"),
        (_damaged, r"folder: there is no readable image in photos/dogs/007\.jpg \(it is damaged"),
        (_few, r"test_share \(0\.1\) leaves nothing to test: the largest class has 5$"),
        (_twice, r"folder: photos/val and photos/valid are both for split validation$"),
    ],
)
def test_a_folder_that_cannot_be_meant_is_refused(make: Any, tmp_path: Path, prepare: Any, message: str) -> None:
    """Catches a traceback, an error that does not name the file or folder, and data that is silently left out."""
    prepare(tmp_path / "photos")
    data = make()
    with pytest.raises(UserError, match=message) as caught:
        data.split("test"), data.split("validation"), data.spec
    assert str(caught.value).startswith("data.init_args.")
    assert len(str(caught.value)) <= 200
    assert "\n" not in str(caught.value)


def test_unlike_classes_are_found_before_any_training(make: Any, tmp_path: Path) -> None:
    """Catches a test that turns out to be impossible once all blocks are trained."""
    _unlike(tmp_path / "photos")
    with pytest.raises(UserError, match="birds"):
        make().split("train")
