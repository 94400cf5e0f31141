"""Latents from safetensors and parquet files."""

import pickle

import datasets
import pyarrow
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import save_file

from dbl.data import HorizontalFlip, Latents
from dbl.data.sources import records
from dbl.utils.errors import UserError

SHAPE = (2, 3, 3)


@pytest.fixture(autouse=True)
def no_local_copies(monkeypatch):
    monkeypatch.delenv("DBL_DATA", raising=False)


@pytest.fixture
def latents():
    return torch.randn(20, *SHAPE, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 4


@pytest.fixture
def make(tmp_path):
    def make(train="train.safetensors", **settings) -> Latents:
        write_safetensors(tmp_path / "test.safetensors", torch.zeros(4, *SHAPE), torch.zeros(4).long())
        defaults = {
            "data_files": {"train": train, "test": "test.safetensors"},
            "data_dir": str(tmp_path),
            "channels": 2,
        }
        defaults |= {"image_size": 3, "num_classes": 4, "batch_size": 2, "eval_batch_size": 4, "validation_share": 0.25}
        return Latents(**(defaults | settings))

    return make


def write_safetensors(path, values, labels) -> None:
    save_file({"latents": values.contiguous(), "labels": labels.contiguous()}, path)


def write_parquet(path, cells, labels) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"latents": cells, "labels": labels}), path)


def test_shards_are_one_set(make, tmp_path, latents):
    """Catches rows of the wrong shard, an order of rows that is lost, and repeated rows that are merged."""
    values, labels = latents
    for name, part in (("a", slice(0, 9)), ("b", slice(9, 10)), ("c", slice(10, 20))):
        write_safetensors(tmp_path / f"train-{name}.safetensors", values[part], labels[part])
    train = make("train-*.safetensors").load("train")
    rows = torch.tensor([9, 0, 19, 8, 10, 0, 9])
    assert torch.equal(train.images[rows], values[rows])
    assert torch.equal(train.labels, labels)
    assert (train.images.shape, train.images.dtype) == ((20, *SHAPE), torch.float32)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_become_float32(make, tmp_path, latents, dtype):
    """Catches batches in the type of the file."""
    write_safetensors(tmp_path / "train.safetensors", latents[0].to(dtype), latents[1].int())
    train = make().load("train")
    rows = torch.tensor([3, 1])
    assert train.images[rows].dtype == torch.float32
    assert torch.equal(train.images[rows], latents[0].to(dtype)[rows].float())
    assert train.labels.dtype == torch.int64


def test_latents_stay_on_disk(make, tmp_path, latents):
    """Catches a set that is read whole or sent to workers."""
    write_safetensors(tmp_path / "train.safetensors", *latents)
    assert len(pickle.dumps(make().load("train").images)) < 500


def test_parquet_written_by_datasets(make, tmp_path, latents):
    """Catches arrays of fixed shape, which `datasets` stores as a type of its own."""
    features = datasets.Features({"latents": datasets.Array3D(SHAPE, "float32"), "labels": datasets.Value("int64")})
    columns = {"latents": latents[0].numpy(), "labels": latents[1].numpy()}
    datasets.Dataset.from_dict(columns, features).to_parquet(tmp_path / "train.parquet")
    assert torch.equal(make("train.parquet").load("train").images[torch.arange(20)], latents[0])


def test_spec_and_batches(make, tmp_path, latents):
    """Catches statistics and batches that do not go through the common path."""
    write_safetensors(tmp_path / "train.safetensors", *latents)
    data = make(name="toy", augmentations=[HorizontalFlip(1.0)])
    kept = [
        i
        for i in range(20)
        if not any(torch.equal(latents[0][i], v) for v in data.split("validation").images[torch.arange(4)])
    ]
    assert data.spec.name == "toy"
    assert data.spec.shape == SHAPE
    assert data.spec.mean == pytest.approx(latents[0][kept].double().mean((0, 2, 3)).tolist())
    assert data.spec.std == pytest.approx(latents[0][kept].double().std((0, 2, 3), correction=0).tolist())
    batch = next(iter(data.train_dataloader()))
    source = latents[0][kept][batch["index"]]
    assert torch.equal(batch["image"], source.flip(-1))


@pytest.mark.parametrize("nested", [False, True])
def test_parquet(make, tmp_path, latents, monkeypatch, nested):
    """Catches scrambled axes of flat and nested lists, and rows cut into chunks wrongly."""
    values, labels = latents
    monkeypatch.setattr(records, "CHUNK_ROWS", 7)
    write_parquet(tmp_path / "train.parquet", (values if nested else values.flatten(1)).tolist(), labels.tolist())
    train = make("train.parquet").load("train")
    assert torch.equal(train.images[torch.arange(20)], values)
    assert torch.equal(train.labels, labels)


