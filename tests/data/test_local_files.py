"""Which local files make up the splits of a data set."""

from pathlib import Path

import pytest

from dbl.data.sources.local_files import (
    check_disjoint,
    data_folder,
    file_versions,
    files_of_splits,
    find_files,
    local_copies,
    named_splits,
)
from dbl.utils.errors import UserError


@pytest.fixture(autouse=True)
def no_folder_of_the_environment(monkeypatch):
    monkeypatch.delenv("DBL_DATA", raising=False)


@pytest.fixture
def make(tmp_path):
    """Make empty files below the folder `tmp_path`, in the order given."""

    def make(*names: str) -> Path:
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        return tmp_path

    return make


def names(files: list[Path]) -> list[str]:
    return [file.name for file in files]


def test_files_of_a_glob_are_sorted(make, monkeypatch):
    """Catches documents whose order is that in which a file system lists its folders."""
    folder = make("c.txt", "a.txt", "sub/d.txt", "b.txt", "b.bin")
    listed = Path.glob
    monkeypatch.setattr(Path, "glob", lambda *arguments: reversed(list(listed(*arguments))))
    assert find_files(folder, "*.txt") == [folder / "a.txt", folder / "b.txt", folder / "c.txt"]
    assert names(find_files(folder, "**/*.txt")) == ["a.txt", "b.txt", "c.txt", "d.txt"]


def test_the_first_pattern_with_files_counts(make):
    """Catches files of two kinds in one split."""
    folder = make("train.parquet", "train-0.txt", "train-1.txt")
    assert names(find_files(folder, "train.txt", "train-*.txt", "train.parquet")) == ["train-0.txt", "train-1.txt"]
    assert find_files(folder, "test.txt", "test-*.txt") == []


def test_absolute_patterns_and_folders_above(make, tmp_path, monkeypatch):
    """Catches an absolute pattern that is taken from the folder, which pathlib refuses with a traceback."""
    folder = make("a.txt", "sub/b.txt")
    assert find_files(folder / "sub", str(folder / "a.txt")) == [folder / "a.txt"]
    monkeypatch.chdir(folder)
    assert find_files(Path("sub"), "b.txt") == [folder / "sub" / "b.txt"]  # absolute: workers may have another folder


def test_relative_files_start_from_the_nearest_setting(monkeypatch):
    """Catches `$DBL_DATA` taking the place of an explicit folder, and an empty one that counts as a folder."""
    assert data_folder(None) == Path()
    monkeypatch.setenv("DBL_DATA", "")
    assert data_folder(None) == Path()
    monkeypatch.setenv("DBL_DATA", "/copies")
    assert data_folder(None) == Path("/copies")
    assert data_folder("mine") == Path("mine")


def test_splits_that_the_source_lacks_have_no_name():
    """Catches a split called None that is looked for on the hub."""
    assert named_splits("train", None, "valid") == {"train": "train", "test": "valid"}


@pytest.mark.parametrize("given", [("all", None, "all"), ("a", "b", "b"), ("a", "a", None)])
def test_one_split_under_two_names_is_refused(given):
    """Catches a test on the training samples."""
    with pytest.raises(UserError, match=r"^data\.init_args: the names of the splits must differ, got "):
        named_splits(*given)


def test_files_of_each_split(make):
    """Catches a split that gets the files of another one, and splits that nobody asked for."""
    folder = make("a-1.bin", "a-0.bin", "b.bin", "c.bin")
    data_files = {"train": "a-*.bin", "test": "b.bin", "validation": "absent.bin"}
    found = files_of_splits(folder, data_files, ["train", "test"])
    assert {split: names(files) for split, files in found.items()} == {
        "train": ["a-0.bin", "a-1.bin"],
        "test": ["b.bin"],
    }


@pytest.mark.parametrize(
    ("data_files", "message"),
    [
        ({"train": "a.bin"}, "data_files has no entry for split 'test', only train$"),
        ({"train": "a.bin", "test": "x*.bin"}, r"data_files: there is no file /.*/x\*\.bin$"),
        ({"train": "*.bin", "test": "b.bin"}, "data_files: /.*/b.bin belongs to split 'train' and to 'test'$"),
    ],
)
def test_files_that_do_not_make_up_the_splits(make, data_files, message):
    """Catches a missing split found by a traceback, and a test on the training samples."""
    with pytest.raises(UserError, match=rf"^data\.init_args\.{message}"):
        files_of_splits(make("a.bin", "b.bin"), data_files, ["train", "test"])


def test_any_two_splits_that_share_a_file():
    """Catches a check of neighbouring splits only."""
    files = {"train": [Path("a")], "validation": [Path("b")], "test": [Path("c"), Path("a")]}
    with pytest.raises(UserError, match=r"^key: a belongs to split 'train' and to 'test'$"):
        check_disjoint(files, "key")
    check_disjoint(files | {"test": [Path("c")]}, "key")


@pytest.mark.parametrize("other", ["sub/../a.txt", "link.txt"])
def test_one_file_under_two_paths(make, other):
    """Catches a test on the training samples that a second way to the same file hides."""
    folder = make("a.txt", "sub/b.txt")
    (folder / "link.txt").symlink_to(folder / "a.txt")
    files = {"train": find_files(folder, "a.txt"), "test": find_files(folder, other)}
    with pytest.raises(UserError, match=r"^key: /.*/a\.txt belongs to split 'train' and to 'test'$"):
        check_disjoint(files, "key")


def copies(data_dir: str | None = None, splits: tuple[str, ...] = ("train", "test")) -> dict[str, list[str]]:
    found = local_copies("toy", data_dir, list(splits), ["txt", "parquet"])
    return {split: names(files) for split, files in found.items()}


def test_local_copies_are_in_a_folder_of_the_set(make, monkeypatch):
    """Catches copies of another data set, kinds in the wrong order, and shards that are left out."""
    folder = make(
        "toy/train-1.txt", "toy/train-0.txt", "toy/train.parquet", "toy/test.parquet", "train.txt", "test.txt"
    )
    assert copies() == {}  # neither setting names a folder
    expected = {"train": ["train-0.txt", "train-1.txt"], "test": ["test.parquet"]}
    monkeypatch.setenv("DBL_DATA", str(folder))
    assert copies() == expected
    assert copies(data_dir=str(folder)) == {"train": ["train.txt"], "test": ["test.txt"]}  # holds the files itself


def test_local_copies_that_lack_a_split(make, monkeypatch):
    """Catches a run whose splits come from two sources, and an explicit folder that is passed over in silence."""
    folder = make("toy/train.txt")
    monkeypatch.setenv("DBL_DATA", str(folder))
    assert copies() == {}
    with pytest.raises(UserError, match=r"data_dir: there is no file .*toy/test\.txt or \.parquet$"):
        copies(data_dir=str(folder / "toy"))
    assert copies(splits=("train",)) == {"train": ["train.txt"]}


def test_versions_of_files(make):
    """Catches tokens of a cache that are used although the text was edited."""
    file = make("a.txt") / "a.txt"
    before = file_versions([file])
    assert file_versions([file]) == before
    file.write_text("x")
    assert file_versions([file])[0][:2] == ("a.txt", 1) != before[0][:2]
