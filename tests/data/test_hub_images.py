"""Image sets from parquet files and from the hub."""

import io
import os
import pickle
import re
import struct
import zlib

import datasets
import huggingface_hub.constants
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from dbl.data import HubImages
from dbl.data.images.decode import ImageDecoder
from dbl.data.sources import records
from dbl.utils.errors import UserError

REAL_DATA = os.environ.get("DBL_DATA")


@pytest.fixture(autouse=True)
def no_local_copies(monkeypatch):
    monkeypatch.delenv("DBL_DATA", raising=False)


@pytest.fixture
def grey():
    """[20,6,6] and their classes."""
    return np.random.default_rng(0).integers(0, 256, (20, 6, 6), dtype=np.uint8), [i % 4 for i in range(20)]


def encode(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write(path, images, labels, image_column="image", label_column="label") -> None:
    """Write arrays (as PNG), or cells as they are, in the hub's layout."""
    cells = [{"bytes": encode(i), "path": None} if isinstance(i, np.ndarray) else i for i in images]
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table({image_column: cells, label_column: labels}), path)


def write_both(folder, *args) -> None:
    """The same rows as training and test split."""
    for split in ("train", "test"):
        write(folder / f"{split}.parquet", *args)


@pytest.fixture
def folder(tmp_path, grey):
    """A folder with train.parquet and test.parquet; the test images are the training images backwards."""
    images, labels = grey
    write(tmp_path / "copies" / "toy" / "train.parquet", images, labels)
    write(tmp_path / "copies" / "toy" / "test.parquet", images[::-1], labels[::-1])
    return tmp_path / "copies" / "toy"


@pytest.fixture
def make(tmp_path):
    def make(**settings) -> HubImages:
        defaults = {"path": "someone/toy", "image_size": 6, "channels": 1, "num_classes": 4, "batch_size": 2}
        defaults |= {"eval_batch_size": 4, "cache_dir": str(tmp_path / "cache"), "validation_share": 0.25}
        return HubImages(**(defaults | settings))

    return make


def pixels(images) -> torch.Tensor:
    return images.images[torch.arange(len(images))]


def test_pixels_and_labels_are_those_of_the_files(make, folder, grey, monkeypatch):
    """Catches reordered rows, images without their labels, and a lost or repeated chunk."""
    monkeypatch.setattr(records, "CHUNK_ROWS", 7)
    data = make(data_dir=str(folder))
    train, test = data.load("train"), data.load("test")
    assert torch.equal(pixels(train), torch.from_numpy(grey[0]).unsqueeze(1))
    assert train.labels.tolist() == grey[1]
    assert torch.equal(pixels(test), pixels(train).flip(0))
    assert len(data.split("validation")) == 4
    assert (data.spec.name, data.spec.num_classes, data.spec.shape) == ("toy", 4, (1, 6, 6))


def test_shards_are_read_in_order(make, tmp_path, grey):
    """Catches shards in the order of the file system."""
    images, labels = grey
    for shard in (1, 0):
        half = slice(10 * shard, 10 * shard + 10)
        write(tmp_path / f"train-0000{shard}-of-00002.parquet", images[half], labels[half])
    write(tmp_path / "test.parquet", images, labels)
    assert torch.equal(pixels(make(data_dir=str(tmp_path)).load("train")).squeeze(1), torch.from_numpy(images))
    by_glob = make(data_dir=str(tmp_path), data_files={"train": "*-of-*.parquet", "test": "test.parquet"})
    assert by_glob.load("train").labels.tolist() == labels
    absolute = make(data_files={"train": str(tmp_path / "train-00001*"), "test": str(tmp_path / "test.parquet")})
    assert absolute.load("train").labels.tolist() == labels[10:]


def test_a_column_that_one_shard_lacks(make, tmp_path, grey):
    """Catches a shard of other columns that fails with a traceback after the others were decoded."""
    images, labels = grey
    write(tmp_path / "train-0.parquet", images, labels)
    write(tmp_path / "train-1.parquet", images, labels, label_column="y")
    write(tmp_path / "test.parquet", images, labels)
    with pytest.raises(
        UserError, match=r"label_column: .*train-0\.parquet and 1 more has no column 'label'; it has image$"
    ):
        make(data_dir=str(tmp_path)).load("train")


def test_other_names_of_columns_and_splits(make, tmp_path, grey):
    """Catches names that are taken for granted."""
    images, labels = grey
    for split in ("train", "dev", "valid"):
        write(tmp_path / f"{split}.parquet", images, labels, "img", "fine_label")
    names = {"image_column": "img", "label_column": "fine_label", "validation_split": "dev", "test_split": "valid"}
    data = make(data_dir=str(tmp_path), **names)
    assert [len(data.split(split)) for split in ("train", "validation", "test")] == [20, 20, 20]


