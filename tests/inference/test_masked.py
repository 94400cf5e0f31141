"""Writing masked text with denoisers that know the joint distribution of three tokens.

A sequence holds many groups of three tokens that are independent of each other, C = 3.
"""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from evaluation_toy import random_denoiser
from torch import Tensor, nn
from toy_text import NUM_TOKENS, SEQ_LEN, ChainText, text_contract, text_sampler, text_stack

from dbl.denoising.decoding import Decoding
from dbl.denoising.denoiser import MaskedDenoiser
from dbl.denoising.sampling import Sampler
from dbl.diffusion.masking import MaskingNoise
from dbl.diffusion.partition import PartitionConfig
from dbl.inference.generation import BlockSampling, MaskedGenerator
from dbl.inference.settings import InferenceConfig
from dbl.inference.stack import BlockStack
from dbl.utils.errors import UserError

C, MASK, NUM_GROUPS, N = 3, 3, 100, 20
JOINT = torch.tensor([8, 1, 1, 1, 1, 6, 1, 1, 1, 1, 9, 1, 2, 1, 1, 1, 1, 5, 1, 1, 4, 7, 1, 1, 1, 1, 3.0]).reshape(
    3, 3, 3
)
JOINT = JOINT.double() / JOINT.sum()


class KnownJoint(nn.Module):
    """Logits of each token of each group, given the tokens of it that are shown."""

    def __init__(self) -> None:
        super().__init__()
        self.levels: list[float] = []
        values = torch.cartesian_prod(*[torch.arange(C)] * 3)  # 27, 3
        self.values, self.joint = values, JOINT.flatten()

    def forward(self, noisy: Tensor, c_noise: Tensor, cond: Any) -> Tensor:
        self.levels.append(float(c_noise[0]))
        groups = noisy.reshape(-1, 1, 3)
        fits = ((groups == MASK) | (groups == self.values)).all(-1)  # groups, 27
        weights = fits * self.joint
        shares = weights @ nn.functional.one_hot(self.values, C).double().flatten(1)  # groups, 3 C
        return shares.log().reshape(*noisy.shape, C).clamp(min=-1e30)


class Blocks:
    """Blocks that all know the joint distribution and note their levels, and a generator for them."""

    def __init__(
        self,
        num_blocks: int,
        num_steps: int = 100,
        schedule: str = "linear",
        decoding: Decoding | None = None,
        end: int | None = None,
    ) -> None:
        noise = MaskingNoise(schedule=schedule)  # type: ignore[arg-type]
        self.networks = [KnownJoint() for _ in range(num_blocks)]
        self.partition = PartitionConfig(num_blocks, scheme="uniform_sigma").build(noise, num_layers=num_blocks)
        denoisers = [MaskedDenoiser(network, noise.weight, MASK) for network in self.networks]
        sampler = Sampler("ancestral", "quantile", num_steps)
        blocks = BlockSampling(denoisers.__getitem__, noise, self.partition, sampler, decoding or Decoding())
        self.generator = MaskedGenerator(blocks, seq_len=3 * NUM_GROUPS, mask=MASK, end=end)

    def groups(self, template: Tensor) -> Tensor:
        """[N * groups, 3] filled templates."""
        return self.generator.infill(template, torch.arange(len(template))).reshape(-1, 3)


def hidden() -> Tensor:
    return torch.full((N, 3 * NUM_GROUPS), MASK)


def chi_square(groups: Tensor, joint: Tensor) -> tuple[float, int]:
    """The statistic of groups [M, 3] under a joint distribution [C, C, C], and its degrees of freedom."""
    cells = (groups * torch.tensor([9, 3, 1])).sum(1)
    found, wanted = torch.bincount(cells, minlength=27), joint.flatten() * len(groups)
    possible = wanted > 0
    assert found[~possible].sum() == 0
    return float(((found - wanted)[possible].square() / wanted[possible]).sum()), int(possible.sum()) - 1


