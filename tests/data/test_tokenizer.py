"""Tokenizers: round trips, what they refuse, and their files."""

import json
import pickle
import sys
from typing import Any

import pytest
import tokenizers
import torch
from jsonargparse import ArgumentParser

from dbl.commands.main import main
from dbl.data import Bytes, Characters, Tokenizer, TokenizerFile, load_tokenizer
from dbl.utils.errors import DblWarning, UserError

TEXT = "Grüße, „Welt“!\n\tπ ≈ 3.14 — 日本語 🙂 naïve naïve"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """A tokenizer of byte pairs, made by the command."""
    folder = tmp_path_factory.mktemp("pairs")
    (folder / "a.txt").write_text("the cat sat on the mat. the hat. " * 20)
    (folder / "b.txt").write_text("théâtre " * 20)
    files = [str(folder / name) for name in ("a.txt", "b.txt")]
    assert main(["tokenizer", "--files", *files, "--vocab_size", "270", "--output", str(folder / "tok.json")]) == 0
    return TokenizerFile(str(folder / "tok.json"))


@pytest.fixture(params=["bytes", "characters", "pairs"])
def tokenizer(request, pairs):
    return {"bytes": Bytes(), "characters": Characters().fit(TEXT), "pairs": pairs}[request.param]


def test_text_survives_the_round_trip(tokenizer):
    """Catches lost, merged or reordered characters, and tokens that are not of the vocabulary."""
    tokens = tokenizer.encode(TEXT)
    assert tokens.dtype == torch.int64
    assert tokens.ndim == 1
    assert 0 <= tokens.min() <= tokens.max() < tokenizer.vocab_size
    assert tokenizer.decode(tokens) == tokenizer.decode(tokens.tolist()) == TEXT
    assert len(tokenizer.encode("")) == 0


def test_byte_lengths_add_up_to_the_text(tokenizer):
    """Catches lengths in characters, lengths of the written form of a token, and an end token that counts."""
    lengths = tokenizer.byte_lengths
    assert (lengths.shape, lengths.dtype) == ((tokenizer.vocab_size,), torch.int64)
    assert int(lengths[tokenizer.encode(TEXT)].sum()) == len(TEXT.encode())
    if tokenizer.end_id is not None:
        assert lengths[tokenizer.end_id] == 0


def test_end_token_and_padding_read_as_nothing(tokenizer):
    """Catches a crash at filled sequences and end tokens that are shown to people."""
    ends = [] if tokenizer.end_id is None else [tokenizer.end_id]
    tokens = torch.tensor([*tokenizer.encode("Welt").tolist(), *ends, -100, -100])
    assert tokenizer.decode(tokens) == "Welt"


def test_saved_tokenizer_is_whole(tokenizer, tmp_path):
    """Catches a file that points to another file, and a loaded tokenizer that encodes differently."""
    tokenizer.save(tmp_path / "t.json")
    loaded = load_tokenizer(tmp_path / "t.json")
    assert type(loaded) is type(tokenizer)
    assert loaded.identity == tokenizer.identity
    assert torch.equal(loaded.encode(TEXT), tokenizer.encode(TEXT))
    loaded.save(tmp_path / "again.json")
    assert load_tokenizer(tmp_path / "again.json").identity == tokenizer.identity
    assert pickle.loads(pickle.dumps(loaded)).decode(tokenizer.encode(TEXT)) == TEXT


def test_saved_file_of_the_library_needs_no_other_file(pairs, tmp_path):
    """Catches a path in place of the content."""
    (tmp_path / "tok.json").write_text(pairs.definition)
    TokenizerFile(str(tmp_path / "tok.json")).save(tmp_path / "saved.json")
    (tmp_path / "tok.json").unlink()
    assert load_tokenizer(tmp_path / "saved.json").decode(pairs.encode(TEXT)) == TEXT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda plain: plain["init_args"].update(alphabet="xyz"), "was changed after it was written"),
        (lambda plain: plain.update(identity="0"), "was changed after it was written"),
        (lambda plain: plain.pop("identity"), "is not a tokenizer written by dbl"),
        (lambda plain: plain["init_args"].update(letters=3), "t.json: tokenizer.letters is no field"),
        (lambda plain: plain.update(class_path="dbl.PixelTarget"), "is not a Tokenizer"),
    ],
)
def test_tampered_files_are_refused(tmp_path, change, message):
    """Catches a vocabulary that no longer is that of the network, and code of any class that a file names."""
    path = tmp_path / "t.json"
    Characters("abc").save(path)
    plain = json.loads(path.read_text())
    change(plain)
    path.write_text(json.dumps(plain))
    with pytest.raises(UserError, match=message):
        load_tokenizer(path)


