"""What a token costs, on text whose entropy is known, and the figures that follow from it."""

import itertools
import math
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from evaluation_toy import evaluation
from torch import Tensor
from toy_text import (
    ALPHABET,
    TRANSITIONS,
    ChainText,
    chain_entropy,
    known_baseline,
    known_stack,
    randomised,
    text_contract,
    text_stack,
)

from dbl.data.spec import IGNORED
from dbl.evaluation.callbacks.likelihood import ByteCount, Likelihood
from dbl.evaluation.stack_evaluation import StackEvaluation
from dbl.inference.stack import BlockStack
from dbl.training.baselines import EndToEndCausalLM, EndToEndRecurrentLM
from dbl.training.baselines.text import EndToEndText


def measured(
    module: L.LightningModule | BlockStack, folder: Path, data: ChainText, levels: int = 4
) -> tuple[dict[str, Any], Any]:
    """The result of the callback, and what was logged."""
    callback = Likelihood(levels_per_block=levels)
    module = StackEvaluation(module) if isinstance(module, BlockStack) else module
    logged = evaluation(folder, callback).test(module, datamodule=data, verbose=False)[0]
    assert callback.result is not None
    return callback.result, logged


def sequences(data: ChainText) -> Tensor:
    return data.split("test")[torch.arange(len(data.split("test")))]


def nats_of_chain(tokens: Tensor) -> list[float]:
    """Of each predicted token, by the distribution."""
    pairs = [pair for row in tokens.tolist() for pair in itertools.pairwise(row)]
    return [-math.log(TRANSITIONS[first, second]) for first, second in pairs]


def test_perfect_blocks_reach_the_entropy_of_a_chain(tmp_path: Path) -> None:
    """Catches a bound of tokens without their condition, of the wrong token, or a factor of the sequence's length."""
    data = ChainText(num_test=600, eval_batch_size=128)
    result, _ = measured(known_stack(), tmp_path, data, levels=6)
    assert (result["num_samples"], result["num_scored"], result["exact"]) == (600, 3600, False)
    assert result["standard_error"] < 0.03
    assert result["nats"] == pytest.approx(chain_entropy(), abs=3 * result["standard_error"])
    frequencies = torch.tensor(text_contract("clean").data.class_frequencies)
    assert result["nats"] < float(torch.special.entr(frequencies).sum()) - 3 * result["standard_error"]


def test_the_exact_nats_of_a_perfect_baseline_are_those_of_the_law(tmp_path: Path) -> None:
    """Catches a mean of means, where short last batches count too much, and a loss in place of nats."""
    data = ChainText(num_test=400, eval_batch_size=129)
    result, logged = measured(known_baseline(), tmp_path, data)
    truth = nats_of_chain(sequences(data))
    assert result["nats"] == pytest.approx(sum(truth) / len(truth), rel=1e-5)
    assert result["nats"] == pytest.approx(chain_entropy(), abs=3 * result["standard_error"])
    assert logged["test/nats"] == pytest.approx(result["nats"], rel=1e-5)
    assert (result["exact"], result["num_scored"], result["blocks"], result["curve"]) == (True, 2400, [], [])


@pytest.mark.parametrize("kind", ["blocks", "masked", "baseline"])
def test_perplexity_and_bits_follow_from_the_nats(kind: str, tmp_path: Path) -> None:
    """Catches a perplexity of the mean of batches, bits in nats, and characters that are taken for bytes."""
    data = ChainText(num_test=50)
    module = {"blocks": known_stack, "masked": lambda: text_stack("masked"), "baseline": known_baseline}[kind]()
    result, logged = measured(module, tmp_path, data)
    scored = sequences(data)[:, 1:].flatten().tolist()
    num_bytes = sum(len(ALPHABET[token].encode()) for token in scored)
    assert result["num_bytes"] == num_bytes > len(scored) == result["num_scored"]
    assert result["perplexity"] == pytest.approx(math.exp(result["nats"]))
    assert result["bits_per_token"] == pytest.approx(result["nats"] / math.log(2))
    assert result["bits_per_byte"] == pytest.approx(result["nats"] * len(scored) / num_bytes / math.log(2))
    for name in ("perplexity", "bits_per_token", "bits_per_byte"):
        assert logged[f"test/{name}"] == pytest.approx(result[name], rel=1e-5)


@pytest.mark.parametrize("kind", [EndToEndCausalLM, EndToEndRecurrentLM])
def test_a_baseline_has_the_nats_of_a_plain_loop(kind: type[EndToEndText], tmp_path: Path) -> None:
    """Catches nats that count padding, leave a token out, or depend on the batch that a sequence is tested in."""
    part = randomised(kind(text_contract("clean" if kind is EndToEndCausalLM else "recurrent")))
    assert isinstance(part, EndToEndText)
    results = [measured(part, tmp_path / str(size), ChainText(16, eval_batch_size=size))[0] for size in (16, 7)]
    nats = 0.0
    for row in sequences(ChainText(16)):
        for place, logits in enumerate(part.logits(row[None, :-1], training=False)[0].detach()):
            nats -= float(logits.log_softmax(-1)[row[place + 1]])
    for result in results:
        assert result["nats"] == pytest.approx(nats / (16 * 6), rel=1e-5)
    assert results[0]["standard_error"] == pytest.approx(results[1]["standard_error"], rel=1e-4)


@pytest.mark.parametrize("kind", [EndToEndCausalLM, EndToEndRecurrentLM])
def test_padding_costs_nothing(kind: type[EndToEndText]) -> None:
    """Catches nats of padding, and a sum over scored tokens that is divided by all of them."""
    part = randomised(kind(text_contract("clean" if kind is EndToEndCausalLM else "recurrent")))
    assert isinstance(part, EndToEndText)
    tokens = sequences(ChainText(3))
    tokens[1, 4:] = IGNORED
    nats, scored = part.exact_nats({"tokens": tokens, "index": torch.arange(3)})
    assert scored.tolist() == [6, 3, 6]
    logits = part.logits(tokens[1:2, :-1].clamp(min=0), training=False)[0].detach().log_softmax(-1)
    assert nats[1].item() == pytest.approx(-sum(float(logits[t, tokens[1, t + 1]]) for t in range(3)), rel=1e-5)


def test_a_stack_of_masked_text_is_bounded_by_its_own_law(tmp_path: Path) -> None:
    """Catches a bound of masked blocks that is below what is possible: untrained ones say that all is alike."""
    contract = text_contract("masked")
    stack = BlockStack(contract, lambda block: contract.denoiser(block).eval(), text_stack("masked").inference)
    result, _ = measured(stack, tmp_path, ChainText(60), levels=8)
    assert result["nats"] == pytest.approx(math.log(5), abs=3 * result["standard_error"])
    assert result["prior"] == 0


def test_bytes_are_not_claimed_where_a_token_is_unknown() -> None:
    """Catches bits per byte of a text whose length nobody knows."""
    for unknown, expected in ((None, [6, 0]), (2, [6, 2])):
        count = ByteCount(torch.tensor([1, 2, 0]), unknown)
        count.add(torch.tensor([[0, 1, 2, IGNORED], [1, 0, 2, IGNORED]]))
        assert count.total.tolist() == expected
