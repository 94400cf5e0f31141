"""Writing from left to right: what may be seen, and what the tokens are a function of."""

import itertools
from collections.abc import Callable
from typing import cast

import pytest
import torch
from evaluation_toy import random_denoiser
from torch import Tensor
from toy_text import DIM, NUM_TOKENS, SEQ_LEN, known_denoiser, randomised, text_contract, text_sampler, text_stack

from dbl.denoising.decoding import Decoding
from dbl.denoising.denoiser import GaussianDenoiser
from dbl.inference.generation import BlockDecoder, BlockSampling, CausalGenerator, Reader, TextGenerator
from dbl.networks.causal_lm import CausalNetwork, Context
from dbl.training.baselines import EndToEndCausalLM
from dbl.utils.errors import UserError
from dbl.utils.seeding import SampleDraws

STREAMS = ["clean", "two"]
N = 3


def text(length: int = SEQ_LEN + 1, seed: int = 1) -> Tensor:
    return torch.randint(NUM_TOKENS, (N, length), generator=torch.Generator().manual_seed(seed))


def noisy_vectors() -> tuple[Tensor, Tensor]:
    """[N, T, D], and levels [N] that differ."""
    noise = torch.randn(N, SEQ_LEN, DIM, generator=torch.Generator().manual_seed(2))
    return noise, torch.tensor([0.4, 1.1, 3.0])


def differs(first: Tensor, second: Tensor) -> list[bool]:
    """For each place of [N, T, ...] whether any number of it differs by more than rounding."""
    return [bool((one - two).abs().max() > 1e-5) for one, two in zip(first.unbind(1), second.unbind(1), strict=True)]


@pytest.mark.parametrize("place", range(SEQ_LEN))
@pytest.mark.parametrize("kind", [*STREAMS, "recurrent"])
def test_a_token_reaches_predictions_from_its_own_place_on(kind: str, place: int) -> None:
    """Catches a leak from the raw batch to the logits: prediction i is of token i + 1, and may see tokens up to i."""
    contract = text_contract(kind)
    space, denoiser = contract.space(), random_denoiser(contract, 0)
    batch = {"tokens": text()}
    changed = {"tokens": batch["tokens"].clone()}
    changed["tokens"][:, place] = (batch["tokens"][:, place] + 1) % NUM_TOKENS
    noisy, sigma = noisy_vectors()
    before, after = (denoiser.predict(noisy, sigma, space.encode(one).cond).logits for one in (batch, changed))
    assert before is not None
    assert after is not None
    assert differs(before, after) == [number >= place for number in range(SEQ_LEN)]


@pytest.mark.parametrize("kind", STREAMS)
def test_the_last_token_is_seen_by_nothing(kind: str) -> None:
    """Catches a condition that is the whole sequence: its last token is a target only."""
    contract = text_contract(kind)
    changed = text()
    changed[:, -1] = (changed[:, -1] + 1) % NUM_TOKENS
    spaces = [contract.space().encode({"tokens": tokens}) for tokens in (text(), changed)]
    assert torch.equal(spaces[0].cond, spaces[1].cond)
    assert differs(spaces[0].clean, spaces[1].clean) == [False] * (SEQ_LEN - 1) + [True]


@pytest.mark.parametrize("kind", STREAMS)
def test_a_noisy_vector_reaches_its_own_prediction_only(kind: str) -> None:
    """Catches noisy vectors that see each other: the sampler has only one at a time."""
    denoiser = random_denoiser(text_contract(kind), 1)
    noisy, sigma = noisy_vectors()
    for place in range(SEQ_LEN):
        changed = noisy.clone()
        changed[:, place] += 1
        pair = [denoiser.predict(one, sigma, text()[:, :-1]).denoised for one in (noisy, changed)]
        assert differs(*pair) == [number == place for number in range(SEQ_LEN)]


