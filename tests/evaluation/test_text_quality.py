"""The callback that continues test texts and compares the continuations with the real ones."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dbl.denoising.decoding import Decoding
from dbl.evaluation.callbacks import text_quality
from dbl.evaluation.callbacks.text_quality import TextQuality
from dbl.evaluation.scoring import TextScore
from dbl.evaluation.text_metrics import distinct_n, unigram_entropy, words
from dbl.utils.errors import UserError

NUM_SEQUENCES, LENGTH = 61, 13  # T is 12
SHORT = 7  # of the sequences, of 9 tokens each
LETTERS = "a b cd"


class Tokenizer:
    def decode(self, ids: Tensor) -> str:
        return "".join(LETTERS[number] for number in ids.tolist())


class Texts(L.LightningDataModule):
    """Random letters; the first seven sequences are short."""

    tokenizer = Tokenizer()

    def split(self, name: str) -> range:
        assert name == "test"
        return range(NUM_SEQUENCES)

    def batch(self, split: str, indices: Tensor) -> dict[str, Tensor]:
        assert split == "test"
        draw = torch.Generator().manual_seed(0)
        tokens = torch.randint(len(LETTERS), (NUM_SEQUENCES, LENGTH), generator=draw)[indices]
        tokens[:, 9:][indices < SHORT] = -100
        return {"tokens": tokens}

    def test_dataloader(self) -> DataLoader[Any]:
        return DataLoader(range(2))  # type: ignore[arg-type]


class Generator:
    """The last letter of the prompt and one from the number of the text, by turns."""

    def __init__(self, calls: list[Any]) -> None:
        self.calls = calls

    def generate(self, prompts: Tensor, num_tokens: int, indices: Tensor) -> Tensor:
        assert prompts.dtype == torch.int64
        self.calls.append(len(prompts))
        tokens = prompts[:, -1:].repeat(1, num_tokens)
        tokens[:, 1::2] = indices[:, None] % len(LETTERS)
        return tokens


class Plain(L.LightningModule):
    def test_step(self, batch: Tensor) -> None:
        pass


class Module(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []

    def text_generator(self, decoding: Decoding, num_steps: int | None, seed: int) -> Generator:
        self.calls.append((decoding, num_steps, seed))
        return Generator(self.calls)


class Judge:
    """A scoring model that gives 2 nats to each word."""

    identity = "judge@1"

    def nats(self, texts: list[str]) -> TextScore:
        num = sum(len(text.split()) for text in texts)
        return TextScore(2.0 * num, num, sum(map(len, texts)))

    def features(self, texts: list[str]) -> np.ndarray:
        assert all(texts)
        return np.array([[len(text.split()), text.count("a"), 1] for text in texts], dtype=np.float32)


def run_test(callback: TextQuality, module: L.LightningModule, data: L.LightningDataModule) -> dict[str, float]:
    """What `Trainer.test` logs."""
    loop = L.Trainer(
        accelerator="cpu",
        logger=False,
        callbacks=[callback],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    (logged,) = loop.test(module, datamodule=data, verbose=False)
    return dict(logged)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The scoring models that were opened, with their devices; each is a `Judge`."""
    found: list[tuple[str, str]] = []

    def open_judge(name: str, device: torch.device | str = "cpu") -> Judge:
        found.append((name, str(device)))
        return Judge()

    monkeypatch.setattr(text_quality, "open_scoring_model", open_judge)
    return found


def expected(texts: list[str]) -> dict[str, float]:
    parts = [words(text) for text in texts]
    num_words, num_bytes = sum(map(len, parts)), sum(map(len, texts))
    return {
        "distinct_2": distinct_n(parts, 2),
        "unigram_entropy": unigram_entropy(parts),
        "gen_ppl": math.exp(2),
        "gen_bpb": 2 * num_words / num_bytes / math.log(2),
    }