def assert_follows(groups: Tensor, joint: Tensor) -> None:
    """Within 5 standard deviations of the statistic; tokens drawn independently are further off by hundreds."""
    statistic, freedom = chi_square(groups, joint)
    assert statistic < freedom + 5 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_perfect_blocks_draw_from_the_joint_distribution(schedule: str) -> None:
    """Catches tokens shown too early or all at once, draws from another place's logits, and a wrong step of levels."""
    groups = Blocks(3, schedule=schedule).groups(hidden())
    assert_follows(groups, JOINT)
    marginals = [JOINT.sum((1, 2)), JOINT.sum((0, 2)), JOINT.sum((0, 1))]
    independent = torch.einsum("i,j,k->ijk", *marginals)
    assert chi_square(groups, independent)[0] > 300


def test_the_number_of_blocks_changes_nothing_for_perfect_blocks() -> None:
    """Catches steps that depend on the partition, and a block that is asked at a level of another one."""
    one, three = Blocks(1), Blocks(3)
    assert torch.equal(one.groups(hidden()), three.groups(hidden()))
    assert len(one.networks[0].levels) == 100
    for block, network in enumerate(three.networks):
        low, high = three.partition.interval(block)
        assert 30 < len(network.levels) < 37
        assert all(low * (1 - 1e-6) <= level <= high * (1 + 1e-6) for level in network.levels)


def test_tokens_are_shown_at_an_even_pace() -> None:
    """Catches a step of another size than the levels say: at level m a share m of the tokens is hidden."""
    blocks, shares = Blocks(1, num_steps=5), []
    network = blocks.networks[0]
    network.register_forward_pre_hook(lambda _, inputs: shares.append(float((inputs[0] == MASK).double().mean())))
    blocks.groups(hidden())
    assert shares == pytest.approx(network.levels, abs=0.03)
    assert network.levels == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2], abs=1e-3)


def test_gaps_follow_the_conditional_distribution_and_the_rest_stays() -> None:
    """Catches given tokens that are drawn anew, or that the drawn ones do not depend on."""
    template = hidden().reshape(N, NUM_GROUPS, 3)
    template[:, :, 1] = torch.arange(NUM_GROUPS) % 3
    groups = Blocks(3).groups(template.flatten(1))
    assert torch.equal(groups[:, 1], template.reshape(-1, 3)[:, 1])
    for middle in range(3):
        conditional = torch.zeros_like(JOINT)
        conditional[:, middle] = JOINT[:, middle] / JOINT[:, middle].sum()
        assert_follows(groups[groups[:, 1] == middle], conditional)


@pytest.mark.parametrize("num_steps", [1, 2, 7])
def test_nothing_stays_hidden(num_steps: int) -> None:
    """Catches a last step that ends at the smallest level, where some tokens are still hidden."""
    assert Blocks(1, num_steps).groups(hidden()).max() < MASK


def test_decoding_acts_on_hidden_tokens() -> None:
    """Catches options that masked text ignores: with the best token alone, all groups are that of greedy choices."""
    groups = Blocks(1, decoding=Decoding(top_k=1)).groups(hidden())
    assert len(groups.unique(dim=0)) < 27
    assert (groups[:, 0] == JOINT.sum((1, 2)).argmax()).double().mean() > 0.5


def test_texts_are_a_function_of_seed_and_index() -> None:
    """Catches draws for a batch as a whole, and the same draws for every text, step or seed."""
    stack = text_stack("masked")
    prompts, indices = torch.tensor([[1, 2], [3, 3], [1, 2]]), torch.tensor([7, 1, 4])
    together = stack.text_generator(Decoding(), seed=2).generate(prompts, 4, indices)
    torch.manual_seed(5)
    alone = stack.text_generator(Decoding(), seed=2).generate(prompts[1:2], 4, indices[1:2])
    assert torch.equal(alone[0], together[1])
    many = stack.text_generator(Decoding(), seed=2).generate(prompts[:1].expand(40, -1), 4, torch.arange(40))
    other = stack.text_generator(Decoding(), seed=3).generate(prompts[:1].expand(40, -1), 4, torch.arange(40))
    assert len(many.unique(dim=0)) > 20
    assert not torch.equal(many, other)


