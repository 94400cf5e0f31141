"""Text in tables: CSV, TSV and JSON lines with a named column."""

from pathlib import Path

import pytest

from dbl.data import Bytes, TextFiles
from dbl.data.sources import records
from dbl.data.sources.tables import table_records
from dbl.data.text.documents import FileDocuments
from dbl.utils.errors import UserError

CSV = b'id,text\n1,hello\n2,"two\nlines, quoted"\n3,\n4,007\n5,NA\n'
JSON = b'{"text": "hello", "id": 1}\n\n{"id": 2, "text": "two\\nlines, quoted"}\n{"text": null}\n'


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("a.csv", CSV, ["hello", "two\nlines, quoted", "007", "NA"]),
        ("a.CSV", b"\xef\xbb\xbftext\r\nfirst\r\nlast", ["first", "last"]),
        ("a.tsv", b"text\tn\none, two\t3\n", ["one, two"]),
        ("a.jsonl", JSON, ["hello", "two\nlines, quoted"]),
        ("a.txt", CSV, [CSV.decode()]),
    ],
)
def test_each_row_of_a_column_is_a_document(
    name: str, content: bytes, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches texts that are taken for numbers or for missing values, cut at a comma or line end, or kept if empty."""
    monkeypatch.setattr(records, "CHUNK_ROWS", 2)
    (tmp_path / name).write_bytes(content)
    assert list(FileDocuments((tmp_path / name,), "text")) == texts


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"id,body\n1,x\n", r"text_column: .*a\.csv has no column 'text'; it has id, body$"),
        ("a.csv", b"id,text\n1,x\n2,y,z\n", r"a\.csv: .*Expected 2 columns, got 3: 2,y,z; each row needs"),
        ("a.csv", b"id,text\n1,x\n2\n", r"a\.csv: .*Expected 2 columns, got 1: 2; each row needs"),
        ("a.csv", b"text,text\n1,x\n", r"a\.csv has two columns 'text': rename one$"),
        ("a.csv", b"", r"a\.csv: Empty CSV file"),
        ("a.csv", "id,text\n1,é\n".encode("latin1"), r"a\.csv is not UTF-8: convert it"),
        ("a.csv", "id,text,é\n1,2,3\n".encode("latin1"), r"a\.csv is not UTF-8: convert it"),
        ("a.jsonl", '{"text": "é"}\n'.encode("latin1"), r"a\.jsonl is not UTF-8: convert it"),
        ("a.jsonl", b'{"text": "x"}\n{"txt": "y"}\n', r"a\.jsonl, line 2, has no 'text'$"),
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', r"a\.jsonl, line 2, is no JSON "),
        ("a.jsonl", b'["x"]\n', r"a\.jsonl, line 1, is no JSON object"),
        ("a.jsonl", b'{"text": 3}\n', r"text_column: 'text' of .*a\.jsonl holds int64, not text$"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    """Catches a traceback, a row that is filled or left out without a word, and an error that names no file."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        list(FileDocuments((tmp_path / name,), "text"))
    assert "\n" not in str(caught.value)


def test_the_length_of_a_table_counts_rows(tmp_path: Path) -> None:
    """Catches a length of lines, of which a quoted cell may have several."""
    (tmp_path / "a.csv").write_bytes(CSV)
    assert len(table_records(tmp_path / "a.csv")) == 5


@pytest.mark.parametrize(
    ("train", "name"), [("a.csv", "a"), ("some/where/reviews.jsonl", "reviews"), ("books/*.txt", "books")]
)
def test_text_is_named_after_its_first_file(train: str, name: str) -> None:
    """Catches a run on other text that is reported under the name of the text of the config that was copied."""
    data = TextFiles([train], seq_len=8, tokenizer=Bytes(), batch_size=2, eval_batch_size=2)
    assert data.name == name