def test_local_copies_are_used_if_they_are_complete(make, folder, grey, monkeypatch):
    """Catches a run whose splits come from two sources, and copies that are ignored."""

    def unreachable(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    monkeypatch.setenv("DBL_DATA", str(folder.parent))
    assert make().load("train").labels.tolist() == grey[1]
    (folder / "test.parquet").unlink()
    with pytest.raises(UserError, match="cannot reach the hub"):
        make().load("train")


def test_hub_split_is_read(make, grey, monkeypatch):
    """Catches a wrong split or variant, and cells of the hub's image type that are read differently from files."""
    images, labels = grey
    asked = []

    def load_dataset(path, config_name, split):
        asked.append((path, config_name, split))
        features = datasets.Features(
            {"image": datasets.Image(), "label": datasets.ClassLabel(4), "other": datasets.Value("string")}
        )
        cells = [Image.fromarray(image) for image in images]
        return datasets.Dataset.from_dict({"image": cells, "label": labels, "other": ["x"] * 20}, features)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    train = make(config_name="small", train_split="training").load("train")
    assert asked == [("someone/toy", "small", "training")]
    assert torch.equal(pixels(train).squeeze(1), torch.from_numpy(images))
    assert train.labels.tolist() == labels


def test_hub_that_cannot_be_reached(make, monkeypatch):
    """Catches a traceback of the hub's client, and a message without the way out."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    expected = (
        "cannot reach the hub for someone/toy .*set DBL_DATA to a folder with toy/train.parquet and toy/test.parquet"
    )
    with pytest.raises(UserError, match=expected):
        make().load("train")


def test_hub_without_the_split(make, monkeypatch):
    """Catches a missing split that is reported as a missing network."""

    def load_dataset(*_, **__):
        raise ValueError("Unknown split \"train\". Should be one of ['a', 'b'].\nmore")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(UserError, match=r"the hub has no split 'train' of someone/toy .*\['a', 'b'\]\.\)$"):
        make().load("train")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"image_column": "img"},
            r"data\.init_args\.image_column: .*train\.parquet has no column 'img'; it has image, label$",
        ),
        ({"label_column": "y"}, r"data\.init_args\.label_column: .*no column 'y'; it has image, label$"),
        ({"image_column": "label"}, r"data\.init_args\.image_column: .*no readable image in row 0 of .*train\.parquet"),
        ({"label_column": "image"}, r"column 'image' of .*train\.parquet holds struct"),
        ({"num_classes": 5}, r"data\.init_args\.num_classes is 5, but the labels of .* go up to 3"),
        ({"num_classes": 3}, r"data\.init_args\.num_classes is 3"),
        ({"train_split": "all"}, r"data\.init_args\.data_dir: there is no file .*all\.parquet"),
        ({"data_files": {"train": "a*.parquet"}}, r"data\.init_args\.data_files: there is no file .*a\*\.parquet"),
        ({"data_files": {"test": "test.parquet"}}, r"data_files has no entry for split 'train', only test"),
        (
            {"data_files": {"train": "*.parquet", "test": "te*"}},
            r"test\.parquet belongs to split 'train' and to 'test'",
        ),
        ({"channels": 2}, r"data\.init_args\.channels \(2\)"),
        ({"image_size": 0}, r"data\.init_args\.image_size \(0\)"),
        ({"test_split": "train"}, "names of the splits must differ, got train, train"),
    ],
)
def test_settings_that_do_not_fit_are_refused(make, folder, settings, message):
    """Catches a traceback of a library, and messages that do not name the setting."""
    with pytest.raises(UserError, match=message) as caught:
        make(data_dir=str(folder), **settings).load("train")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        ([np.zeros((6, 6), np.uint8)] * 2, ["cat", "dog"], "holds string, not the numbers of classes"),
        ([np.zeros((6, 6), np.uint8)] * 2, [0, None], "holds 1 empty cells"),
        ([np.zeros((6, 6), np.uint8)] * 2, [-1, -1], "label -1 is not a class"),
        ([{"bytes": b"?", "path": None}] * 2, [0, 1], "no readable image in row 0"),
        (
            [{"bytes": encode(np.arange(36, dtype=np.uint8).reshape(6, 6))[:60], "path": None}] * 2,
            [0, 1],
            "no readable image in row 0",
        ),
        ([{"bytes": None, "path": "/absent.png"}] * 2, [0, 1], "no readable image in row 0 .*absent.png"),
    ],
)
def test_files_that_do_not_fit_are_refused(make, tmp_path, images, labels, message):
    """Catches damaged samples that are skipped or crash, and unlabelled splits, also if a damaged cache is blamed."""
    write_both(tmp_path, images, labels)
    with pytest.raises(UserError, match=message) as caught:
        make(data_dir=str(tmp_path)).load("train")
    assert "delete it" not in str(caught.value)


def _png_of(width: int, height: int) -> bytes:
    """A black PNG of any size, whose header is all that must be right of a large one."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = b"IDAT" + zlib.compress(bytes(min((width + 1) * height, 10**6)))
    chunks = [struct.pack(">I", len(one) - 4) + one + struct.pack(">I", zlib.crc32(one)) for one in (header, rows)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize(
    ("size", "image_size", "pixels"),
    [((20_000, 20_000), 6, "400000000 pixels"), ((1, 60_000), 60, "216000000 pixels when resized")],
)
def test_an_image_of_too_many_pixels_is_named(make, tmp_path, grey, size, image_size, pixels):
    """Catches a traceback of Pillow, and memory exhausted by an image that is large, or long when it is resized."""
    images, labels = grey
    write_both(tmp_path, [*images[:19], {"bytes": _png_of(*size), "path": None}], labels)
    place = r"^data\.init_args\.image_column: row 19 of .*train\.parquet"
    with pytest.raises(UserError, match=rf"{place}: Image size \({pixels}\) exceeds limit of \d+ pixels$"):
        make(data_dir=str(tmp_path), image_size=image_size).load("train")


def test_damaged_row_is_named(make, tmp_path, grey, monkeypatch):
    """Catches a row number that counts within a chunk, and a cache that keeps half of a split."""
    monkeypatch.setattr(records, "CHUNK_ROWS", 4)
    images = [*({"bytes": encode(image), "path": None} for image in grey[0][:9]), {"bytes": b"?", "path": None}]
    write_both(tmp_path, images, list(range(10)))
    with pytest.raises(UserError, match=r"row 9 of .*train\.parquet"):
        make(data_dir=str(tmp_path)).load("train")
    assert not list((tmp_path / "cache").rglob("*.npy*"))


def test_files_that_are_not_parquet(make, tmp_path):
    """Catches a traceback for a download that failed, and an empty table."""
    write_both(tmp_path, [], [])
    (tmp_path / "train.parquet").write_text("<html>not found</html>")
    with pytest.raises(UserError, match=r"train\.parquet is not a readable parquet file"):
        make(data_dir=str(tmp_path)).load("train")
    with pytest.raises(UserError, match=r"test\.parquet has no rows"):
        make(data_dir=str(tmp_path)).load("test")


def decode_one(make, tmp_path, image: np.ndarray, **settings) -> torch.Tensor:
    write_both(tmp_path, [image], [0])
    return pixels(make(data_dir=str(tmp_path), num_classes=1, **settings).load("train"))[0]


def test_other_sizes_are_resized_and_cut_in_the_centre(make, tmp_path):
    """Catches squeezing, a cut at a corner, and swapped height and width."""
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, :8, 0], wide[:, 8:16, 1], wide[:, 16:, 2] = 255, 255, 255
    for image in (wide, wide.transpose(1, 0, 2)):
        small = decode_one(make, tmp_path, image, image_size=4, channels=3)
        assert small.shape == (3, 4, 4)
        assert torch.equal(small[1, 1:3, 1:3], torch.full((2, 2), 255, dtype=torch.uint8))
        assert int(small[[0, 2], 1:3, 1:3].max()) == 0


def test_resizing_averages(make, tmp_path):
    """Catches resizing without a filter, which turns a fine pattern into noise."""
    checks = (np.indices((24, 24)).sum(0) % 2 * 255).astype(np.uint8)
    small = decode_one(make, tmp_path, checks)
    assert torch.all((small.int() - 127).abs() < 40)


def test_images_are_converted_to_the_declared_channels(make, tmp_path):
    """Catches colour images in a grey set and the reverse, and an opacity channel that is taken for a colour."""
    colour = np.zeros((6, 6, 4), np.uint8)
    colour[..., 0], colour[..., 3] = 200, 255
    assert decode_one(make, tmp_path, colour, channels=3)[:, 0, 0].tolist() == [200, 0, 0]
    assert decode_one(make, tmp_path, colour, channels=1).shape == (1, 6, 6)
    grey = np.full((6, 6), 9, np.uint8)
    assert decode_one(make, tmp_path, grey, channels=3)[:, 0, 0].tolist() == [9, 9, 9]


@pytest.fixture
def decodings(monkeypatch):
    """Counts how often rows are decoded."""
    calls = []
    decode = ImageDecoder.chunks
    monkeypatch.setattr(ImageDecoder, "chunks", lambda self, source: calls.append(source) or decode(self, source))
    return calls


@pytest.mark.parametrize("memory_map", [False, True])
def test_decoded_images_are_kept(make, folder, grey, decodings, memory_map):
    """Catches decoding again, and a cache that returns something else than was decoded."""
    for _ in range(2):
        train = make(data_dir=str(folder), memory_map=memory_map).load("train")
        assert torch.equal(pixels(train).squeeze(1), torch.from_numpy(grey[0]))
        assert train.labels.tolist() == grey[1]
    assert len(decodings) == 1


def test_changed_source_or_settings_decode_again(make, folder, grey, decodings):
    """Catches a cache that returns what another file or another size was."""
    first = make(data_dir=str(folder)).load("train")
    assert make(data_dir=str(folder), image_size=3).load("train").images.shape == (20, 1, 3, 3)
    assert make(data_dir=str(folder), channels=3).load("train").images.shape == (20, 3, 6, 6)
    write(folder / "train.parquet", 255 - grey[0], grey[1])
    assert torch.equal(pixels(make(data_dir=str(folder)).load("train")), 255 - pixels(first))
    assert len(decodings) == 4


def test_cache_that_cannot_be_written(make, folder, grey, tmp_path):
    """Catches a run that fails for want of a cache, and a memory map that silently fills the memory."""
    (tmp_path / "file").touch()
    settings = {"data_dir": str(folder), "cache_dir": str(tmp_path / "file" / "cache")}
    train = make(**settings).load("train")
    assert torch.equal(pixels(train).squeeze(1), torch.from_numpy(grey[0]))
    with pytest.raises(UserError, match=r"data\.init_args\.cache_dir: cannot write"):
        make(memory_map=True, **settings).load("train")


def test_cache_on_a_disk_for_reading_only(make, folder, grey, monkeypatch):
    """Catches a finished entry that is not used because nothing can be written beside it."""

    def cannot_write(_):
        raise PermissionError

    make(data_dir=str(folder)).load("train")
    monkeypatch.setattr("dbl.utils.files.FileLock", cannot_write)
    train = make(data_dir=str(folder), memory_map=True).load("train")
    assert torch.equal(pixels(train).squeeze(1), torch.from_numpy(grey[0]))


@pytest.mark.parametrize("memory_map", [False, True])
def test_damaged_cache_is_named(make, folder, tmp_path, memory_map):
    """Catches garbage that is trained on."""
    make(data_dir=str(folder)).load("train")
    (images,) = (tmp_path / "cache").glob("*/images.npy")
    images.write_bytes(images.read_bytes()[:-50])
    with pytest.raises(UserError, match=re.escape(str(images.parent)) + " is damaged"):
        make(data_dir=str(folder), memory_map=memory_map).load("train")


def test_mapped_images_stay_on_disk(make, folder):
    """Catches a memory map that is read whole by a worker, a cut or a statistic."""
    mapped, held = (make(data_dir=str(folder), memory_map=memory_map) for memory_map in (True, False))
    assert mapped.spec == held.spec
    assert torch.equal(pixels(mapped.split("validation")), pixels(held.split("validation")))
    assert len(pickle.dumps(mapped.load("train").images)) < 500
    for one, other in zip(mapped.train_dataloader(), held.train_dataloader(), strict=True):
        assert torch.equal(one["image"], other["image"])


@pytest.mark.skipif(not REAL_DATA, reason="DBL_DATA is not set")
@pytest.mark.parametrize(
    ("settings", "mean"),
    [
        ({"path": "uoft-cs/cifar10", "image_column": "img", "image_size": 32, "channels": 3}, (126.0, 123.7, 114.9)),
        ({"path": "ylecun/mnist", "image_size": 28, "channels": 1}, (33.8,)),
    ],
)
def test_real_sets(make, monkeypatch, settings, mean):
    """Catches columns, sizes or an order of channels that real files do not have."""
    monkeypatch.setenv("DBL_DATA", str(REAL_DATA))
    test = make(num_classes=10, **settings).load("test")
    assert len(test) == 10_000
    assert test.labels.bincount().min() >= 890
    assert pixels(test).double().mean((0, 2, 3)).tolist() == pytest.approx(mean, abs=0.1)