def test_a_test_logs_and_keeps_the_result(opened: list[tuple[str, str]]) -> None:
    """Catches short texts, texts at the beginning only, another continuation, and settings that do not arrive."""
    callback = TextQuality(
        num_texts=9,
        num_tokens=7,
        prompt_tokens=4,
        batch_size=4,
        scoring_model="judge",
        temperature=0.5,
        top_k=3,
        num_steps=6,
    )
    module, data = Module(), Texts()
    logged = run_test(callback, module, data)
    assert module.calls == [(Decoding(0.5, 3, 1.0), 6, 0), 4, 4, 1]
    assert opened == [("judge", "cpu")]

    indices = SHORT + torch.arange(9) * (NUM_SEQUENCES - SHORT) // 9
    tokens = data.batch("test", indices)["tokens"]
    generated = Generator([]).generate(tokens[:, :4], 7, indices)
    texts = [data.tokenizer.decode(ids) for ids in generated]
    result = callback.result
    assert result is not None
    assert json.loads(json.dumps(result)) == result
    assert result["metrics"] == pytest.approx(expected(texts))
    assert result["real"] == pytest.approx(expected([data.tokenizer.decode(ids) for ids in tokens[:, 4:11]]))
    assert result["metrics"] != result["real"]
    assert logged == pytest.approx({f"test/{name}": value for name, value in result["metrics"].items()})
    assert result["texts"] == [
        {"prompt": data.tokenizer.decode(ids), "generated": text}
        for ids, text in zip(tokens[:4, :4], texts[:4], strict=True)
    ]
    settings = {key: value for key, value in result.items() if key not in ("metrics", "real", "texts")}
    assert settings == {
        "num_texts": 9,
        "num_tokens": 7,
        "prompt_tokens": 4,
        "temperature": 0.5,
        "top_k": 3,
        "top_p": 1.0,
        "num_steps": 6,
        "seed": 0,
        "mauve_values": [],
        "mauve_standard_deviation": None,
        "scoring_model": "judge@1",
    }


def test_texts_as_long_as_asked_are_not_short(opened: list[tuple[str, str]]) -> None:
    """Catches a limit that is off by one, and padding behind what is needed that counts."""
    callback = TextQuality(num_texts=NUM_SEQUENCES, num_tokens=5, prompt_tokens=4)
    run_test(callback, Module(), Texts())
    assert callback.result is not None
    with pytest.raises(UserError, match=f"only {NUM_SEQUENCES - SHORT} test texts have 10 tokens"):
        run_test(TextQuality(num_texts=NUM_SEQUENCES, num_tokens=6, prompt_tokens=4), Module(), Texts())


def test_reading_in_parts_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches indices that start anew in each part of the test split."""
    callback, results = TextQuality(num_texts=5, num_tokens=7, prompt_tokens=4), []
    for size in (4096, 8):
        monkeypatch.setattr(text_quality, "_READ_AT_ONCE", size)
        run_test(callback, Module(), Texts())
        results.append(callback.result)
    assert results[0] == results[1]


def test_without_a_scoring_model_there_is_no_perplexity(opened: list[tuple[str, str]]) -> None:
    """Catches a scoring model that is opened unasked."""
    callback = TextQuality(num_texts=3, num_tokens=4, prompt_tokens=2)
    logged = run_test(callback, Module(), Texts())
    assert opened == []
    assert set(logged) == {"test/distinct_2", "test/unigram_entropy"}
    assert callback.result is not None
    assert callback.result["scoring_model"] is None
    assert callback.result["mauve_values"] == []
    assert callback.result["mauve_standard_deviation"] is None


def test_mauve_compares_real_with_generated(opened: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches sides that are exchanged, empty texts that have no features, and a seed that does not arrive."""
    given: list[Any] = []
    monkeypatch.setattr(text_quality, "mauve_scores", lambda *arguments: given.append(arguments) or [0.25, 0.5, 0.75])

    class SomeEmpty(Tokenizer):
        def decode(self, ids: Tensor) -> str:
            return "" if len(set(ids.tolist())) == 1 else super().decode(ids)

    data = Texts()
    data.tokenizer = SomeEmpty()
    callback = TextQuality(num_texts=30, num_tokens=7, prompt_tokens=4, scoring_model="judge", mauve=True, seed=5)
    assert run_test(callback, Module(), data)["test/mauve"] == 0.5
    assert callback.result is not None
    assert callback.result["mauve_values"] == [0.25, 0.5, 0.75]
    assert callback.result["mauve_standard_deviation"] == 0.25
    ((real, generated, seed),) = given
    assert seed == 5
    assert len(real) == 30
    assert 20 < len(generated) < 30
    assert "mauve" not in callback.result["real"]


def test_mauve_of_the_package(opened: list[tuple[str, str]]) -> None:
    """Catches features that mauve-text does not take."""
    pytest.importorskip("mauve")
    callback = TextQuality(num_texts=30, num_tokens=7, prompt_tokens=4, scoring_model="judge", mauve=True)
    assert 0 < run_test(callback, Module(), Texts())["test/mauve"] <= 1