def test_folder_of_local_copies(make, tmp_path, latents, monkeypatch):
    """Catches relative files that are looked for in the current folder although DBL_DATA is set."""
    write_safetensors(tmp_path / "train.safetensors", *latents)
    monkeypatch.setenv("DBL_DATA", str(tmp_path))
    assert len(make(data_dir=None).load("train")) == 20


def test_own_validation_split(make, tmp_path, latents):
    """Catches a cut although there is a validation file."""
    write_safetensors(tmp_path / "train.safetensors", *latents)
    write_safetensors(tmp_path / "val.safetensors", latents[0][:4], latents[1][:4])
    files = {"train": "train.safetensors", "validation": "val.safetensors", "test": "test.safetensors"}
    data = make(data_files=files)
    assert (len(data.split("train")), len(data.split("validation"))) == (20, 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"channels": 4},
            r"data\.init_args\.channels and image_size declare latents of \[4, 3, 3\], but .* \[2, 3, 3\]",
        ),
        ({"image_size": 4}, r"image_size declare latents of \[2, 4, 4\]"),
        ({"num_classes": 9}, r"data\.init_args\.num_classes is 9, but the labels of .* go up to 3"),
        ({"data_files": {"test": "x"}}, r"data\.init_args\.data_files has no entry for split 'train', only test"),
        ({"train": "t*"}, r"test\.safetensors belongs to split 'train' and to 'test'"),
        ({"train": "x*.safetensors"}, r"data\.init_args\.data_files: there is no file .*x\*\.safetensors"),
    ],
)
@pytest.mark.parametrize("kind", ["safetensors", "parquet", "nested.parquet"])
def test_settings_that_do_not_fit_are_refused(make, tmp_path, latents, kind, settings, message):
    """Catches latents of another shape, class or place that are read all the same."""
    values, labels = latents
    path = tmp_path / f"train.{kind}"
    if kind == "safetensors":
        write_safetensors(path, values, labels)
    else:
        write_parquet(path, (values if kind.startswith("nested") else values.flatten(1)).tolist(), labels.tolist())
    if kind == "parquet" and "latents of" in message:
        message = r"latents of .*\[18\]"
    with pytest.raises(UserError, match=message):
        make(**({"train": path.name} | settings)).load("train")


def test_damaged_safetensors(make, tmp_path, latents):
    """Catches tracebacks for truncated files and other names, and labels that are rounded."""
    path = tmp_path / "train.safetensors"
    save_file({"x": torch.zeros(2)}, path)
    with pytest.raises(UserError, match=r"train\.safetensors is damaged or has no tensors 'latents' and 'labels'"):
        make().load("train")
    write_safetensors(path, *latents)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match="is damaged"):
        make().load("train")
    write_safetensors(path, latents[0], latents[1] + 0.5)
    with pytest.raises(UserError, match=r"not torch\.float32"):
        make().load("train")
    write_safetensors(path, latents[0], latents[1][:5])
    with pytest.raises(UserError, match=r"whole numbers \[20\], not torch.int64 \[5\]"):
        make().load("train")


@pytest.mark.parametrize(
    ("cells", "labels", "message"),
    [
        ([[0.0] * 18, [0.0] * 17], [0, 1], r"not all latents of .* have the shape \[2, 3, 3\]"),
        ([["a"] * 18] * 2, [0, 1], "are string, not floats"),
        ([[0.0] * 18] * 2, [0.5, 1.0], "holds double, not the numbers of classes"),
        ([1.0, 2.0], [0, 1], r"latents of \[2, 3, 3\], but .* has \[\]"),
    ],
)
def test_damaged_parquet(make, tmp_path, cells, labels, message):
    """Catches rows that run into each other."""
    write_parquet(tmp_path / "train.parquet", cells, labels)
    with pytest.raises(UserError, match=message):
        make("train.parquet", num_classes=2).load("train")


def test_parquet_without_the_columns(make, tmp_path):
    """Catches a traceback for files of another kind."""
    pyarrow.parquet.write_table(pyarrow.table({"a": [1], "labels": [0]}), tmp_path / "train.parquet")
    with pytest.raises(UserError, match="has no column 'latents'; it has a, labels"):
        make("train.parquet").load("train")
