"""Text from local files and from the hub."""

import os

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from jsonargparse import ArgumentParser

from dbl.data import Bytes, Characters, HubText, TextData, TextFiles
from dbl.data.sources import records
from dbl.data.text.documents import FileDocuments
from dbl.data.text.encode import Encoder
from dbl.data.text.tokens import MappedTokens
from dbl.utils.errors import DblWarning, UserError


@pytest.fixture(autouse=True)
def no_local_copies(monkeypatch):
    monkeypatch.delenv("DBL_DATA", raising=False)


@pytest.fixture
def make(tmp_path):
    def make(kind, **settings):
        base = {"seq_len": 3, "tokenizer": Bytes(), "batch_size": 1, "eval_batch_size": 1, "validation_share": 0}
        return kind(**(base | {"cache_dir": str(tmp_path / "cache")} | settings))

    return make


@pytest.fixture
def encodings(monkeypatch):
    """Counts how often documents are encoded."""
    calls = []
    chunks = Encoder._chunks
    monkeypatch.setattr(Encoder, "_chunks", lambda self, *rest: calls.append(self) or chunks(self, *rest))
    return calls


def write_table(path, texts, column="text") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table({"id": list(range(len(texts))), column: texts}), path)


def text_of(data, split) -> str:
    """The whole row of tokens, ends shown as |."""
    tokens = data._encoded(split).tokens
    return bytes(tokens[np.arange(len(tokens))].tolist()).decode(errors="replace").replace("\0", "|")


