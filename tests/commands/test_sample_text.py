"""`dbl sample` on runs of text: continuations, templates, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from toy_text import text_stack

from dbl.commands.main import main
from dbl.data import Bytes, Characters
from dbl.denoising.decoding import Decoding
from dbl.inference.writing import Writer
from dbl.utils.errors import UserError

from .text_runs import ALPHABET, KINDS, compared


@pytest.fixture
def ar(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(compared("pydoc_ar", tmp_path_factory))


@pytest.fixture
def mdm(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(compared("pydoc_mdm", tmp_path_factory))


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["dbl"])


def sample(run: str, *options: str) -> int:
    return main(["sample", run, "--device=cpu", *options])


def written(capsys: pytest.CaptureFixture[str], run: str, *options: str) -> str:
    capsys.readouterr()
    assert sample(run, *options) == 0
    return capsys.readouterr().out.removesuffix("\n")


@pytest.mark.parametrize("baseline", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_is_continued(
    kind: str, baseline: bool, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a text that is not shown, shown without its prompt, or of another length than asked for."""
    run, options = str(compared(kind, tmp_path_factory)), ["--prompt=The ", "--num_tokens=9", f"--baseline={baseline}"]
    text = written(capsys, run, *options)
    assert text.startswith("The ")
    assert len(text) == 13
    assert set(text) <= set(ALPHABET)
    assert written(capsys, run, *options) == text
    assert written(capsys, run, *options, "--seed=1") != text
    other_side = [*options[:2], f"--baseline={not baseline}"]
    assert written(capsys, run, *other_side) != text


