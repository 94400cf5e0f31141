"""Scoring models: what they say about a text, compared with plain loops over its tokens."""

import json
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dbl.evaluation.scoring.model
from dbl.evaluation.scoring import (
    HuggingFaceScoringModel,
    RunScoringModel,
    ScoringModel,
    TextScore,
    open_scoring_model,
    windows,
)
from dbl.utils.errors import UserError

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

CONTEXT = 12
TEXTS = ["to be", "or not to be, that is the question", "é", "x", "", "naïve — wörds über"]
ALPHABET = "abcdé "


def save_tokenizer(folder: Path, start: str | None) -> None:
    """The 256 bytes as letters, `th` and the two bytes of `é` as one token, and a start token if asked for."""
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: place for place, token in enumerate([*letters, "th", "Ã©"])}
    library = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[("t", "h"), ("Ã", "©")]))
    library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = tokenizers.decoders.ByteLevel()
    transformers.PreTrainedTokenizerFast(tokenizer_object=library, bos_token=start).save_pretrained(folder)


def save_gpt2(folder: Path, start: str | None = "<start>", seed: int = 0) -> str:
    save_tokenizer(folder, start)
    config = transformers.GPT2Config(
        vocab_size=260,
        n_positions=CONTEXT,
        n_embd=6,
        n_layer=2,
        n_head=3,
        initializer_range=0.5,
        bos_token_id=258,
        eos_token_id=258,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def with_start(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_gpt2(tmp_path_factory.mktemp("gpt2_start"))


@pytest.fixture(scope="module")
def without_start(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_gpt2(tmp_path_factory.mktemp("gpt2"), start=None)


def plain_nats(scoring_model: ScoringModel, tokens: list[int], first: int) -> float:
    """Of the tokens from `first` on, one call for each token, in windows that move by half of the context."""
    total = 0.0
    for place in range(first, len(tokens)):
        window = (
            0
            if place <= scoring_model.context
            else math.ceil((place - scoring_model.context) / (scoring_model.context // 2))
        )
        stop = min(scoring_model.context + window * (scoring_model.context // 2), len(tokens) - 1)
        before = tokens[max(stop - scoring_model.context, 0) : place]
        total -= scoring_model.logits(torch.tensor([before])).log_softmax(-1)[0, -1, tokens[place]].item()
    return total


def test_nats_are_those_of_a_plain_loop_with_a_start_token(with_start: str) -> None:
    """Catches a token that is missed or scored twice, a shift by one, and padding that changes a score."""
    scoring_model = HuggingFaceScoringModel(with_start)
    encoded = [scoring_model.encode(text).tokens.tolist() for text in TEXTS]
    assert scoring_model.start_token == 258
    score = scoring_model.nats(TEXTS)
    assert score.nats == pytest.approx(
        sum(plain_nats(scoring_model, [258, *tokens], 1) for tokens in encoded), rel=1e-5
    )
    assert score.tokens == sum(map(len, encoded))
    assert score.bytes == sum(len(text.encode()) for text in TEXTS)


def test_without_a_start_token_first_tokens_are_given(without_start: str) -> None:
    """Catches bytes of first tokens that are counted though they were not scored."""
    scoring_model = HuggingFaceScoringModel(without_start)
    assert scoring_model.start_token is None
    encoded = [scoring_model.encode(text).tokens.tolist() for text in TEXTS]
    score = scoring_model.nats(TEXTS)
    assert score.nats == pytest.approx(sum(plain_nats(scoring_model, tokens, 1) for tokens in encoded), rel=1e-5)
    assert score.tokens == sum(max(len(tokens) - 1, 0) for tokens in encoded)
    # All first tokens are single letters but that of "é", a token of two bytes, and "" has none.
    assert score.bytes == sum(len(text.encode()) for text in TEXTS) - 2 - 4
    assert scoring_model.nats(["the é"]).bytes == 4  # " é" and "e": "th" is one token


def test_a_first_character_of_several_tokens_is_given_whole(without_start: str) -> None:
    """Catches bytes that do not belong to the scored tokens where a token ends inside a character."""
    scoring_model = HuggingFaceScoringModel(without_start)
    assert len(scoring_model.encode("ü").tokens) == 2
    score = scoring_model.nats(["über"])
    assert (score.tokens, score.bytes) == (3, 3)
    assert score.nats == pytest.approx(
        plain_nats(scoring_model, scoring_model.encode("über").tokens.tolist(), 2), rel=1e-5
    )


@pytest.mark.parametrize("context", [1, 2, 5, 6, 40])
@pytest.mark.parametrize("num_given", [1, 4, 9])
def test_windows_score_each_token_once(context: int, num_given: int) -> None:
    """Catches windows that overlap in what they score, leave a token out, or are longer than the context."""
    tokens = torch.arange(100, 123)
    scored: list[int] = []
    for inputs, labels in windows(tokens, num_given, context):
        assert 1 <= len(inputs) == len(labels) <= context
        kept = labels != -100
        assert torch.equal(labels[kept], inputs[kept] + 1)
        scored += labels[kept].tolist()
        places = kept.nonzero().flatten()
        # Half of the context stands before each scored token, if the text has as much before it.
        assert all(place + 1 >= min(context / 2, inputs[place] - 99) for place in places)
    assert scored == tokens[num_given:].tolist()


@pytest.mark.parametrize("tokens", [[], [7]])
def test_a_text_without_a_second_token_has_no_window(tokens: list[int]) -> None:
    """Catches a network that is called with no tokens."""
    assert list(windows(torch.tensor(tokens, dtype=torch.long), 1, 4)) == []


def test_the_size_of_a_pass_changes_nothing(with_start: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches texts that lose their order or see each other in a batch."""
    scoring_model = HuggingFaceScoringModel(with_start)
    texts = [text for text in TEXTS if text]
    nats, features = scoring_model.nats(texts), scoring_model.features(texts)
    monkeypatch.setattr(dbl.evaluation.scoring.model, "_TOKENS_PER_PASS", 1)
    alone = scoring_model.nats(texts)
    assert alone.nats == pytest.approx(nats.nats, rel=1e-6)
    assert (alone.tokens, alone.bytes) == (nats.tokens, nats.bytes)
    np.testing.assert_allclose(scoring_model.features(texts), features, rtol=1e-4, atol=1e-5)


def test_features_are_those_of_mauve_text(with_start: str) -> None:
    """Catches a start token, a padded place or another layer than the package that MAUVE is known by takes."""
    pytest.importorskip("mauve")
    from mauve.utils import featurize_tokens_from_model, get_model, get_tokenizer

    texts = [text for text in TEXTS if text]
    tokenizer = get_tokenizer(with_start)
    tokens = [tokenizer.encode(text, return_tensors="pt", truncation=True, max_length=CONTEXT) for text in texts]
    tokenizer.eos_token = "<start>"  # its loader asks for a token to fill with
    expected = featurize_tokens_from_model(get_model(with_start, tokenizer, -1), tokens, batch_size=2)
    features = HuggingFaceScoringModel(with_start).features(texts)
    assert features.dtype == np.float32
    assert features.shape == (len(texts), 6)
    np.testing.assert_allclose(features, expected.numpy(), rtol=1e-4, atol=1e-5)


def test_an_empty_text_has_no_features(with_start: str) -> None:
    """Catches the state of a padded place in its stead."""
    for texts in (["a", ""], []):
        with pytest.raises(UserError, match="empty text"):
            HuggingFaceScoringModel(with_start).features(texts)


def test_special_tokens_in_a_text_are_read_as_letters(with_start: str) -> None:
    """Catches a generated text that starts itself anew, and gains a better score."""
    scoring_model = HuggingFaceScoringModel(with_start)
    assert scoring_model.encode("<start>").tokens.tolist() == [
        token for letter in "<start>" for token in scoring_model.encode(letter).tokens.tolist()
    ]


def test_the_identity_follows_the_files(with_start: str, tmp_path: Path) -> None:
    """Catches two scoring models that a report would take for one, and one that it would take for two."""
    first = HuggingFaceScoringModel(with_start).identity
    assert first.startswith(with_start)
    digest = first.rpartition("@")[2]
    same, other = (HuggingFaceScoringModel(save_gpt2(tmp_path / str(seed), seed=seed)).identity for seed in (0, 1))
    assert same.rpartition("@")[2] == digest
    assert other.rpartition("@")[2] != digest


def test_a_character_outside_of_the_vocabulary_is_refused(tmp_path: Path) -> None:
    """Catches a token for unknown text that is scored as if it were the text."""
    save_gpt2(tmp_path)
    library = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    library.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=library, unk_token="?").save_pretrained(tmp_path)
    scoring_model = HuggingFaceScoringModel(str(tmp_path))
    assert scoring_model.nats(["a b a"]).tokens == 2
    with pytest.raises(UserError, match=f"scoring model {tmp_path}: it does not know 'c', 'dé'"):
        scoring_model.nats(["a b", "a dé c b"])


def test_a_network_that_sees_later_tokens_is_refused(tmp_path: Path) -> None:
    """Catches a masked language model, whose perplexity would be that of tokens that it is told."""
    save_tokenizer(tmp_path, start=None)
    sizes = {"hidden_size": 6, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 5}
    config = transformers.BertConfig(vocab_size=260, max_position_embeddings=9, initializer_range=0.5, **sizes)
    transformers.BertLMHeadModel(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="sees later tokens"):
        HuggingFaceScoringModel(str(tmp_path))


def test_files_without_all_weights_are_refused(tmp_path: Path) -> None:
    """Catches weights that are silently random."""
    from safetensors.torch import load_file, save_file

    save_gpt2(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["transformer.h.1.attn.c_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lack weights .* such as transformer\.h\.1\.attn\.c_proj\.weight"):
        HuggingFaceScoringModel(str(tmp_path))


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    """Catches a scoring model from elsewhere whose weights are unpickled."""
    from safetensors.torch import load_file

    save_gpt2(tmp_path)
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"it cannot be loaded .*safetensors"):
        HuggingFaceScoringModel(str(tmp_path))


def test_likelihoods_that_are_not_finite_are_refused(with_start: str) -> None:
    """Catches a perplexity that JSON cannot hold."""
    scoring_model = HuggingFaceScoringModel(with_start)
    scoring_model._network.lm_head.weight.fill_(math.nan)
    with pytest.raises(UserError, match="not finite"):
        scoring_model.nats(["to be"])


def test_what_cannot_be_loaded_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a traceback of transformers, or its message of several lines, and a download where that is forbidden."""
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr("huggingface_hub.is_offline_mode", lambda: True)
    for name in (str(tmp_path), "nobody/no-such-model", str(tmp_path / "absent")):
        with pytest.raises(UserError, match="cannot be loaded") as caught:
            open_scoring_model(name)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("offline", [True, False])
def test_the_hub_is_asked_unless_it_is_forbidden(offline: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches downloads with HF_HUB_OFFLINE, none without, and code of the hub that is run."""
    asked: dict[str, Any] = {}

    def from_pretrained(name: str, **options: Any) -> None:
        asked.update(options)
        raise OSError("no")

    monkeypatch.setattr("huggingface_hub.is_offline_mode", lambda: offline)
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", from_pretrained)
    with pytest.raises(UserError, match="cannot be loaded"):
        HuggingFaceScoringModel("gpt2-large")
    assert asked == {"local_files_only": offline, "trust_remote_code": False}


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches an ImportError in place of one clear line."""
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r'pip install -e "\.\[text\]"'):
        HuggingFaceScoringModel("gpt2")


def test_ratios_are_of_sums() -> None:
    """Catches nats in place of bits, tokens in place of bytes, and a division by 0."""
    score = TextScore(nats=12 * math.log(2), tokens=4, bytes=6)
    assert score.perplexity == pytest.approx(8)
    assert score.bits_per_byte == pytest.approx(2)
    for name in ("perplexity", "bits_per_byte"):
        with pytest.raises(UserError, match="no token was scored"):
            getattr(TextScore(0.0, 0, 0), name)


class Letters:
    """A tokenizer of a few letters; with `capitals` it reads capitals as small ones."""

    end_id = None
    identity = "letters"
    byte_lengths = torch.tensor([len(letter.encode()) for letter in ALPHABET])

    def __init__(self, capitals: bool = False) -> None:
        self.capitals = capitals

    def encode(self, text: str) -> Tensor:
        text = text.lower() if self.capitals else text
        if set(text) - set(ALPHABET):
            raise UserError("text: the tokenizer has no token")
        return torch.tensor([ALPHABET.index(letter) for letter in text], dtype=torch.long)

    def decode(self, ids: Tensor) -> str:
        return "".join(ALPHABET[number] for number in ids)


class Network(nn.Module):
    """Next-token scores from the sum of all earlier embeddings."""

    seq_len = 5

    def __init__(self) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.table = nn.Parameter(torch.randn(len(ALPHABET), 3, generator=draw))
        self.scale = nn.Parameter(torch.tensor(1.5))

    def features(self, tokens: Tensor) -> Tensor:
        return self.scale * self.table[tokens].cumsum(1)

    def logits(self, tokens: Tensor) -> Tensor:
        assert tokens.shape[1] <= self.seq_len
        assert not self.training
        return self.features(tokens) @ self.table.T


@pytest.fixture
def run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "contract.json").write_text(json.dumps({}))
    module = ModuleType("causal_lm")
    module.load_causal_lm = lambda path: (Network(), Letters())  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dbl.training.baselines.causal_lm", module)
    return str(tmp_path)


def test_a_run_scores_like_a_plain_loop(run_folder: str) -> None:
    """Catches a run that is sought at Hugging Face, a first letter that is scored, and a state of a padded place."""
    scoring_model = open_scoring_model(run_folder)
    assert isinstance(scoring_model, RunScoringModel)
    texts = ["abé d", "é", "", "bad cab bad éa"]
    score = scoring_model.nats(texts)
    encoded = [Letters().encode(text).tolist() for text in texts]
    assert score.nats == pytest.approx(sum(plain_nats(scoring_model, tokens, 1) for tokens in encoded), rel=1e-5)
    assert (score.tokens, score.bytes) == (4 + 13, 5 + 14)
    last = Network().features(torch.tensor([encoded[0]]))[0, -1]
    np.testing.assert_allclose(scoring_model.features(["bad", "abé d"])[1], last.detach().numpy(), rtol=1e-5)


def test_a_run_refuses_what_it_does_not_know(run_folder: str) -> None:
    """Catches a number for another text than the one that was given."""
    scoring_model = RunScoringModel(run_folder)
    with pytest.raises(UserError, match=f"scoring model {run_folder}: it does not know '!', 'x', which"):
        scoring_model.nats(["bad", "bax!"])
    scoring_model._tokenizer = Letters(capitals=True)
    with pytest.raises(UserError, match="reads 'Bad' as 'bad'"):
        scoring_model.nats(["Bad"])


def test_the_identity_of_a_run_follows_weights_and_tokenizer(run_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a run that was trained anew and is taken for the old one."""
    first = RunScoringModel(run_folder).identity
    assert RunScoringModel(run_folder).identity == first
    other = Network()
    other.scale.data += 1e-3
    monkeypatch.setattr(
        sys.modules["dbl.training.baselines.causal_lm"], "load_causal_lm", lambda path: (other, Letters())
    )
    second = RunScoringModel(run_folder).identity
    monkeypatch.setattr(Letters, "identity", "others")
    assert len({first, second, RunScoringModel(run_folder).identity}) == 3
