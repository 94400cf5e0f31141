"""MaskedLM; N = 3 sequences, T = 6 tokens, C = 11 tokens."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dbl.data.spec import ImageSpec, TextSpec
from dbl.networks import MaskedLM
from dbl.networks.layers import checkpoint_layers
from dbl.networks.masked_lm import MaskedNetwork
from dbl.utils.errors import UserError

N, T, C = 3, 6, 11
SIZES = MaskedLM(num_layers=4, width=16, num_heads=2, mlp_width=24)
TEXT = TextSpec(
    name="toy", identity="toy-1", num_classes=C, class_frequencies=(1 / C,) * C, seq_len=T, tokenizer="letters"
)


def randomise(module: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, 0.3, generator=generator)


def build(num_layers: int = 2) -> MaskedNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SIZES.build(TEXT, (T,), num_layers)


def batch() -> tuple[Tensor, Tensor]:
    """Tokens, some of them masked, and c_noise."""
    tokens = torch.randint(0, C + 1, (N, T), generator=torch.Generator().manual_seed(1))
    tokens[:, 2] = C
    return tokens, torch.linspace(-1.0, 0.8, N)


def test_the_answer_is_logits_of_real_tokens() -> None:
    """Catches a mask without an embedding, and a network that may answer with the mask."""
    network = build()
    randomise(network)
    out = network(*batch())
    assert out.shape == (N, T, C)
    assert out.isfinite().all()


def test_at_first_all_tokens_are_equally_likely() -> None:
    """Catches a head that does not start at 0: training would begin worse than knowing nothing."""
    assert torch.equal(build()(*batch()), torch.zeros(N, T, C))


def test_every_token_sees_every_other_of_its_own_sequence() -> None:
    """Catches causal attention, tokens that are never mixed, and sequences that are."""
    network = build(num_layers=1).eval()
    randomise(network)
    tokens, c_noise = batch()
    out = network(tokens, c_noise)
    for place in (0, T - 1):
        other = tokens.clone()
        other[1, place] = (tokens[1, place] + 1) % C
        difference = (network(other, c_noise) - out).abs().amax(dim=2)  # N, T
        assert difference[1].min() > 1e-5
        assert difference[[0, 2]].max() == 0


def test_level_and_place_matter() -> None:
    """Catches a level or positions that are not used."""
    network = build(num_layers=1).eval()
    randomise(network)
    tokens, c_noise = batch()
    out = network(tokens, c_noise)
    difference = (network(tokens, c_noise + torch.tensor([0.0, 0.2, 0.0])) - out).abs().flatten(1).amax(dim=1)
    assert difference[1] > 1e-3
    assert difference[[0, 2]].max() == 0
    row = tokens[:1].clone()
    row[0, :2] = torch.tensor([3, 4])
    turned = row.clone()
    turned[0, :2] = torch.tensor([4, 3])
    # What a token sees is the same set; only the places differ.
    assert (network(turned, c_noise[:1]) - network(row, c_noise[:1]))[0, 2:].abs().amax(dim=1).min() > 1e-4


def test_short_sequences_are_the_start_of_long_ones() -> None:
    """Catches a network that only takes the full length, or places short sequences elsewhere."""
    network = build(num_layers=1).eval()
    randomise(network)
    with torch.no_grad():
        network.layers[0].attention.out.weight.zero_()  # without attention the tokens do not see how many they are
    tokens, c_noise = batch()
    torch.testing.assert_close(network(tokens[:, :4], c_noise), network(tokens, c_noise)[:, :4])


def test_the_condition_is_ignored() -> None:
    """Catches a condition that changes the answer: the unmasked tokens are the only one."""
    network = build()
    randomise(network)
    assert torch.equal(network(*batch(), torch.ones(N, T)), network(*batch()))


def test_every_parameter_learns() -> None:
    """Catches parts that zero starts cut off for good: the head learns at once, all else within four steps."""
    network = build()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    labels = torch.randint(0, C, (N, T), generator=torch.Generator().manual_seed(2))
    for step in range(4):
        optimizer.zero_grad()
        F.cross_entropy(network(*batch()).transpose(1, 2), labels).backward()
        if step == 0:
            assert network.head.project.weight.grad.abs().max() > 0
        optimizer.step()
    silent = [name for name, parameter in network.named_parameters() if not parameter.grad.abs().max() > 0]
    assert silent == []


def test_checkpointing_changes_no_gradient() -> None:
    """Catches layers that activation checkpointing cannot find or runs differently."""
    plain = build(num_layers=3)
    randomise(plain)
    saving = copy.deepcopy(plain)
    checkpoint_layers(saving)
    for network in (plain, saving):
        network(*batch()).square().sum().backward()
    for a, b in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_blocks_together_have_the_layers_of_the_whole() -> None:
    """Catches a block that builds layers of other blocks, whose memory would not shrink."""
    assert [len(build(num).layers) for num in (1, 3)] == [1, 3]


def test_impossible_sizes_and_other_data_are_refused(data_spec: ImageSpec) -> None:
    """Catches failures inside torch in place of one clear line."""
    with pytest.raises(UserError, match="num_heads"):
        replace(SIZES, num_heads=3)
    with pytest.raises(UserError, match="mlp_width"):
        replace(SIZES, mlp_width=0)
    with pytest.raises(UserError, match="text"):
        SIZES.build(data_spec, (T,), 2)
    with pytest.raises(UserError, match="MaskTarget"):
        SIZES.build(TEXT, (T, 5), 2)
