"""CausalLM and the parts of Llama layers; N = 3 sequences, T = 6 tokens, D = 5 of a vector, C = 11 tokens."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dbl.data.spec import ImageSpec, TextSpec
from dbl.networks import CausalLM
from dbl.networks.causal_lm import CausalNetwork, Context
from dbl.networks.layers import checkpoint_layers
from dbl.networks.llama import LlamaLayer, RotaryAttention, SwiGLU, rotary_angles, rotate
from dbl.utils.errors import UserError

N, T, D, C = 3, 6, 5, 11
SIZES = CausalLM(num_layers=4, width=16, num_heads=2, mlp_width=20)
TEXT = TextSpec(
    name="toy", identity="toy-1", num_classes=C, class_frequencies=(1 / C,) * C, seq_len=T, tokenizer="letters"
)
BOTH = pytest.mark.parametrize("streams", ["two", "clean"])


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def randomise(module: nn.Module) -> None:
    """Give every parameter a random value, so that nothing is hidden by a start at 0."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, 0.3, generator=generator)


def build(num_layers: int = 2, random_start: bool = True, **changes: str) -> CausalNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = replace(SIZES, **changes).build(TEXT, (T, D), num_layers, F.normalize(random(C, D, seed=9)))
    if random_start:
        randomise(network)
    return network


