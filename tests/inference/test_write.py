"""Text from Python: strings in, strings out, for all kinds of text networks."""

from pathlib import Path

import pytest
import torch
from toy_text import ALPHABET, SEQ_LEN, fit_text, text_contract, text_stack

from dbl.data import Characters
from dbl.inference.stack import BlockStack
from dbl.run.assembly import assemble
from dbl.run.folder import RunFolder
from dbl.training.block import DiffusionBlock
from dbl.utils.errors import UserError, one_line

KINDS = ["clean", "two", "recurrent", "masked"]


def _stack(kind: str, **options: object) -> BlockStack:
    stack = text_stack(kind, **options)
    stack._load_tokenizer = lambda: Characters(ALPHABET)
    return stack


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_is_continued(kind: str) -> None:
    """Catches tokens in place of text, another length, and a seed that is read nowhere."""
    stack = _stack(kind)
    texts = {stack.write("ab", max_tokens=4, seed=seed) for seed in range(8)}
    assert {(text[:2], len(text)) for text in texts} == {("ab", 6)}
    assert len(texts) > 2
    assert stack.write("ab", max_tokens=4, seed=0) == stack.write("ab", 4)
    greedy = {stack.write("ab", 4, seed=seed, top_k=1, num_steps=2) for seed in range(4)}
    assert len(greedy) <= len(texts)


@pytest.mark.parametrize("kind", ["clean", "masked"])
def test_a_text_ends_behind_its_stop(kind: str) -> None:
    """Catches a stop that is read nowhere, and one in the prompt that ends the text."""
    texts = [_stack(kind).write("a", max_tokens=5, seed=seed, stop="a") for seed in range(8)]
    assert any(len(text) < 6 for text in texts)
    assert all("a" not in text[1:-1] for text in texts)


def test_the_default_length_fits(tmp_path: Path) -> None:
    """Catches a default that asks for more than masked text holds."""
    assert len(_stack("masked").write("ab")) == SEQ_LEN
    assert len(_stack("clean").write("ab", num_steps=1)) == 202


@pytest.mark.parametrize("kind", KINDS)
def test_low_precision_writes_too(kind: str) -> None:
    """Catches types that do not meet, in blocks that are kept or loaded when they are needed."""
    for keep_in_memory in ("all", "one"):
        stack = _stack(kind, keep_in_memory=keep_in_memory).to(torch.bfloat16)
        assert {one.dtype for one in stack.denoiser(0).network.parameters()} == {torch.bfloat16}
        assert len(stack.write("ab", max_tokens=4)) == 6


def test_an_ensemble_writes_in_low_precision() -> None:
    """Catches weights of the ensemble that are other ones than those of the blocks."""
    stack = _stack("clean", ensemble=True).to(torch.bfloat16)
    assert len(stack.write("ab", max_tokens=4)) == 6


@pytest.mark.parametrize("kind", ["clean", "masked"])
def test_a_run_writes_with_its_own_tokenizer(kind: str, tmp_path: Path) -> None:
    """Catches a tokenizer that is not found in the model folder, and one of other data that is used."""
    contract = text_contract(kind)
    run = RunFolder(kind, str(tmp_path))
    run.write_contract(contract)
    for block in range(3):
        fit_text(DiffusionBlock(contract, block), run.path, steps=2)
    assemble(run)
    with pytest.raises(UserError, match=r"config.json: files lists no tokenizer.json") as error:
        BlockStack.from_pretrained(run.path).write("a")
    assert len(str(error.value)) <= 200
    Characters(ALPHABET).save(run.tokenizer)
    assemble(run)
    text = BlockStack.from_pretrained(run.path).write("a", max_tokens=3)
    assert (text[0], len(text)) == ("a", 4)
    assert set(text) <= set(ALPHABET)


ERRORS = {
    "no token": (lambda stack: stack.write("z"), "prompt: .*no token for 'z'"),
    "no length": (lambda stack: stack.write("a", max_tokens=0), r"max_tokens \(0\)"),
    "too long": (lambda stack: stack.write("a", max_tokens=9), "10 tokens of prompt and answer do not fit the 6"),
    "two stops": (lambda stack: stack.write("a", stop="ab"), "stop 'ab' is 2 tokens"),
    "no temperature": (lambda stack: stack.write("a", temperature=0.0), "temperature"),
    "no seed": (lambda stack: stack.write("a", seed=0.5), "seed"),
    "no steps": (lambda stack: stack.write("a", num_steps=0), "num_steps"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_are_one_line(case: str) -> None:
    """Catches tracebacks, and lines that do not say which argument is wrong."""
    ask, named = ERRORS[case]
    with pytest.raises(UserError, match=named) as error:
        ask(_stack("masked"))
    assert str(error.value) == one_line(error.value)


def test_a_stack_without_tokenizer_says_so() -> None:
    """Catches an AttributeError of a stack that was made from blocks."""
    with pytest.raises(UserError, match="this stack has no tokenizer"):
        text_stack("clean").write("a")