@pytest.mark.parametrize("kind", STREAMS)
def test_writing_predicts_what_training_trained(kind: str) -> None:
    """Catches a leak or a shift in what is kept: each cached prediction equals the one of the whole sequence."""
    denoiser = cast(GaussianDenoiser, random_denoiser(text_contract(kind), 2))
    network = cast(CausalNetwork, denoiser.network)
    tokens = text()[:, :-1]
    noisy, sigma = noisy_vectors()
    whole = denoiser.predict(noisy, sigma, tokens).logits
    assert whole is not None
    context: Context | None = None
    for start, end in itertools.pairwise([0, 1, 3, 4, SEQ_LEN]):
        context = network.extend(tokens[:, start:end], context)
        logits = denoiser.predict(noisy[:, end - 1 : end], sigma, context).logits
        assert logits is not None
        torch.testing.assert_close(logits[:, 0], whole[:, end - 1], rtol=1e-4, atol=1e-4)


def chain(kind: str, cached: bool, decoding: Decoding | None = None) -> BlockDecoder:
    contract = text_contract(kind)
    blocks = [random_denoiser(contract, block) for block in range(3)]
    sampler, decoding = text_sampler(kind), decoding or Decoding()
    return BlockDecoder(
        BlockSampling(blocks.__getitem__, contract.noise, contract.partition, sampler, decoding), cached
    )


@pytest.mark.parametrize("length", [1, 4, SEQ_LEN + 2])
@pytest.mark.parametrize("kind", STREAMS)
def test_what_is_kept_changes_no_token(kind: str, length: int) -> None:
    """Catches stale keys and values, also after the text has outgrown the context and was read anew."""
    prompts, indices = text(length), torch.arange(N)
    cached, plain = (
        CausalGenerator(chain(kind, cached), SEQ_LEN, seed=1).generate(prompts, 3 * SEQ_LEN, indices)
        for cached in (True, False)
    )
    assert torch.equal(cached, plain)
    assert len(cached.unique()) > 2


def writers() -> dict[str, Callable[[int], TextGenerator]]:
    baseline = cast(EndToEndCausalLM, randomised(EndToEndCausalLM(text_contract("clean"))))
    return {
        "clean": lambda seed: text_stack("clean").text_generator(Decoding(), seed=seed),
        "two": lambda seed: text_stack("two", keep_in_memory="one").text_generator(Decoding(), num_steps=4, seed=seed),
        "end to end": lambda seed: baseline.text_generator(Decoding(), seed=seed),
    }


@pytest.mark.parametrize("kind", ["clean", "two", "end to end"])
def test_tokens_are_a_function_of_seed_and_index(kind: str) -> None:
    """Catches draws for a batch as a whole: any batch, in any order, with any global seed gives a text its tokens."""
    make = writers()[kind]
    prompts, indices, num = text(2), torch.tensor([4, 0, 11]), SEQ_LEN + 3
    together = make(5).generate(prompts, num, indices)
    assert (together.shape, together.dtype) == ((N, num), torch.int64)
    torch.manual_seed(99)
    for row in (2, 0):
        alone = make(5).generate(prompts[row : row + 1], num, indices[row : row + 1])
        assert torch.equal(alone[0], together[row])
    same = text(2)[:1].expand(40, -1)
    assert len({tuple(row) for row in make(5).generate(same, 8, torch.arange(40)).tolist()}) > 20
    assert not torch.equal(make(6).generate(prompts, num, indices), together)


@pytest.mark.parametrize("kind", ["clean", "two", "end to end"])
def test_what_follows_changes_nothing_before_it(kind: str) -> None:
    """Catches tokens that depend on how many are asked for, and a generator that goes on where it stopped."""
    generator = writers()[kind](0)
    prompts, indices = text(3), torch.arange(N)
    long = generator.generate(prompts, 2 * SEQ_LEN, indices)
    assert torch.equal(generator.generate(prompts, SEQ_LEN, indices), long[:, :SEQ_LEN])
    streamed = list(generator.stream(prompts, 4, indices))  # type: ignore[attr-defined]
    assert torch.equal(torch.stack(streamed, dim=1), long[:, :4])


@pytest.mark.parametrize("kind", ["clean", "two", "end to end"])
def test_a_long_prompt_counts_with_its_end(kind: str) -> None:
    """Catches a context longer than any in training, and one that keeps the beginning of a prompt."""
    prompts, indices = text(SEQ_LEN + 5), torch.arange(N)
    long = writers()[kind](0).generate(prompts, 4, indices)
    assert torch.equal(long, writers()[kind](0).generate(prompts[:, -SEQ_LEN:], 4, indices))