def test_the_generation_runs_in_the_precision_of_the_trainer() -> None:
    """Catches a network that generates in another precision than it is tested in."""
    inside: list[bool] = []

    @contextmanager
    def context() -> Iterator[None]:
        inside.append(True)
        yield
        inside.pop()

    class Observed(Module):
        def text_generator(self, decoding: Decoding, num_steps: int | None, seed: int) -> Generator:
            assert inside
            assert not torch.is_grad_enabled()
            return super().text_generator(decoding, num_steps, seed)

    loop = L.Trainer(accelerator="cpu", logger=False)
    loop.precision_plugin.test_step_context = context  # type: ignore[method-assign,assignment]
    loop.datamodule = Texts()  # type: ignore[attr-defined]
    module, callback = Observed(), TextQuality(num_texts=3, num_tokens=4, prompt_tokens=2)
    module.log = lambda *arguments: None  # type: ignore[method-assign,assignment,misc]
    callback.on_test_epoch_end(loop, module)
    assert callback.result is not None
    assert inside == []


@pytest.mark.parametrize(("num_texts", "module"), [(0, Module()), (5, Plain())], ids=["off", "no generator"])
def test_other_modules_are_left_alone(num_texts: int, module: Plain, opened: list[tuple[str, str]]) -> None:
    """Catches generation unasked, and a fault where a model makes no texts."""
    callback = TextQuality(num_texts=num_texts, num_tokens=4, prompt_tokens=2, scoring_model="judge")
    assert run_test(callback, module, Texts()) == {}
    assert callback.result is None
    assert opened == []


def test_data_without_a_tokenizer_are_refused() -> None:
    """Catches an AttributeError in place of one clear line."""

    class Images(L.LightningDataModule):
        def test_dataloader(self) -> DataLoader[Any]:
            return DataLoader(range(2))  # type: ignore[arg-type]

    with pytest.raises(UserError, match="TextData"):
        run_test(TextQuality(num_texts=1), Module(), Images())


def test_more_tokens_than_a_sequence_has_are_refused() -> None:
    """Catches positions that the network has never seen; the last token of a sequence is an answer only."""
    with pytest.raises(UserError, match=r"prompt_tokens \(6\) and num_tokens \(7\) together exceed the 12 tokens"):
        run_test(TextQuality(num_texts=1, num_tokens=7, prompt_tokens=6), Module(), Texts())
    callback = TextQuality(num_texts=1, num_tokens=6, prompt_tokens=6)
    run_test(callback, Module(), Texts())
    assert callback.result is not None


def test_what_the_scoring_model_cannot_read_is_found_before_the_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches hours of generation that end in a fault which was there at the beginning."""

    class Refusing(Judge):
        def nats(self, texts: list[str]) -> TextScore:
            raise UserError("scoring_model")

    monkeypatch.setattr(text_quality, "open_scoring_model", lambda name, device: Refusing())
    module = Module()
    with pytest.raises(UserError, match="scoring_model"):
        run_test(TextQuality(num_texts=3, num_tokens=4, prompt_tokens=2, scoring_model="judge"), module, Texts())
    assert module.calls == []


def test_prepare_opens_the_scoring_model_if_it_will_be_needed(
    opened: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a missing scoring model or package that is found after the training, and a download for nothing."""
    checked: list[bool] = []
    monkeypatch.setattr(text_quality, "check_mauve", lambda: checked.append(True))
    few = {"prompt_tokens": 4, "num_tokens": 4}
    TextQuality(num_texts=0, scoring_model="judge", mauve=True).prepare(Texts())
    TextQuality(num_texts=5, **few).prepare(Texts())  # type: ignore[arg-type]
    TextQuality(num_texts=5, scoring_model="judge").prepare(object())
    assert opened == []
    TextQuality(num_texts=5, scoring_model="judge", **few).prepare(Texts())  # type: ignore[arg-type]
    assert opened == [("judge", "cpu")]
    assert checked == []
    TextQuality(num_texts=20, scoring_model="judge", mauve=True, **few).prepare(Texts())  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"together exceed the 12 tokens"):
        TextQuality(num_texts=5, prompt_tokens=9, num_tokens=4).prepare(Texts())
    with pytest.raises(UserError, match=r"num_texts \(100\): only 61"):
        TextQuality(num_texts=100, **few).prepare(Texts())  # type: ignore[arg-type]
    assert checked == [True]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"num_texts": -1}, r"num_texts \(-1\) must be a whole number from 0"),
        ({"num_tokens": 0}, r"num_tokens \(0\)"),
        ({"prompt_tokens": 0}, r"prompt_tokens \(0\)"),
        ({"batch_size": 0}, r"batch_size \(0\)"),
        ({"num_steps": 0}, r"num_steps \(0\)"),
        ({"num_texts": 20, "mauve": True}, "text_quality.scoring_model"),
        ({"num_texts": 19, "mauve": True, "scoring_model": "judge"}, "at least 20 for MAUVE"),
        ({"temperature": -1.0}, "temperature"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, Any], match: str) -> None:
    """Catches settings that would fail after the training, or mean nothing."""
    with pytest.raises(UserError, match=match):
        TextQuality(**change)