def test_identity_follows_what_encoding_depends_on(pairs, tmp_path):
    """Catches two vocabularies that pass for one, and an identity that depends on where a file lies."""
    identities = {t.identity for t in (Bytes(), Characters("ab"), Characters("ba"), Characters("text8"), pairs)}
    letters = Characters(" abcdefghijklmnopqrstuvwxyz")
    assert len(identities | {letters.identity}) == 6
    (tmp_path / "tokenizer.json").write_text(pairs.definition)
    assert TokenizerFile(str(tmp_path)).identity == pairs.identity


@pytest.mark.parametrize(
    ("tokenizer", "text", "message"),
    [
        (Bytes(), "a\0b", r"no token for '\\x00'; remove"),
        (Bytes(), "a\udc80b", r"no token for '\\udc80'"),
        (Characters("cab"), "abcdé!d", r"no token for '!', 'd', 'é'; the alphabet is 'cab'"),
        (Characters("b"), "acegikmoqsuwy", r"'s' and 3 more; the alphabet"),
        (Characters("text8"), "Ab", "no token for 'A'"),
        (Characters(), "a", r"tokenizer\.alphabet is null"),
    ],
)
def test_unknown_characters_are_named(tokenizer, text, message):
    """Catches prompts that are changed without a word, and a message without the characters."""
    with pytest.raises(UserError, match=message):
        tokenizer.encode(text)


def test_alphabet_keeps_its_order():
    """Catches a table that only works for sorted characters."""
    tokenizer = Characters("cé🙂a")
    assert tokenizer.encode("aéc🙂").tolist() == [3, 1, 0, 2]
    assert tokenizer.byte_lengths.tolist() == [1, 2, 4, 1]
    assert Characters().fit("hello").alphabet == "ehlo"


@pytest.mark.parametrize("alphabet", ["", "aba"])
def test_impossible_alphabets_are_refused(alphabet):
    """Catches a character with two tokens, and a vocabulary of none."""
    with pytest.raises(UserError, match=r"tokenizer\.alphabet"):
        Characters(alphabet)


def test_text8_simplifies_data_only():
    """Catches data sets that keep other characters, and runs of them that become many spaces."""
    tokenizer = Characters("text8")
    prepared = tokenizer.prepare("It's 1999:\n  THE «end»")
    assert prepared == "it s the end "
    assert tokenizer.decode(tokenizer.encode(prepared)) == prepared
    assert tokenizer.vocab_size == 27
    assert Characters("It").prepare("It's") == "It's"


def test_bytes_of_data_hold_no_end():
    """Catches a web page that stops a long encoding, or ends its document early."""
    assert Bytes().prepare("a\0b\n") == "ab\n"


def test_special_tokens_cannot_be_written(pairs):
    """Catches text that ends its own document."""
    assert pairs.end_id == 0
    tokens = pairs.encode("a<|endoftext|>b")
    assert pairs.end_id not in tokens
    assert pairs.decode(tokens) == "a<|endoftext|>b"


def test_pairs_are_shorter_than_bytes_and_stay_so(pairs):
    """Catches training that learns nothing, and a vocabulary of another size."""
    text = "the cat sat on the mat"
    assert pairs.vocab_size == 270
    assert len(pairs.encode(text)) < len(text) * 0.7


def words(unknown: bool) -> tokenizers.Tokenizer:
    """WordPiece with spaces between words; [SEP] ends documents."""
    vocabulary = {"[SEP]": 0, "cat": 1, "##s": 2, "a": 3, "é": 4} | ({"[UNK]": 5} if unknown else {})
    model = tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]")
    if not unknown:
        model = tokenizers.models.BPE({"a": 0, "b": 1, "é": 2}, [])
    library = tokenizers.Tokenizer(model)
    library.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    if unknown:
        library.decoder = tokenizers.decoders.WordPiece()
        library.add_special_tokens(["[SEP]", "[UNK]"])
        library.enable_truncation(2)
        library.enable_padding(length=9)
    return library


def test_files_of_other_models(tmp_path):
    """Catches cutting and filling by the file, special tokens around a text, and lengths without the space."""
    words(unknown=True).save(str(tmp_path / "w.json"))
    tokenizer = TokenizerFile(str(tmp_path / "w.json"))
    assert tokenizer.encode("cats é a a").tolist() == [1, 2, 4, 3, 3]
    assert tokenizer.decode([1, 2, 4, 0]) == "cats é"
    assert tokenizer.byte_lengths.tolist() == [0, 4, 1, 2, 3, 0]
    assert tokenizer.end_id == 0


