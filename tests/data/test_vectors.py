"""Vectors from arrays and tables, and what is measured of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dbl.data import BatchIndex, Split, VectorData, VectorFiles, VectorSet, Wine
from dbl.data.spec import VectorSpec
from dbl.utils.errors import UserError

CSV = "height,width,kind\n" + "".join(f"{row},{row * 0.5},{'bcda'[row % 4]}\n" for row in range(40))


class Arrays(VectorData):
    """Vectors of two classes; the last feature never changes."""

    def load(self, split: Split) -> VectorSet | None:
        if split == "validation":
            return None
        rows = torch.arange(40, dtype=torch.float32)
        return VectorSet(torch.stack([rows, rows**2, torch.ones(40)], dim=1), torch.arange(40) % 2)


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., VectorFiles]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DBL_DATA", raising=False)
    defaults = {"train": "trees.csv", "label_column": "kind", "batch_size": 2, "eval_batch_size": 4}
    return lambda **settings: VectorFiles(**(defaults | settings))


def test_arrays_are_split_and_measured() -> None:
    """Catches figures over other rows than those of training, and a batch with labels of other rows."""
    data = Arrays(batch_size=4, eval_batch_size=8, validation_share=0.25)
    train = data.split("train")
    assert (len(train), len(data.split("validation")), len(data.split("test"))) == (30, 10, 40)
    values = train.vectors.double()
    assert data.spec.mean == pytest.approx(values.mean(dim=0).tolist())
    assert data.spec.std == pytest.approx(values.std(dim=0, correction=0).tolist())
    assert data.spec.std[2] == 0
    batch = data.batches("train", training=True)[BatchIndex(3, torch.tensor([5, 2]))]
    assert torch.equal(batch["vector"], train.vectors[[5, 2]])
    assert torch.equal(batch["label"], train.labels[[5, 2]])
    assert batch["position"] == 3


def test_wine_is_that_of_scikit_learn() -> None:
    """Catches rows without their classes, and a test split that is trained on."""
    data = Wine(batch_size=32, eval_batch_size=64)
    splits = [data.split(name) for name in ("train", "validation", "test")]
    assert sum(map(len, splits)) == 178
    assert len(torch.cat([split.vectors for split in splits]).unique(dim=0)) == 178
    assert data.spec.class_frequencies == pytest.approx((0.33, 0.4, 0.27), abs=0.01)


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_a_table_is_read_by_its_ending(make: Any, tmp_path: Path, kind: str) -> None:
    """Catches columns in another order, and classes that depend on the format."""
    import pyarrow
    from pyarrow import parquet

    rows = [line.split(",") for line in CSV.splitlines()[1:]]
    table = {"kind": [row[2] for row in rows], "height": [int(row[0]) for row in rows]}
    table["width"] = [float(row[1]) for row in rows]
    path = tmp_path / f"trees.{kind}"
    if kind == "parquet":
        parquet.write_table(pyarrow.table(table), path)
    elif kind == "jsonl":
        path.write_text("".join(f'{{"kind": "{r[2]}", "height": {r[0]}, "width": {r[1]}}}\n' for r in rows))
    else:
        path.write_text(CSV.replace(",", "," if kind == "csv" else "\t"))
    data = make(train=path.name, validation_share=0)
    assert (data.name, data.classes) == ("trees", ["a", "b", "c", "d"])
    train = data.split("train")
    assert len(data.split("test")) == 8
    order = train.vectors[:, 0].long() % 4
    assert torch.equal(train.labels, torch.tensor([1, 2, 3, 0])[order])
    assert torch.equal(train.vectors[:, 1], train.vectors[:, 0] / 2)


def test_numbers_are_classes_and_columns_are_chosen(make: Any, tmp_path: Path) -> None:
    """Catches classes counted from 1 that are refused, and a column that was left out but is read."""
    (tmp_path / "trees.csv").write_text("a,b,note,kind\n" + "".join(f"{i},2,x{i},{1 + i % 2}\n" for i in range(20)))
    (tmp_path / "test.csv").write_text("note,kind,b,a\n,2,7,5\n")
    data = make(feature_columns=["b", "a"], test="test.csv", validation_share=0)
    assert (data.classes, data.spec.num_features) == ([1, 2], 2)
    assert data.split("test").vectors.tolist() == [[7, 5]]
    assert data.split("test").labels.tolist() == [1]


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        (None, {}, r"data\.init_args\.train: there is no file trees\.csv$"),
        (
            CSV,
            {"label_column": "sort"},
            r"label_column: .*trees\.csv has no column 'sort'; it has height, width, kind$",
        ),
        (CSV, {"feature_columns": ["depth"]}, r"feature_columns: .*trees\.csv has no column 'depth'"),
        (
            CSV,
            {"feature_columns": ["kind"]},
            r"feature_columns must name columns of .*trees\.csv other than",
        ),
        (CSV, {"label_column": "height"}, r"feature_columns: 'kind' of .*trees\.csv holds string, not numbers$"),
        (CSV, {"label_column": "width"}, r"label_column: 'width' of .*trees\.csv holds double, not classes$"),
        (CSV + "1,2\n", {}, r"trees\.csv: .*Expected 3 columns, got 2: 1,2; each row needs"),
        (CSV + ",2,a\n", {}, r"feature_columns: 'height' of .*trees\.csv has 1 empty cells$"),
        (CSV + "nan,2,a\n", {}, r"feature \d of vector \d+ is not finite|has 1 empty cells"),
        ("height,kind\n", {}, r"trees\.csv has no rows$"),
        (CSV, {"test": "trees.csv"}, r"belongs to split 'train' and to 'test'$"),
        (CSV, {"test": "other.csv"}, r"label_column: .*other\.csv has a class 'e' that no training row has$"),
        (CSV, {"test_share": 0.05}, r"test_share \(0\.05\) leaves nothing to test: the largest class has 10$"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused(
    make: Any, tmp_path: Path, content: str | None, settings: dict[str, Any], message: str
) -> None:
    """Catches a traceback, rows that are left out or filled without a word, and an error that names no file or key."""
    if content is not None:
        (tmp_path / "trees.csv").write_text(content)
    (tmp_path / "other.csv").write_text("height,width,kind\n1,2,e\n")
    data = make(**settings)
    with pytest.raises(UserError, match=message) as caught:
        data.split("train"), data.split("test")
    assert len(str(caught.value)) <= 200
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("vectors", "labels", "message"),
    [
        (torch.zeros(3), torch.tensor([0, 1, 1]), "must be float32"),
        (torch.zeros(3, 2, dtype=torch.float64), torch.tensor([0, 1, 1]), "must be float32"),
        (torch.tensor([[0.0, torch.inf]]), torch.tensor([0]), "feature 1 of vector 0 is not finite"),
        (torch.zeros(3, 2), torch.tensor([0, 1]), "N = 3 as for the vectors"),
        (torch.zeros(2, 2), torch.tensor([0, -1]), "label -1 is not a class"),
    ],
)
def test_vectors_that_cannot_be_meant_are_refused(vectors: Any, labels: Any, message: str) -> None:
    """Catches values and labels that fail in the middle of a training."""
    with pytest.raises(UserError, match=message):
        VectorSet(vectors, labels)


def test_facts_must_fit_together() -> None:
    """Catches a scale that is broadcast over the features."""
    with pytest.raises(UserError, match="one value for each of 2 features"):
        VectorSpec("toy", "toy-1", 2, (0.5, 0.5), num_features=2, mean=(0.0,), std=(1.0,))


def test_a_test_with_another_class_is_found_before_any_training(make: Any, tmp_path: Path) -> None:
    """Catches a test that turns out to be impossible once all blocks are trained."""
    (tmp_path / "trees.csv").write_text(CSV)
    (tmp_path / "other.csv").write_text("height,width,kind\n1,2,e\n")
    with pytest.raises(UserError, match="a class 'e' that no training row has"):
        make(test="other.csv").split("train")