def test_a_text_ends_at_the_stop_token() -> None:
    """Catches text behind the stop, a stop in the prompt that ends everything, and work after all texts have ended."""
    generator = text_stack("clean").text_generator(Decoding())
    prompts, indices = text(2), torch.arange(N)
    free = generator.generate(prompts, 12, indices)
    stop = int(free[0, 3])
    found = generator.generate(prompts, 12, indices, stop)
    for row in range(N):
        place = free[row].tolist().index(stop) if stop in free[row] else 12
        assert found[row].tolist() == free[row, :place].tolist() + [stop] * (12 - place)
    given = torch.full((1, 2), stop)
    assert generator.generate(given, 6, torch.tensor([50]), stop).tolist()[0] != [stop] * 6
    assert isinstance(generator, CausalGenerator)
    row = free[0, :4].tolist().index(stop)
    assert len(list(generator.stream(prompts[:1], 12, indices[:1], stop))) == row + 1


class Record(Reader):
    """Notes what it is given; the next token is the number of tokens that were read."""

    def __init__(self) -> None:
        self.num_read, self.lengths = 0, []

    def restart(self) -> None:
        self.num_read = 0

    def read(self, tokens: Tensor) -> None:
        self.num_read += tokens.shape[1]
        self.lengths.append(tokens.shape[1])

    def draw(self, draws: SampleDraws) -> Tensor:
        return torch.tensor([self.num_read])


@pytest.mark.parametrize(
    ("seq_len", "read", "pieces"),
    [(6, [2, 3, 4, 5, 6, 3, 4, 5, 6, 3], [2, 1, 1, 1, 1, 3, 1, 1, 1, 3]), (1, [1, 1, 1], [1, 1, 1])],
)
def test_a_full_context_goes_on_from_its_last_half(seq_len: int, read: list[int], pieces: list[int]) -> None:
    """Catches contexts longer than in training, a context lost at every token, and tokens that are read twice."""
    reader = Record()
    prompt = torch.zeros(1, 2, dtype=torch.long)
    drawn = CausalGenerator(reader, seq_len).generate(prompt, len(read), torch.tensor([0]))
    assert drawn[0].tolist() == read
    assert reader.lengths == pieces


def test_each_level_asks_the_block_that_owns_it() -> None:
    """Catches blocks in the wrong order: each may be called at levels of its own interval only, with one prompt."""
    contract, asked = text_contract("clean"), []

    class Watched(GaussianDenoiser):
        def predict(self, noisy, sigma, cond, adjust=None):  # type: ignore[no-untyped-def]
            asked.append((self.block, float(sigma.sigma[0])))
            return super().predict(noisy, sigma, cond, adjust)

    def load(block: int) -> GaussianDenoiser:
        denoiser = known_denoiser()
        denoiser.__class__ = Watched
        denoiser.block = block  # type: ignore[assignment]
        return denoiser

    blocks = BlockSampling(load, contract.noise, contract.partition, text_sampler("clean", 9), Decoding())
    CausalGenerator(BlockDecoder(blocks), SEQ_LEN).generate(text(2), 1, torch.arange(N))
    assert [block for block, _ in asked] == [0] * 3 + [1] * 3 + [2] * 3
    for block, sigma in asked:
        low, high = contract.partition.interval(block)
        assert low * (1 - 1e-6) <= sigma <= high * (1 + 1e-6)


def test_tokens_and_loaded_blocks_are_ordinary_tensors() -> None:
    """Catches what inference mode would leave behind: tensors that cannot be changed, or trained, by the caller."""
    stack = text_stack("two", keep_in_memory="one")
    generator = cast(CausalGenerator, stack.text_generator(Decoding(), num_steps=4))
    tokens = list(generator.stream(text(2), 2, torch.arange(N)))
    assert not any(token.is_inference() for token in tokens)
    last = stack.contract.partition.num_blocks - 1  # it owns the lowest level, so it is in memory
    assert not any(parameter.is_inference() for parameter in stack.denoiser(last).parameters())


def test_an_empty_prompt_is_refused() -> None:
    """Catches a crash deep inside of the network where there is nothing to continue."""
    with pytest.raises(UserError, match="at least one token"):
        text_stack("clean").text_generator(Decoding()).generate(text(0), 3, torch.arange(N))
