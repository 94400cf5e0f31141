"""Writing with a recurrent-depth network: as a chain of denoising iterations, and as the end-to-end baseline."""

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from evaluation_toy import random_denoiser
from torch import Tensor
from toy_text import DIM, NUM_TOKENS, SEQ_LEN, randomised, text_contract, text_sampler, text_stack

from dbl.denoising.decoding import Decoding
from dbl.inference.generation import (
    BlockSampling,
    CausalGenerator,
    Reader,
    RecurrentChain,
    RecurrentIterations,
    TextGenerator,
)
from dbl.networks.recurrent_lm import Recurrence
from dbl.training.baselines import EndToEndRecurrentLM

N = 3


def text(length: int, seed: int = 1) -> Tensor:
    return torch.randint(NUM_TOKENS, (N, length), generator=torch.Generator().manual_seed(seed))


def make(kind: str, num_steps: int | None = None, seed: int = 0) -> tuple[TextGenerator, Recurrence]:
    """A writer and its network."""
    if kind == "chain":
        stack = text_stack("recurrent")
        return stack.text_generator(Decoding(), num_steps, seed), cast(Recurrence, stack.denoiser(0).network)
    part = cast(EndToEndRecurrentLM, randomised(EndToEndRecurrentLM(text_contract("recurrent"))))
    return part.text_generator(Decoding(), num_steps, seed), part.network.body


def counted(monkeypatch: pytest.MonkeyPatch, network: Recurrence) -> list[tuple[int, ...]]:
    """Shapes of the states that pass through the core, as they come."""
    shapes, iterate = [], network.iterate

    def watched(state: Tensor, *others: Any) -> Tensor:
        shapes.append(tuple(state.shape))
        return iterate(state, *others)

    monkeypatch.setattr(network, "iterate", watched)
    return shapes