def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Noisy vectors, c_noise and clean tokens."""
    tokens = torch.randint(0, C, (N, T), generator=torch.Generator().manual_seed(1))
    return random(N, T, D), torch.linspace(-1.0, 0.8, N), tokens


def changed(before: Tensor, after: Tensor) -> list[int]:
    """The positions whose vectors differ in some sequence."""
    return (before != after).any(dim=2).any(dim=0).nonzero().flatten().tolist()


def test_rotation_depends_on_the_distance_only() -> None:
    """Catches pairs of coordinates that do not turn together, and positions that start elsewhere than they should."""
    query, key = random(1, 1, 2, 8), random(1, 1, 2, 8, seed=1)

    def product(i: int, j: int) -> Tensor:
        angles = [rotary_angles(start, 1, 8, torch.device("cpu")) for start in (i, j)]
        return (rotate(query, angles[0]) * rotate(key, angles[1])).sum(-1)

    torch.testing.assert_close(product(7, 4), product(3, 0))
    assert (product(7, 4) - product(7, 3)).abs().max() > 1e-2
    pair = rotate(torch.tensor([[[[1.0, 0.0]]]]), rotary_angles(2, 1, 2, torch.device("cpu")))
    torch.testing.assert_close(pair.flatten(), torch.tensor([math.cos(2), math.sin(2)]))


def test_attention_is_softmax_of_scaled_products_of_what_came_before() -> None:
    """Catches heads cut across the wrong axis, a missing scale, and keys and values mixed up."""
    attention = RotaryAttention(12, 3)
    randomise(attention)
    x, angles = random(N, T, 12), rotary_angles(0, T, 4, torch.device("cpu"))
    out, seen = attention(x, angles)
    query = rotate((x @ attention.query.weight.T).reshape(N, T, 3, 4), angles)
    key = rotate((x @ attention.key_value.weight[:12].T).reshape(N, T, 3, 4), angles)
    value = (x @ attention.key_value.weight[12:].T).reshape(N, T, 3, 4)
    torch.testing.assert_close(seen.keys, key.transpose(1, 2))
    mixed = torch.zeros(N, T, 3, 4)
    for n in range(N):
        for t in range(T):
            for h in range(3):
                weights = (key[n, : t + 1, h] @ query[n, t, h] / 2).softmax(0)
                mixed[n, t, h] = weights @ value[n, : t + 1, h]
    torch.testing.assert_close(out, mixed.flatten(2) @ attention.out.weight.T, rtol=1e-4, atol=1e-5)


def test_the_mlp_is_gated() -> None:
    """Catches gate and value exchanged, which no shape would show."""
    mlp, x = SwiGLU(4, 7), random(2, 3, 4)
    gate, up = mlp.gate_up.weight[:7], mlp.gate_up.weight[7:]
    torch.testing.assert_close(mlp(x), (F.silu(x @ gate.T) * (x @ up.T)) @ mlp.down.weight.T)


def test_a_modulated_layer_starts_as_the_identity_for_modulated_tokens_only() -> None:
    """Catches gates that start open, and gates that also close the clean stream."""
    layer = LlamaLayer(8, 2, 12, cond_width=8)
    randomise(layer)
    nn.init.zeros_(layer.modulation.project.weight)
    nn.init.zeros_(layer.modulation.project.bias)
    x, angles = random(2, 3, 8), rotary_angles(0, 3, 4, torch.device("cpu"))
    assert torch.equal(layer(x, angles, noise=random(2, 8))[0], x)
    assert (layer(x, angles)[0] - x).abs().max() > 1e-2


@BOTH
def test_clean_tokens_reach_outputs_from_their_own_position_on(streams: str) -> None:
    """Catches a leak: a token seen by the vector that stands for it, or lost to the one after it."""
    network = build(streams=streams).eval()
    noisy, c_noise, tokens = batch()
    out = network(noisy, c_noise, tokens)
    assert out.shape == (N, T, D)
    for j in range(T):
        other = tokens.clone()
        other[:, j] = (tokens[:, j] + 1) % C
        assert changed(out, network(noisy, c_noise, other)) == list(range(j, T))


def test_a_noisy_vector_reaches_its_own_output_only() -> None:
    """Catches noisy vectors that see each other, which no sampler could provide in one pass over a text."""
    network = build().eval()
    noisy, c_noise, tokens = batch()
    out = network(noisy, c_noise, tokens)
    for k in range(T):
        other = noisy.clone()
        other[:, k] += 1
        assert changed(out, network(other, c_noise, tokens)) == [k]


def test_the_noise_level_reaches_its_own_sequence_only() -> None:
    """Catches a level that is ignored or used for another sequence."""
    network = build().eval()
    noisy, c_noise, tokens = batch()
    out = network(noisy, c_noise, tokens)
    other = c_noise.clone()
    other[1] += 0.2
    difference = (network(noisy, other, tokens) - out).abs().flatten(1).max(dim=1).values
    assert difference[1] > 1e-3
    assert difference[[0, 2]].max() == 0


def test_the_context_is_computed_without_any_modulation() -> None:
    """Catches noise that enters the clean stream: the context would then hold for one level only."""
    network = build().eval()
    before = network.extend(batch()[2])
    with torch.no_grad():
        for layer in network.layers:
            layer.modulation.project.bias += 1
        for parameter in network.noise_embedding.parameters():
            parameter += 1
    after = network.extend(batch()[2])
    assert before.length == T
    assert all(
        torch.equal(a, b)
        for pair in zip(before.memories, after.memories, strict=True)
        for a, b in zip(*pair, strict=True)
    )


@BOTH
@pytest.mark.parametrize("embedding", ["own", "table"])
def test_a_text_read_token_by_token_gives_the_same_outputs(streams: str, embedding: str) -> None:
    """Catches positions, masks and memories that differ between training and generation."""
    network = build(num_layers=3, streams=streams, embedding=embedding).eval()
    noisy, c_noise, tokens = batch()
    whole = network(noisy, c_noise, tokens)
    context: Context | None = None
    for i in range(T):
        context = network.extend(tokens[:, i : i + 1], context)
        assert context.length == i + 1
        torch.testing.assert_close(
            network(noisy[:, i : i + 1], c_noise, context), whole[:, i : i + 1], rtol=1e-5, atol=1e-5
        )


@BOTH
def test_a_text_read_in_pieces_gives_the_same_outputs(streams: str) -> None:
    """Catches a causal mask that is aligned to the wrong end behind a memory, and an extended context that changes."""
    network = build(num_layers=3, streams=streams).eval()
    noisy, c_noise, tokens = batch()
    whole = network(noisy, c_noise, tokens)
    first = network.extend(tokens[:, :2])
    both = network.extend(tokens[:, 2:], first)
    assert (first.length, both.length) == (2, T)
    torch.testing.assert_close(network(noisy[:, 1:], c_noise, both), whole[:, 1:], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(network(noisy[:, :2], c_noise, first), whole[:, :2], rtol=1e-5, atol=1e-5)


def test_noisy_vectors_take_the_places_of_the_tokens_they_stand_for() -> None:
    """Catches noisy i at position i, where attention could not tell it from the token before it."""
    network, cosines = build(num_layers=2), []
    network.layers[0].register_forward_pre_hook(lambda _, inputs: cosines.append(inputs[1][0]))
    network(*batch())
    clean, noisy = cosines
    torch.testing.assert_close(noisy[:-1], clean[1:])
    assert clean[0].eq(1).all()


def test_the_clean_model_needs_no_noise() -> None:
    """Catches a baseline that carries or reads the parts of the denoiser."""
    network = build(streams="clean").eval()
    noisy, c_noise, tokens = batch()
    out = network(None, None, tokens)
    assert torch.equal(out, network(noisy, c_noise, tokens))
    assert torch.equal(network(None, None, network.extend(tokens)), out[:, -1:])
    names = " ".join(name for name, _ in network.named_parameters())
    assert "noise" not in names
    assert "modulation" not in names
    assert "noisy" not in names


@BOTH
def test_the_order_of_tokens_matters(streams: str) -> None:
    """Catches positions that are missing: the last output would not tell which of two earlier tokens came first."""
    network = build(num_layers=1, streams=streams).eval()
    noisy, c_noise, _ = batch()
    out = [network(noisy[:1], c_noise[:1], torch.tensor([[*order, 3, 4, 5, 6]])) for order in ((1, 2), (2, 1))]
    assert (out[0] - out[1])[:, -1].abs().max() > 1e-4


@BOTH
@pytest.mark.parametrize("embedding", ["own", "table"])
def test_every_parameter_learns_by_the_second_step(streams: str, embedding: str) -> None:
    """Catches parameters that nothing reads, and gates that never open."""
    network = build(random_start=False, streams=streams, embedding=embedding)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        F.mse_loss(network(*batch()), random(N, T, D, seed=3)).backward()
        optimizer.step()
    silent = [
        name
        for name, parameter in network.named_parameters()
        if parameter.grad is None or parameter.grad.abs().max() == 0
    ]
    assert silent == []


def test_the_last_layer_of_the_clean_stream_is_read_only() -> None:
    """Catches work that nothing needs: attention runs once less for the clean stream than there are layers."""
    network, calls = build(num_layers=3), []
    for layer in network.layers:
        layer.mlp.register_forward_hook(lambda *_: calls.append("mlp"))
        layer.attention.query.register_forward_hook(lambda *_: calls.append("query"))
    network(*batch())
    assert (calls.count("mlp"), calls.count("query")) == (5, 5)


def test_the_table_is_frozen_and_not_saved() -> None:
    """Catches a table that is trained or stored with every block, and an embedding with parameters for each token."""
    own, table = build(embedding="own"), build(embedding="table")
    assert own.embedding.weight.shape == (C, SIZES.width)
    assert [parameter.shape for parameter in table.embedding.parameters()] == [(SIZES.width, D)]
    assert not any(key.endswith("table") for key in table.state_dict())
    _, _, tokens = batch()
    expected = F.normalize(random(C, D, seed=9))[tokens] @ table.embedding.project.weight.T
    torch.testing.assert_close(table.embedding(tokens), expected)


@pytest.mark.parametrize("table", [None, torch.eye(C + 1)], ids=["none", "of other tokens"])
def test_a_missing_table_is_refused(table: Tensor | None) -> None:
    """Catches an index error in training in place of one clear line before it."""
    with pytest.raises(UserError, match="embedding"):
        replace(SIZES, embedding="table").build(TEXT, (T, D), 1, table)


@BOTH
def test_checkpointing_changes_no_gradient(streams: str) -> None:
    """Catches layers that activation checkpointing runs differently or passes by."""
    plain = build(num_layers=3, streams=streams)
    saving = copy.deepcopy(plain)
    checkpoint_layers(saving)
    calls: list[int] = []
    saving.layers[0].norm1.register_forward_hook(lambda *_: calls.append(0))
    for network in (plain, saving):
        network(*batch()).square().sum().backward()
    assert len(calls) == (4 if streams == "two" else 2)  # forward, and once more in the backward pass
    for a, b in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@BOTH
@pytest.mark.parametrize("embedding", ["own", "table"])
def test_layers_add_up_in_float32(streams: str, embedding: str) -> None:
    """Catches a sum of layers in low precision, in which small late contributions are rounded away."""
    network, inputs = build(streams=streams, embedding=embedding), []
    for layer in network.layers:
        layer.register_forward_pre_hook(lambda _, args: inputs.append(args[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        network(*batch())
    assert set(inputs) == {torch.float32}


def test_blocks_together_have_the_layers_of_the_whole() -> None:
    """Catches a block that builds layers of other blocks, whose memory would not shrink."""
    sizes = [[sum(p.numel() for p in layer.parameters()) for layer in build(num).layers] for num in (4, 1)]
    assert sizes[0] == sizes[1] * 4


def test_residual_outputs_start_small() -> None:
    """Catches start values with which a deep network's activations grow with its depth."""
    network = CausalLM(width=64, num_heads=4, mlp_width=96).build(TEXT, (T, D), 8)
    layer = network.layers[5]
    assert network.embedding.weight.std().item() == pytest.approx(0.3, rel=0.1)
    assert layer.attention.query.weight.std().item() == pytest.approx(64**-0.5, rel=0.1)
    assert layer.attention.out.weight.std().item() == pytest.approx(64**-0.5 / 4, rel=0.1)
    assert layer.mlp.down.weight.std().item() == pytest.approx(96**-0.5 / 4, rel=0.1)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"num_heads": 3}, r"width \(16\).*num_heads \(3\)"),
        ({"num_heads": 16}, "even"),
        ({"num_heads": 0}, "num_heads"),
        ({"width": 0}, "width"),
        ({"mlp_width": 0}, "mlp_width"),
        ({"streams": "one"}, "streams"),
        ({"embedding": "other"}, "embedding"),
    ],
    ids=str,
)
def test_impossible_sizes_are_refused(change: dict[str, int | str], match: str) -> None:
    """Catches sizes that fail inside torch with a message about shapes, and words that are silently ignored."""
    with pytest.raises(UserError, match=match):
        replace(SIZES, **change)


def test_images_and_other_targets_are_refused(data_spec: ImageSpec) -> None:
    """Catches a text network on images, and one on targets that are not one vector for each token."""
    with pytest.raises(UserError, match="text"):
        SIZES.build(data_spec, (T, D), 2)
    with pytest.raises(UserError, match="TokenTarget"):
        SIZES.build(TEXT, (T,), 2)