def test_tokens_with_spaces_and_single_bytes(tmp_path):
    """Catches a space at the start of a word that is not counted, and <0xC3> counted as six letters."""
    vocabulary = {"</s>": 0, "a": 1, "▁a": 2, "b": 3, "é": 4, "▁": 5} | {f"<0x{i:02X}>": 6 + i for i in range(256)}
    library = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [("▁", "a")], byte_fallback=True))
    library.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="never")
    parts = [tokenizers.decoders.ByteFallback(), tokenizers.decoders.Metaspace(prepend_scheme="never")]
    library.decoder = tokenizers.decoders.Sequence(parts)
    library.add_special_tokens(["</s>"])
    library.save(str(tmp_path / "m.json"))
    tokenizer = TokenizerFile(str(tmp_path / "m.json"))
    text = "ab a é ü"
    tokens = tokenizer.encode(text)
    assert tokens.tolist() == [1, 3, 2, 5, 4, 5, 6 + 0xC3, 6 + 0xBC]
    assert tokenizer.decode(tokens) == text
    assert tokenizer.byte_lengths[tokens].tolist() == [1, 1, 2, 1, 2, 1, 1, 1]
    assert tokenizer.byte_lengths[tokenizer.end_id] == 0


def test_characters_that_a_model_drops_are_named(tmp_path):
    """Catches text that a model without unknown token and without bytes loses silently."""
    words(unknown=False).save(str(tmp_path / "w.json"))
    tokenizer = TokenizerFile(str(tmp_path / "w.json"))
    assert tokenizer.encode("ab é").tolist() == [0, 1, 2]
    assert tokenizer.end_id is None
    with pytest.raises(UserError, match="no token for 'x', 'ß'; leave them out"):
        tokenizer.encode("axb ß")


def test_files_that_are_no_tokenizers(tmp_path, monkeypatch):
    """Catches tracebacks of the library, and of one that is not installed."""
    with pytest.raises(UserError, match=r"tokenizer\.path: cannot read .*absent\.json.*dbl tokenizer"):
        TokenizerFile(str(tmp_path / "absent.json")).encode("a")
    (tmp_path / "t.json").write_text('{"a": 1}')
    with pytest.raises(UserError, match=r"t\.json is not a file of `tokenizers`"):
        TokenizerFile(str(tmp_path / "t.json")).encode("a")
    with pytest.raises(UserError, match=r"t\.json is not a tokenizer written by dbl"):
        load_tokenizer(tmp_path / "t.json")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UserError, match=r'pip install -e "\.\[text\]"'):
        TokenizerFile(str(tmp_path / "t.json")).encode("a")


def test_tokenizers_can_be_named_in_a_config():
    """Catches classes that the parser cannot build."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--tokenizer", type=Tokenizer)
    config = parser.parse_args(["--tokenizer=dbl.data.Characters", "--tokenizer.init_args.alphabet=abc"])
    assert parser.instantiate(config).tokenizer == Characters("abc")
    config = parser.parse_object({"tokenizer": {"class_path": "dbl.Bytes"}})
    assert parser.instantiate(config).tokenizer == Bytes()


def test_the_command_refuses_bad_input(tmp_path, capsys):
    """Catches a vocabulary that cannot express every text, and files that are absent without a word."""
    (tmp_path / "a.txt").write_text("text")
    output = str(tmp_path / "t.json")
    for options, named in {
        ("--files", str(tmp_path / "a.txt"), "--vocab_size", "256"): "--vocab_size (256)",
        ("--files", str(tmp_path / "*.md")): "*.md",
    }.items():
        assert main(["tokenizer", *options, "--output", output]) == 2
        assert named in capsys.readouterr().err
    assert not (tmp_path / "t.json").exists()


def test_the_command_reads_text_that_is_not_utf8(tmp_path):
    """Catches a crash at a single bad byte."""
    (tmp_path / "a.txt").write_bytes(b"caf\xe9 " * 3)
    with pytest.warns(DblWarning, match="3 characters"):
        main(["tokenizer", "--files", str(tmp_path / "a.txt"), "--output", str(tmp_path / "t.json")])
    assert TokenizerFile(str(tmp_path / "t.json")).end_id == 0


@pytest.mark.parametrize(
    "model",
    [
        {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "<unk>"},  # has no such token
        {"type": "WordLevel", "vocab": {}, "unk_token": "<unk>"},
        {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": [["a", "b"]]},  # nor "ab"
        {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]], "continuing_subword_prefix": "##"},
    ],
    ids=["no unknown token", "no token", "no merged token", "a prefix longer than a token"],
)
def test_a_file_that_contradicts_itself_is_refused(model: dict[str, Any]) -> None:
    """Catches an exception of the library, or a panic of its Rust, that only its use brings to light."""
    tokenizer = TokenizerFile("x.json", content=json.dumps({"version": "1.0", "added_tokens": [], "model": model}))
    with pytest.raises(UserError, match=r"^tokenizer\.path: x\.json "):
        _ = tokenizer.vocab_size, tokenizer.encode("zz")