@pytest.mark.parametrize(("num_steps", "passes"), [(5, 5), (1, 1), (None, 6)])
def test_a_chain_iterates_as_often_as_asked(
    num_steps: int | None, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a number of iterations that is read nowhere; without one it is that of the sampler."""
    generator, network = make("chain", num_steps)
    shapes = counted(monkeypatch, network)
    generator.generate(text(2), 2, torch.arange(N))
    # For each token, the place that has become known at all levels together, and the next place at one after the other.
    assert [shape[:2] for shape in shapes] == 2 * [(passes * N, 1), *[(N, 1)] * passes]


@pytest.mark.parametrize(("num_steps", "passes"), [(7, 7), (1, 1), (None, 4)])
def test_the_baseline_iterates_as_often_as_asked(
    num_steps: int | None, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a number of iterations that is read nowhere; without one it is the mean of the training."""
    generator, network = make("end to end", num_steps)
    shapes = counted(monkeypatch, network)
    generator.generate(text(2), 2, torch.arange(N))
    assert [shape[:2] for shape in shapes] == [(N, 2)] * passes + [(N, 1)] * passes


@pytest.mark.parametrize("kind", ["chain", "end to end"])
def test_tokens_are_a_function_of_seed_and_index(kind: str) -> None:
    """Catches start states or noise that are drawn for a batch as a whole."""
    prompts, indices, num = text(2), torch.tensor([4, 0, 11]), SEQ_LEN + 2
    together = make(kind, seed=5)[0].generate(prompts, num, indices)
    torch.manual_seed(99)
    alone = make(kind, seed=5)[0].generate(prompts[1:2], num, indices[1:2])
    assert torch.equal(alone[0], together[1])
    same = text(2)[:1].expand(30, -1)
    assert len(make(kind, seed=5)[0].generate(same, 8, torch.arange(30)).unique(dim=0)) > 10
    assert not torch.equal(make(kind, seed=6)[0].generate(prompts, num, indices), together)


@pytest.mark.parametrize("kind", ["chain", "end to end"])
def test_more_tokens_change_no_earlier_ones(kind: str) -> None:
    """Catches tokens that depend on how many are asked for, and a generator that goes on where it stopped."""
    generator = make(kind)[0]
    prompts, indices = text(3), torch.arange(N)
    long = generator.generate(prompts, 2 * SEQ_LEN, indices)
    assert torch.equal(generator.generate(prompts, 5, indices), long[:, :5])


@pytest.mark.parametrize("length", [1, 4, SEQ_LEN + 2])
@pytest.mark.parametrize("decoding", [Decoding(), Decoding(4.0)], ids=["plain", "decoded"])
@pytest.mark.parametrize("kind", ["chain", "end to end"])
def test_what_is_kept_changes_no_token(kind: str, decoding: Decoding, length: int) -> None:
    """Catches stale keys and values, or of another level, and noise that does not stay with its place."""
    readers: list[Reader] = []
    for cached in (True, False):
        if kind == "chain":
            contract, sampler = text_contract("recurrent"), text_sampler("recurrent")
            denoiser = random_denoiser(contract, 0)
            noise, partition = contract.noise, contract.partition
            blocks = BlockSampling(lambda _, denoiser=denoiser: denoiser, noise, partition, sampler, decoding)  # type: ignore[misc]
            readers.append(RecurrentChain(blocks, cached))
        else:
            part = cast(EndToEndRecurrentLM, randomised(EndToEndRecurrentLM(text_contract("recurrent"))))
            readers.append(RecurrentIterations(part.network, 4, decoding, part._start, cached))
    prompts, indices = text(length), torch.arange(N)
    kept, anew = (CausalGenerator(one, SEQ_LEN, seed=1).generate(prompts, 3 * SEQ_LEN, indices) for one in readers)
    assert torch.equal(kept, anew)
    assert len(kept.unique()) > 1


@pytest.mark.parametrize(
    ("kind", "lengths"), [("chain", [5, 1, 2, 1, 1, 1, 1, 1, 1, 1]), ("end to end", [6, 3, 1, 1, 1])]
)
def test_a_full_context_is_left_behind(kind: str, lengths: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches texts that are longer than any in training."""
    generator, network = make(kind, num_steps=1)
    shapes = counted(monkeypatch, network)
    generator.generate(text(SEQ_LEN + 3), 5, torch.arange(N))
    assert [shape[1] for shape in shapes] == lengths
    assert isinstance(generator, CausalGenerator)


def test_known_tokens_carry_their_vectors_with_noise_of_the_level() -> None:
    """Catches known positions without noise, with noise of another level, or with the vector of the token before."""
    stack, seen = text_stack("recurrent"), []
    denoiser = stack.denoiser(0)
    predict: Callable[..., Any] = denoiser.predict

    def watched(noisy: Tensor, sigma: Tensor, cond: Tensor, adjust: Any = None) -> Any:
        seen.append((noisy, sigma, cond))
        return predict(noisy, sigma, cond, adjust)

    denoiser.predict = watched  # type: ignore[method-assign]
    prompts = text(5).repeat(40, 1)
    blocks = stack.text_generator(Decoding()).reader.blocks  # type: ignore[attr-defined]
    CausalGenerator(RecurrentChain(blocks, cached=False), SEQ_LEN).generate(prompts, 2, torch.arange(len(prompts)))
    seen, later = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    table = stack.contract.table
    assert table is not None
    units = [(noisy[:, :-1] - table[cond[:, 1:]]) / sigma.reshape(-1, 1, 1) for noisy, sigma, cond in seen]
    assert units[0].std().item() == pytest.approx(1, abs=0.03)
    assert units[0].mean().item() == pytest.approx(0, abs=0.04)
    for unit, (noisy, sigma, cond) in zip(units, seen, strict=True):
        assert torch.equal(cond, prompts)
        assert noisy.shape == (len(prompts), 5, DIM)
        torch.testing.assert_close(unit, units[0], atol=1e-4, rtol=1e-4)  # along one path, as the sampler's own noise
        assert len(sigma.unique()) == 1
    # A place keeps its noise; the place that has become known gets noise of its own, not that of its token.
    noisy, sigma, cond = later[0]
    after = (noisy[:, :-1] - table[cond[:, 1:]]) / sigma.reshape(-1, 1, 1)
    torch.testing.assert_close(after[:, :4], units[0], atol=1e-4, rtol=1e-4)
    start = seen[0][0][:, -1] / seen[0][1].unsqueeze(1)
    assert abs((start * after[:, 4]).mean().item()) < 0.1


@pytest.mark.parametrize("place", range(SEQ_LEN))
def test_the_denoiser_is_causal_in_its_noisy_vectors(place: int) -> None:
    """Catches a noisy vector that predictions before its own see: it stands for a token that they must not know."""
    denoiser = random_denoiser(text_contract("recurrent"), 0)
    noisy = torch.randn(N, SEQ_LEN, DIM, generator=torch.Generator().manual_seed(2))
    changed, sigma = noisy.clone(), torch.tensor([0.3, 1.0, 4.0])
    changed[:, place] += 1
    before, after = (denoiser.predict(one, sigma, text(SEQ_LEN)).denoised for one in (noisy, changed))
    moved = (before - after).abs().amax((0, 2)) > 1e-5
    assert moved.tolist() == [number >= place for number in range(SEQ_LEN)]


def test_iterations_change_what_the_baseline_says() -> None:
    """Catches a core whose later passes do nothing."""
    part = cast(EndToEndRecurrentLM, randomised(EndToEndRecurrentLM(text_contract("recurrent"))))
    state = torch.randn(N, SEQ_LEN, part.sizes.width, generator=torch.Generator().manual_seed(0))
    few, many = (part.network(text(SEQ_LEN), state, number) for number in (2, 3))
    assert (few - many).abs().max() > 1e-3