def test_the_network_is_given_sequences_as_long_as_in_training() -> None:
    """Catches short templates that come to the network as sequences of a length that it never saw."""
    stack, shapes = text_stack("masked"), []
    for block in range(3):
        network = stack.denoiser(block).network
        network.register_forward_pre_hook(lambda _, inputs: shapes.append((inputs[0].shape, inputs[0][:, 3:].min())))
    short = stack.text_generator(Decoding()).generate(torch.tensor([[1], [2]]), 2, torch.arange(2))
    assert short.shape == (2, 2)
    assert {shape for shape, _ in shapes} == {(2, SEQ_LEN)}
    assert shapes[0][1] == NUM_TOKENS


def behind_end(tokens: Tensor, end: int) -> Tensor:
    """Whether each token [N, T] is behind the first end of its row."""
    return torch.stack([torch.arange(len(row)) > [*row.tolist(), end].index(end) for row in tokens])


def test_nothing_stands_behind_an_end_that_is_shown() -> None:
    """Catches a network that is asked to read text behind the end of a document, which it never saw in training."""
    blocks, inputs = Blocks(1, num_steps=8, end=2), []
    blocks.networks[0].register_forward_pre_hook(lambda _, args: inputs.append(args[0].clone()))
    found = blocks.generator.infill(hidden()[:, :90], torch.arange(N))
    assert len(inputs) == 8
    assert all((seen[behind_end(seen, 2)] == MASK).all() for seen in inputs)
    assert any((seen == 2).any() for seen in inputs)
    assert found.max() < MASK
    assert (found[behind_end(found, 2)] == 2).all()


def test_given_tokens_are_never_hidden_again() -> None:
    """Catches a prompt that begins with the end of another document, and given tokens that are lost behind an end."""
    template = hidden()
    template[:, 0], template[:, 100:103] = 2, torch.tensor([0, 2, 1])
    blocks, inputs = Blocks(1, num_steps=8, end=2), []
    blocks.networks[0].register_forward_pre_hook(lambda _, args: inputs.append(args[0].clone()))
    found = blocks.generator.infill(template, torch.arange(N))
    assert all(
        torch.equal(seen[:, places], template[:, places]) for seen in (*inputs, found) for places in (0, 101, 102)
    )
    assert (found[:, 1] != 2).any()


def test_a_run_says_behind_which_token_nothing_stands() -> None:
    """Catches a sampler that is not told how the text was packed."""
    contract = text_contract("masked")
    spec = replace(ChainText().spec, end=4)
    for data, end in ((contract.data, None), (spec, 4)):
        built = contract.config.build(data)
        inference = InferenceConfig(text_sampler("masked"))
        stack = BlockStack(built, lambda block, built=built: random_denoiser(built, block), inference)
        generator = stack.text_generator(Decoding())
        assert isinstance(generator, MaskedGenerator)
        assert generator.end == end


def test_continuations_stop_and_have_no_prompt() -> None:
    """Catches a prompt that is returned with its continuation, and a stop token of the prompt that ends the text."""
    generator = text_stack("masked").text_generator(Decoding())
    prompts, indices = torch.full((30, 2), 1), torch.arange(30)
    free, stopped = (generator.generate(prompts, 4, indices, stop) for stop in (None, 1))
    assert free.shape == (30, 4)
    for row, found in zip(free.tolist(), stopped.tolist(), strict=True):
        place = row.index(1) if 1 in row else 4
        assert found == row[:place] + [1] * (4 - place)
    assert (stopped != 1).any()


def test_more_tokens_than_the_network_has_places_are_refused() -> None:
    """Catches an index error inside of the network."""
    with pytest.raises(UserError, match="7 tokens of prompt and answer do not fit the 6"):
        text_stack("masked").text_generator(Decoding()).generate(torch.tensor([[1, 2]]), 5, torch.arange(1))
