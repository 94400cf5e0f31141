"""What every text gets from `TextData`: splits, sequences, facts, loaders."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer

import dbl.data.text.encode
import dbl.data.text.measure
from dbl.data import Bytes, Characters, PyDoc, TextData, TrainingOrder
from dbl.data.text.tokens import MappedTokens, document_sequences, smallest_type, stream_sequences
from dbl.utils.errors import UserError

LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Toy(TextData):
    """Documents given as lists."""

    def __init__(self, train=(LETTERS * 4,), validation=None, test=("zyxwvutsrqp",), **settings):
        base = {"seq_len": 5, "tokenizer": Characters(LETTERS), "batch_size": 2, "eval_batch_size": 2}
        super().__init__(**(base | settings))
        self.texts = {"train": train, "validation": validation, "test": test}
        self.loads = []

    def load(self, split):
        self.loads.append(split)
        return self.texts[split]


def sequences(data, split) -> torch.Tensor:
    return data.split(split)[torch.arange(len(data.split(split)))]


def predicted(tokens: torch.Tensor) -> list[int]:
    """All tokens that have another one before them in their sequence."""
    return [token for token in tokens[:, 1:].flatten().tolist() if token >= 0]


@pytest.mark.parametrize("num", [6, 7, 10, 11, 12, 50])
def test_stream_predicts_each_token_once(num):
    """Catches sequences that overlap by more or less than one token, and a lost or repeated last sequence."""
    tokens = np.arange(100, 100 + num, dtype=np.uint8)
    cut = stream_sequences(tokens, 2, num, seq_len=3)
    rows = cut[torch.arange(len(cut))]
    assert rows.dtype == torch.int64
    assert predicted(rows) == list(range(103, 103 + (num - 3) // 3 * 3))
    assert rows[1:, 0].tolist() == rows[:-1, -1].tolist()
    assert rows[0, 0] == 102


@pytest.mark.parametrize(("first", "end"), [(0, 25), (3, 25), (0, 17), (4, 5), (12, 25)])
def test_document_sequences_equal_a_plain_loop(first, end):
    """Catches sequences across documents, lost ends of documents, and padding at the wrong place."""
    ends = torch.tensor([4, 4, 5, 7, 15, 25])
    cut = document_sequences(np.arange(25, dtype=np.uint8), ends, first, end, seq_len=3)
    expected = []
    for document_first, document_end in zip([0, *ends.tolist()], ends.tolist(), strict=False):
        document = list(range(max(first, document_first), min(end, document_end)))
        for start in range(0, len(document) - 1, 3):
            row = document[start : start + 4]
            expected.append(row + [-100] * (4 - len(row)))
    assert cut[torch.arange(len(cut))].tolist() == expected


def test_every_token_of_documents_is_predicted_once():
    """Catches tokens that are left out or predicted twice, and an end token that is never predicted."""
    data = Toy(["abcdefgh", "x", "", "yz"], packing="document", tokenizer=Bytes(), validation_share=0)
    rows = sequences(data, "train")
    assert Counter(predicted(rows)) == Counter([*b"bcdefgh", 0, 0, *b"z", 0])
    assert rows[-1].tolist() == [*b"yz", 0, -100, -100, -100]


@pytest.mark.parametrize(
    ("packing", "tokenizer", "end"),
    [("document", Bytes(), Bytes().end_id), ("stream", Bytes(), None), ("document", Characters(), None)],
)
def test_the_facts_name_the_end_of_a_sequence(packing, tokenizer, end):
    """Catches a sampler of masked text that does not know whether text may stand behind the end of a document."""
    data = Toy(["abcdefgh" * 4, "hgfedcba"], packing=packing, tokenizer=tokenizer, validation_share=0.2)
    assert data.spec.end == end


def test_documents_are_separated_in_a_stream():
    """Catches documents that run into each other, and ends that a tokenizer without end token does not have."""
    rows = sequences(Toy(["abc", "def", "ghijkl"], tokenizer=Bytes(), validation_share=0, seq_len=3), "train")
    assert rows.tolist() == [[*b"abc", 0], [0, *b"def"], [*b"f", 0, *b"gh"], [*b"hijk"]]
    rows = sequences(Toy(["abc", "def", "ghijkl"], validation_share=0, seq_len=3), "train")
    assert rows[0].tolist() == [0, 1, 2, 3]


def test_single_indices_in_any_order():
    """Catches rows in the order of the file instead of that of the indices."""
    cut = Toy().split("train")
    assert torch.equal(cut[torch.tensor([3, 0, 3])], torch.stack([cut[torch.tensor([i])][0] for i in (3, 0, 3)]))


def test_cuts_are_disjoint_and_at_the_end():
    """Catches validation and test tokens that are trained on, and cuts that are not the end of the text."""
    alphabet = "".join(map(chr, range(1000, 1100)))
    data = Toy([alphabet], test=None, tokenizer=Characters(alphabet), validation_share=0.2, test_share=0.3, seq_len=1)
    seen = [set(sequences(data, split).flatten().tolist()) for split in ("train", "validation", "test")]
    assert seen == [set(range(50)), set(range(50, 70)), set(range(70, 100))]
    for packing in ("stream", "document"):
        data = Toy(["abcdefghij" * 3] * 2, packing=packing, validation_share=0.5, seq_len=4)
        assert len(sequences(data, "validation")) == (7 if packing == "stream" else 8)


def test_own_splits_are_used_whole():
    """Catches a cut although the data set has a split of its own."""
    data = Toy(["abcdef" * 3], validation=["ghi"], test=["jkl"], seq_len=2, validation_share=0.5, test_share=0.4)
    assert len(data.split("train")) == 8
    assert data.tokenizer.decode(sequences(data, "validation")[0]) == "ghi"
    assert data.tokenizer.decode(sequences(data, "test")[0]) == "jkl"


def test_no_validation():
    """Catches a share of 0 that is an error, and a loader without batches."""
    data = Toy(validation_share=0)
    assert len(data.split("validation")) == 0
    assert data.val_dataloader() == []
    assert len(Toy().val_dataloader()) == 1


def test_splits_are_loaded_once():
    """Catches reading the files for every use."""
    data = Toy(tokenizer=Characters())
    for _ in range(2):
        _ = data.spec, data.split("train"), data.split("validation"), data.split("test")
    assert sorted(data.loads) == ["test", "train", "validation"]


def test_alphabet_comes_from_all_splits():
    """Catches test characters that cannot be encoded, and an alphabet whose order depends on hashing."""
    data = Toy(["bbbbabbbbb"], test=["ycybbb"], tokenizer=Characters(), seq_len=2)
    assert data.tokenizer == Characters("abcy")
    assert data.declared_spec.num_classes == data.spec.num_classes == 4
    limited = Toy(
        ["ab", "c", "def"], test=["xyzw"], tokenizer=Characters(), seq_len=1, max_tokens=3, validation_share=0
    )
    assert limited.tokenizer == Characters("abcwxyz")  # whole documents: they are encoded before they are cut


def test_planning_reads_no_text():
    """Catches a plan that needs the data although the tokenizer says the size of the vocabulary."""
    data = Toy()
    spec = data.declared_spec
    assert data.loads == []
    assert (spec.num_classes, spec.class_frequencies, spec.seq_len) == (26, (1 / 26,) * 26, 5)
    assert (spec.name, spec.tokenizer) == ("toy", Characters(LETTERS).identity)


def test_frequencies_equal_a_plain_count():
    """Catches frequencies that include validation or test, miss the added one, or are 0 for a token."""
    data = Toy(["aab" * 10 + "c" * 10], test=["zzzzzz"], validation_share=0.25)
    counts = Counter("aab" * 10)
    expected = [(counts[letter] + 1) / (30 + 26) for letter in LETTERS]
    assert data.spec.class_frequencies == pytest.approx(expected, rel=1e-12)
    assert sum(data.spec.class_frequencies) == pytest.approx(1)


def test_identity_follows_training_tokens_and_tokenizer():
    """Catches an identity that misses a changed token, cut, document, tokenizer or packing, or changes by itself."""
    identity = Toy().spec.identity
    assert Toy(seed=3, batch_size=1, test=["aaaaaaaaaaaa"]).spec.identity == identity
    changed = [
        Toy(["b" + LETTERS * 4]),
        Toy([LETTERS * 3 + LETTERS[::-1]]),
        Toy(validation_share=0.2),
        Toy([LETTERS] * 4),
        Toy(tokenizer=Characters(LETTERS[::-1])),
        Toy(packing="document"),
    ]
    assert len({identity, *(data.spec.identity for data in changed)}) == 7


def test_large_texts_are_measured_evenly(monkeypatch):
    """Catches a sample from the front only, and one that runs into the validation tokens."""
    monkeypatch.setattr(dbl.data.text.measure, "RUN_TOKENS", 4)
    monkeypatch.setattr(dbl.data.text.measure, "MAX_MEASURED_TOKENS", 8)
    spec = Toy(["aaaa" + "b" * 4 + "cccc" + "dddd" + "z" * 16], validation_share=0.5).spec
    counts = [round(frequency * (8 + 26)) - 1 for frequency in spec.class_frequencies]
    assert counts[:4] == [4, 0, 4, 0]
    assert sum(counts) == 8


def test_long_documents_are_encoded_in_chunks(monkeypatch):
    """Catches text that is lost, repeated or separated between chunks."""
    whole = Toy(["one\ntwo\n" * 9 + "threefour" * 4], tokenizer=Bytes(), validation_share=0).split("train").tokens
    monkeypatch.setattr(dbl.data.text.encode, "CHUNK_CHARACTERS", 10)
    chunks = Toy(["one\ntwo\n" * 9 + "threefour" * 4], tokenizer=Bytes(), validation_share=0).split("train").tokens
    assert bytes(chunks) == bytes(whole) == ("one\ntwo\n" * 9 + "threefour" * 4).encode() + b"\0"
    assert max(len(chunk) for chunk in dbl.data.text.encode._cut("ab\n" * 20 + "c" * 35)) == 10


@pytest.mark.parametrize(("num", "expected"), [(1, "a"), (3, "abc"), (4, "abcd"), (99, "abcdefghi")])
def test_text_stops_at_the_wanted_number_of_tokens(num, expected):
    """Catches one token too many, and a document behind the end."""
    encoder = dbl.data.text.encode.Encoder(Characters(LETTERS), num)
    text = encoder.encoded(["abc", "def", "ghi"], None)
    assert Characters(LETTERS).decode(text.tokens.tolist()) == expected
    assert text.ends.tolist() == [end for end in (3, 6, 9) if end < len(expected)] + [len(expected)]


@pytest.mark.parametrize(("size", "name"), [(2, "uint8"), (256, "uint8"), (257, "uint16"), (65537, "uint32")])
def test_tokens_take_the_smallest_type(size, name):
    """Catches a type that is one token too small."""
    assert smallest_type(size).name == name


def test_mapped_tokens_read_as_an_array(tmp_path):
    """Catches a wrong type or offset in the file."""
    tokens = np.arange(300, dtype=np.uint16) * 7
    tokens.tofile(tmp_path / "t.bin")
    mapped = MappedTokens(tmp_path / "t.bin", "uint16")
    places = np.array([[3, 299], [0, 12]])
    assert len(mapped) == 300
    assert mapped[places].tolist() == tokens[places].tolist()


def test_training_batches_follow_block_and_start():
    """Catches a loader that forgets what it was bound to: a resumed run would read other sequences."""

    def read(block, start):
        data = Toy(seed=3)
        data.bind(block, lambda: start)
        return list(data.train_dataloader())

    through = read(1, 0) + read(1, 9)
    resumed = read(1, 4)
    assert [batch["position"] for batch in resumed] == list(range(4, 13))
    for batch, expected in zip(resumed, through[4:13], strict=True):
        assert torch.equal(batch["index"], expected["index"])
        assert torch.equal(batch["tokens"], expected["tokens"])
    assert not torch.equal(read(0, 0)[0]["index"], through[0]["index"])
    expected = next(iter(TrainingOrder(18, 2, 3, 1, lambda: 4)))
    assert torch.equal(resumed[0]["index"], expected.indices)


def test_batches_hold_the_sequences_of_their_index():
    """Catches tokens of other sequences than the index says, and ranks that read the same."""
    data = Toy()
    data.trainer = SimpleNamespace(global_rank=1, world_size=2)
    for batch in [*data.train_dataloader()]:
        assert torch.equal(batch["tokens"], data.split("train")[batch["index"]])
        single = data.batch("train", batch["index"])
        assert torch.equal(single["tokens"], batch["tokens"])
        assert torch.equal(single["index"], batch["index"])
        assert single["position"] == 0
    assert [batch["index"].tolist() for batch in data.test_dataloader()] == [[1]]


def test_workers_make_the_same_batches():
    """Catches a set that cannot be sent to a worker, and batches that arrive out of order."""
    for here, there in zip(Toy().train_dataloader(), Toy(num_workers=1).train_dataloader(), strict=True):
        assert torch.equal(here["tokens"], there["tokens"])
        assert here["position"] == there["position"]


class Reader(LightningModule):
    """Keeps the positions that it is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.positions: list[int] = []

    def training_step(self, batch):
        self.positions.append(int(batch["position"]))
        return self.weight * batch["tokens"].float().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_lightning_reads_every_batch_in_order():
    """Catches a DataModule that the trainer rejects or whose order it replaces."""
    reader, data = Reader(), Toy()
    data.bind(0, lambda: 2)
    trainer = Trainer(
        max_steps=5, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(reader, datamodule=data)
    assert reader.positions == [2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seq_len": 0}, r"seq_len \(0\)"),
        ({"max_tokens": 0}, r"max_tokens \(0\)"),
        ({"packing": "pile"}, r"packing \(pile\) must be one of stream, document"),
        ({"validation_share": -0.1}, r"validation_share \(-0\.1\)"),
        ({"validation_share": 0.5, "test_share": 0.5}, "leave something to train on"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    """Catches values that fail later with a message about shapes."""
    with pytest.raises(UserError, match=message):
        Toy(**settings)


@pytest.mark.parametrize(
    ("settings", "split", "message"),
    [
        ({"train": ["abc"]}, "train", r"the train split of toy has 3 tokens, but a sequence needs seq_len \+ 1 = 6"),
        ({"test": ["abcde"]}, "test", r"the test split of toy has 5 tokens"),
        ({"train": ["a"] * 9, "packing": "document"}, "train", "9 tokens, but a sequence needs 2 in one document"),
        ({"validation_share": 0.02}, "validation", r"the validation split of toy has 2 tokens"),
        ({"validation_share": 0.001}, "validation", "no documents in its validation split; .*validation_share"),
        ({"train": []}, "train", "no documents in its train split$"),
        ({"train": [], "test": [], "tokenizer": Characters()}, "train", "no documents in its train split$"),
        ({"test": [""]}, "test", "no documents in its test split$"),
        ({"test": None, "test_share": 0}, "test", "no documents in its test split; data.init_args.test_share"),
        ({"test": ["abcdef!"]}, "test", "no token for '!'"),
    ],
)
def test_texts_that_do_not_fit_are_refused(settings, split, message):
    """Catches an empty training, and messages that do not say how much text there is and is needed."""
    with pytest.raises(UserError, match=message):
        Toy(**settings).split(split)


def test_specs_of_short_texts_say_why():
    """Catches facts about a text that no sequence can be cut from."""
    with pytest.raises(UserError, match="4 tokens"):
        _ = Toy(["abcd"]).spec


def test_topics_of_python():
    """Catches test topics that are trained on, and a split that is not there."""
    from pydoc_data.topics import topics

    data = PyDoc(seq_len=64, tokenizer=Bytes(), batch_size=4, eval_batch_size=4)
    train, test = data.load("train"), data.load("test")
    assert Counter(train + test) == Counter(topics.values())
    assert len(test) == len(topics) // 10
    assert topics[sorted(topics)[9]] == test[0]
    assert data.spec.name == "pydoc"
    assert len(data.split("validation")) > 500
    assert data.tokenizer.decode(data.split("test")[torch.tensor([0])][0]) == test[0].encode()[:65].decode()