@pytest.mark.parametrize(
    ("kind", "own"),
    [("TextFiles", {"train": ["a.txt"]}), ("HubText", {"path": "x/y", "streaming": True}), ("PyDoc", {})],
)
def test_sources_can_be_named_in_a_config(kind, own):
    """Catches arguments of the base or a tokenizer that the parser does not know."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--data", type=TextData)
    base = {"seq_len": 7, "tokenizer": {"class_path": "dbl.Bytes"}, "batch_size": 2, "eval_batch_size": 3}
    config = parser.parse_object({"data": {"class_path": f"dbl.data.{kind}", "init_args": own | base}})
    data = parser.instantiate(config).data
    assert (type(data).__name__, data.seq_len, data.tokenizer, data.packing) == (kind, 7, Bytes(), "stream")


def test_files_are_read_in_order(make, tmp_path):
    """Catches files in the order of the file system, repeated files, and documents without an end."""
    for name in ("b.txt", "a.txt", "c.md"):
        (tmp_path / name).write_text(f"<{name}>\n")
    write_table(tmp_path / "d.parquet", ["one", "", None, "two"])
    (tmp_path / "test.rst").write_text("other")
    data = make(TextFiles, train=["c.md", "*.txt", "a*", "d.parquet"], test=["test.rst"], data_dir=str(tmp_path))
    assert text_of(data, "train") == "<c.md>\n|<a.txt>\n|<b.txt>\n|one|two|"
    assert text_of(data, "test") == "other|"
    assert data.name == "c"


def test_local_folder_of_the_environment(make, tmp_path, monkeypatch):
    """Catches a folder that is ignored, and files that are looked for beside the program instead."""
    (tmp_path / "a.txt").write_text("hello")
    monkeypatch.setenv("DBL_DATA", str(tmp_path))
    data = make(TextFiles, train=["a.txt"], test_share=0.1)
    assert text_of(data, "train") == "hello|"
    with pytest.raises(UserError, match=r"data\.init_args\.test: there is no file .*absent\.txt; set DBL_DATA or"):
        make(TextFiles, train=["a.txt"], test=["absent.txt"]).split("train")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DBL_DATA")
    assert text_of(make(TextFiles, train=["a.txt"]), "train") == "hello|"


def test_files_of_two_splits_are_refused(make, tmp_path):
    """Catches a test on training text."""
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(UserError, match=r"data\.init_args: .*a\.txt belongs to split 'train' and to 'test'"):
        make(TextFiles, train=["*.txt"], test=["a.txt"], data_dir=str(tmp_path)).split("train")


def test_test_text_is_the_end_of_the_training_text(make, tmp_path):
    """Catches a test text that is trained on where there is no file for it."""
    (tmp_path / "a.txt").write_text("abcdefghijklmnopqrst")
    settings = {"train": ["a.txt"], "data_dir": str(tmp_path), "tokenizer": Characters(), "validation_share": 0.25}
    data = make(TextFiles, test_share=0.3, **settings)
    read = {split: "".join(map(data.tokenizer.decode, rows_of(data, split))) for split in ("train", "test")}
    assert read == {"train": "abcddefg", "test": "opqr"}


def rows_of(data, split) -> list[torch.Tensor]:
    return list(data.split(split)[torch.arange(len(data.split(split)))])


def test_bytes_that_are_not_utf8_are_counted(make, tmp_path):
    """Catches a crash, silence, a warning for each character or reading, and U+FFFD in the text counted as bad."""
    (tmp_path / "bad.txt").write_bytes("ok \ufffd caf\xe9 ".encode() + b"caf\xe9 na\xefve")
    data = make(TextFiles, train=["bad.txt"], data_dir=str(tmp_path), tokenizer=Characters())
    with pytest.warns(DblWarning, match=r"bad\.txt is not UTF-8: 2 characters were replaced") as caught:
        data.split("train")
    assert len(caught) == 1
    assert "\ufffd" in data.tokenizer.characters


def test_files_that_cannot_be_read(make, tmp_path):
    """Catches tracebacks of the operating system and of the parquet library."""
    (tmp_path / "a.parquet").write_text("<html>")
    (tmp_path / "b.txt").mkdir()
    for name, message in {"a.parquet": "not a readable parquet file", "b.txt": r"cannot read .*b\.txt"}.items():
        with pytest.raises(UserError, match=message):
            make(TextFiles, train=[name], data_dir=str(tmp_path)).split("train")


@pytest.mark.parametrize(
    ("texts", "settings", "message"),
    [
        (["a"], {"text_column": "words"}, r"data\.init_args\.text_column: .*no column 'words'; it has id, text"),
        ([1, 2], {}, r"data\.init_args\.text_column: 'text' of .* holds int64, not text"),
        ([None, ""], {}, "no documents in its train split"),
    ],
)
def test_columns_that_hold_no_text_are_refused(make, tmp_path, texts, settings, message):
    """Catches numbers that are trained on as text, and a message that does not name the setting."""
    write_table(tmp_path / "a.parquet", texts)
    with pytest.raises(UserError, match=message):
        make(TextFiles, train=["a.parquet"], data_dir=str(tmp_path), **settings).split("train")


def test_tokens_are_kept_on_disk(make, tmp_path, encodings):
    """Catches encoding again, tokens that sit in memory, and a cache that returns something else."""
    (tmp_path / "a.txt").write_text("hello there")
    for _ in range(2):
        data = make(TextFiles, train=["a.txt"], data_dir=str(tmp_path))
        assert text_of(data, "train") == "hello there|"
        assert isinstance(data.split("train").tokens, MappedTokens)
    assert len(encodings) == 1


def test_changed_text_or_settings_encode_again(make, tmp_path, encodings):
    """Catches a cache that returns the tokens of another text, tokenizer or number of tokens."""
    (tmp_path / "a.txt").write_text("hello there")
    settings = {"train": ["a.txt"], "data_dir": str(tmp_path)}
    assert text_of(make(TextFiles, **settings), "train") == "hello there|"
    assert text_of(make(TextFiles, max_tokens=4, **settings), "train") == "hell"
    assert text_of(make(TextFiles, max_tokens=7, **settings), "train") == "hello t"
    make(TextFiles, tokenizer=Characters(), **settings).split("train")
    (tmp_path / "a.txt").write_text("hello where")
    assert text_of(make(TextFiles, **settings), "train") == "hello where|"
    assert len(encodings) == 5


def test_cache_that_cannot_be_written(make, tmp_path):
    """Catches a run that fails for want of a cache, and one that fills the memory without a word."""
    (tmp_path / "a.txt").write_text("hello there")
    data = make(TextFiles, train=["a.txt"], data_dir=str(tmp_path), cache_dir=str(tmp_path / "a.txt" / "cache"))
    with pytest.warns(DblWarning, match=r"data\.init_args\.cache_dir .* cannot be written"):
        assert text_of(data, "train") == "hello there|"


def test_damaged_cache_is_named(make, tmp_path):
    """Catches garbage that is trained on."""
    (tmp_path / "a.txt").write_text("hello there")
    settings = {"train": ["a.txt"], "data_dir": str(tmp_path)}
    make(TextFiles, **settings).split("train")
    (tokens,) = (tmp_path / "cache").rglob("tokens.bin")
    os.truncate(tokens, 5)
    with pytest.raises(UserError, match=r"is damaged .*; delete it"):
        make(TextFiles, **settings).split("train")
    tokens.unlink()
    with pytest.raises(UserError, match=r"is damaged .*; delete it"):
        make(TextFiles, **settings).split("train")


def test_failed_encoding_leaves_no_entry(make, tmp_path):
    """Catches a cache that keeps half of a text."""
    (tmp_path / "a.txt").write_text("abcdé")
    with pytest.raises(UserError, match="no token for 'é'"):
        make(TextFiles, train=["a.txt"], data_dir=str(tmp_path), tokenizer=Characters("abcd")).split("train")
    assert not list((tmp_path / "cache").rglob("tokens.bin"))


def test_records_are_read_in_chunks(make, tmp_path, monkeypatch):
    """Catches rows that are lost or repeated between chunks."""
    monkeypatch.setattr(records, "CHUNK_ROWS", 3)
    texts = [str(number) for number in range(10)]
    write_table(tmp_path / "a.parquet", texts)
    documents = FileDocuments((tmp_path / "a.parquet",), "text")
    assert list(documents) == list(documents) == texts


def test_local_copies_of_a_hub_set(make, tmp_path, monkeypatch):
    """Catches copies that are ignored, and splits from two sources."""
    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    monkeypatch.setenv("DBL_DATA", str(tmp_path))
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "train.txt").write_text("hello")
    write_table(tmp_path / "toy" / "test-00000.parquet", ["a", "bc"])
    data = make(HubText, path="someone/toy")
    assert (data.name, text_of(data, "train"), text_of(data, "test")) == ("toy", "hello|", "a|bc|")
    assert len(make(HubText, path="someone/toy", test_split=None, test_share=0.7).split("test")) == 1
    (tmp_path / "toy" / "train.txt").unlink()
    with pytest.raises(UserError, match="cannot reach the hub"):
        make(HubText, path="someone/toy").split("train")
    with pytest.raises(UserError, match=r"data_dir: there is no file .*train\.txt or \.parquet"):
        make(HubText, path="someone/toy", data_dir=str(tmp_path / "toy")).split("train")


def unreachable(*_, **__):
    raise ConnectionError("no network")


TEXTS = {"train": ["once upon", "a time", "", "in a land"], "dev": ["far away"]}


class Builder:
    """Stands in for that of `datasets`; counts the rows that are read of a stream."""

    hash = "version1"
    config = type("Config", (), {"name": "plain"})

    def __init__(self) -> None:
        self.read: list[str] = []

    def as_streaming_dataset(self, split):
        def rows():
            for text in TEXTS[split] * 1000:
                self.read.append(text)
                yield {"id": 0, "text": text}

        if split not in TEXTS:
            raise ValueError(f"Bad split: {split}.")
        return datasets.IterableDataset.from_generator(rows)


def test_hub_split_is_read(make, monkeypatch):
    """Catches a wrong split or variant, and rows that are lost."""
    calls = []

    def load_dataset(path, config_name, split):
        calls.append((path, config_name, split))
        return datasets.Dataset.from_dict({"words": TEXTS[split], "id": [0] * len(TEXTS[split])})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    settings = {"path": "someone/toy", "config_name": "big", "text_column": "words", "test_split": "dev"}
    data = make(HubText, **settings)
    assert text_of(data, "train") == "once upon|a time|in a land|"
    assert text_of(data, "test") == "far away|"
    assert calls == [("someone/toy", "big", "train"), ("someone/toy", "big", "dev")]


def test_stream_stops_at_the_wanted_tokens(make, monkeypatch, encodings):
    """Catches a stream that is read to its end, a cache that ignores the number, and reading again."""
    monkeypatch.setattr(records, "CHUNK_ROWS", 4)
    builder = Builder()
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda path, config_name: builder)
    settings = {"path": "someone/toy", "streaming": True, "test_split": "dev"}
    assert text_of(make(HubText, max_tokens=33, **settings), "train") == "once upon|a time|in a land|once u"
    assert len(builder.read) < 20
    assert text_of(make(HubText, max_tokens=12, **settings), "train") == "once upon|a "
    assert len(encodings) == 2
    assert text_of(make(HubText, max_tokens=33, **settings), "train").endswith("|once u")
    assert len(encodings) == 2
    builder.hash = "version2"
    make(HubText, max_tokens=33, **settings).split("train")
    assert len(encodings) == 3
    limited = make(HubText, max_tokens=9, tokenizer=Characters(), **settings)
    assert "".join(limited.tokenizer.characters) == "".join(sorted(set("once upon" + "far awayf")))


@pytest.mark.parametrize("streaming", [False, True])
def test_hub_that_cannot_be_reached(make, monkeypatch, streaming):
    """Catches a traceback of the network, and a message without the local remedy."""
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    expected = "cannot reach the hub for someone/toy .*set DBL_DATA to a folder with toy/train.txt or .parquet and toy/"
    with pytest.raises(UserError, match=expected) as caught:
        make(HubText, path="someone/toy", streaming=streaming).split("train")
    assert "\n" not in str(caught.value)


def test_stream_that_breaks_off(make, monkeypatch, tmp_path):
    """Catches a traceback in the middle of a stream, and half of a text that is kept."""

    class Broken(Builder):
        def as_streaming_dataset(self, split):
            def rows():
                yield {"text": "once"}
                raise ConnectionError("gone")

            return datasets.IterableDataset.from_generator(
                rows, features=datasets.Features(text=datasets.Value("string"))
            )

    monkeypatch.setattr(datasets, "load_dataset_builder", lambda path, config_name: Broken())
    with pytest.raises(UserError, match=r"cannot reach the hub for someone/toy .*gone"):
        make(HubText, path="someone/toy", streaming=True).split("train")
    assert not list((tmp_path / "cache").rglob("tokens.bin"))


def test_hub_without_the_split(make, monkeypatch):
    """Catches a missing split that is reported as a missing network."""
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda path, config_name: Builder())
    with pytest.raises(UserError, match=r"the hub has no split 'test' of someone/toy .*Bad split: test"):
        make(HubText, path="someone/toy", streaming=True).split("test")
    with pytest.raises(UserError, match="names of the splits must differ, got train, train"):
        make(HubText, path="someone/toy", test_split="train")