@pytest.mark.parametrize("kind", KINDS)
def test_text_i_is_the_same_for_any_number_of_texts(
    kind: str, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches one text repeated, too few texts, and texts that depend on the others; the file has what is shown."""
    run, options = str(compared(kind, tmp_path_factory)), ["--prompt=a", "--num_tokens=6"]
    one = written(capsys, run, *options)
    assert sample(run, *options, "--num_texts=3", "--output=texts.txt") == 0
    three = Path("texts.txt").read_text()
    assert capsys.readouterr().out == three + "texts: texts.txt\n"
    texts = three.removesuffix("\n").split("\n---\n")
    assert [len(text) for text in texts] == [7, 7, 7]
    assert texts[0] == one
    assert len(set(texts)) == 3


def test_options_of_decoding_and_sampler_are_used(ar: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches options that are read nowhere."""
    base = ["--prompt=The", "--num_tokens=30"]
    plain = written(capsys, ar, *base)
    assert len(set(written(capsys, ar, *base, "--top_k=2")[3:])) < len(set(plain[3:]))
    for option in ("--temperature=0.2", "--top_p=0.3", "--sampler.num_steps=3", "--sampler.method=heun"):
        assert written(capsys, ar, *base, option) != plain
    assert written(capsys, ar, *base, "--sampler.num_steps=8", "--sampler.method=euler") == plain  # those of the config


def test_a_text_ends_at_the_stop_token(ar: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a stop that is read nowhere; this tokenizer has no end of its own."""
    plain = written(capsys, ar, "--prompt=The", "--num_tokens=30")
    stop = plain[12]
    stopped = written(capsys, ar, "--prompt=The", "--num_tokens=30", f"--stop={stop}")
    assert stopped == plain[: plain.index(stop, 3) + 1]


@pytest.mark.parametrize("prompt", ["#", "null", "1.50", "[a", "a: b", "- x", "'q'", " a "])
def test_a_prompt_is_taken_letter_by_letter(prompt: str, ar: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a prompt that is read as YAML: a number that is rounded, or a comment that vanishes."""
    assert written(capsys, ar, f"--prompt={prompt}", "--num_tokens=1", "--sampler.num_steps=2")[:-1] == prompt


def test_a_long_prompt_and_a_long_text_go_beyond_the_context(ar: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a crash beyond T = 16 tokens, and a prompt that is cut without a word."""
    assert sample(ar, "--prompt=A prompt of more than sixteen", "--num_tokens=40") == 0
    caught = capsys.readouterr()
    assert "its last 16 tokens are read" in caught.err
    assert len(caught.out) == 29 + 40 + 1
    assert len(written(capsys, ar)) == 201  # after a new line, where a document has no beginning


def test_masked_text_fills_its_sequence_by_default(mdm: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a default that asks for more than the network can hold."""
    assert len(written(capsys, mdm, "--prompt=abc")) == 16


def test_gaps_of_a_template_are_filled(mdm: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches given characters that change, gaps at the ends that are lost, and another character for gaps ignored."""
    text = written(capsys, mdm, "--template=_he __ing_")
    assert len(text) == 10
    assert text[1:4] + text[6:9] == "he ing"
    assert written(capsys, mdm, "--template=_he __ing_") == text
    assert written(capsys, mdm, "--template=#_b", "--hidden=#").endswith("_b")
    several = written(capsys, mdm, "--template=a____b", "--num_texts=4").split("\n---\n")
    assert len(set(several)) > 1
    assert {(text[0], text[-1], len(text)) for text in several} == {("a", "b", 6)}


def test_errors_of_sampling_are_one_line(ar: str, mdm: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a traceback, another exit code, and a message that does not name the option."""
    errors = [
        (ar, ["--prompt=é and ☃"], "the tokenizer has no token for 'é', '☃'"),
        (ar, ["--template=a_b"], "template is for masked text"),
        (ar, ["--stop=ab"], "stop 'ab' is 2 tokens"),
        (ar, ["--stop=é"], "the tokenizer has no token for 'é'"),
        (ar, ["--num_tokens=0"], "--num_tokens (0)"),
        (ar, ["--num_texts=0"], "--num_texts (0)"),
        (ar, ["--temperature=0"], "temperature (0"),
        (ar, ["--device=x"], "--device x"),
        (ar, ["--sampler.method=ancestral"], "sampler.method"),
        (mdm, ["--template=ab"], "template must contain"),
        (mdm, ["--template=a_b", "--hidden=__"], "template must contain"),
        (mdm, ["--template=a_b", "--prompt=a"], "--template goes without --prompt"),
        (mdm, ["--template=é_"], "the tokenizer has no token for 'é'"),
        (mdm, ["--template=a________________b"], "18 tokens of prompt and answer do not fit the 16"),
        (mdm, ["--prompt=abc", "--num_tokens=14"], "17 tokens of prompt and answer do not fit the 16"),
    ]
    for run, options, named in errors:
        assert sample(run, *options) == 2, options
        lines = capsys.readouterr().err.splitlines()
        assert len([line for line in lines if line.startswith("dbl: ")]) == 1, options
        assert named in lines[-1]


def test_another_tokenizer_is_refused(ar: str, mdm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches tokens that are read with another alphabet: wrong text, without a word."""
    run = tmp_path / "run"
    shutil.copytree(ar, run)
    plain = json.loads((run / "tokenizer.json").read_text())
    damaged = {**plain, "init_args": {**plain["init_args"], "alphabet": "abc"}}
    (run / "tokenizer.json").write_text(json.dumps(damaged))
    assert sample(str(run), "--prompt=a") == 2
    assert "was changed after it was written" in capsys.readouterr().err
    Characters("abc").save(run / "tokenizer.json")
    assert sample(str(run), "--prompt=a") == 2
    assert "okenizer that this run was trained with: restore" in capsys.readouterr().err
    (run / "tokenizer.json").unlink()
    assert sample(str(run), "--prompt=a") == 2
    assert "copy it from the machine on which the run was trained" in capsys.readouterr().err


def test_a_tokenizer_without_a_beginning_needs_a_prompt() -> None:
    """Catches a default prompt that the alphabet does not have, in a message about a character no one gave."""
    generator, cpu = text_stack("clean").text_generator(Decoding()), torch.device("cpu")
    with pytest.raises(UserError, match="prompt: give one"):
        Writer(generator, Characters("text8"), cpu).prompt("")
    assert Writer(generator, Bytes(), cpu).prompt("").tolist() == [[0]]
    assert Writer(generator, Characters("a\n"), cpu).prompt("").tolist() == [[1]]


def test_a_baseline_that_was_not_trained_is_named(ar: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a message about files that the user never heard of."""
    shutil.copytree(ar, tmp_path / "run", ignore=shutil.ignore_patterns("baseline"))
    assert sample(str(tmp_path / "run"), "--baseline=true") == 2
    assert "dbl compare" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["pydoc_ar", "pydoc_mdm"])
def test_a_text_ends_behind_its_stop_token(
    kind: str, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches stop tokens that fill the rest of a text, and a stop in the prompt that ends it."""
    run = str(compared(kind, tmp_path_factory))
    options = ["--prompt= e", "--num_tokens=12", "--num_texts=6", "--stop= "]
    texts = written(capsys, run, *options).split("\n---\n")
    assert len(texts) == 6
    for text in texts:
        assert text.startswith(" e")
        assert " " not in text[2:-1]
