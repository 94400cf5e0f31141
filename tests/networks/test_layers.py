"""The parts of transformers against plain arithmetic; N = 2, T = 5 tokens, D = 12 wide, H = 3 heads."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _device as device

from dbl.networks.layers import (
    Attention,
    Layer,
    ModulatedHead,
    Modulation,
    NoiseEmbedding,
    PatchEmbedding,
    feed_forward,
    initialise,
    modulate,
    sincos_positions,
    unpatchify,
)

N, T, D, H = 2, 5, 12, 3


def randomise(module: nn.Module, std: float = 0.3) -> None:
    """Give every parameter a random value, so that nothing is hidden by a start at 0."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, std, generator=generator)


def tokens(seed: int = 0) -> Tensor:
    return torch.randn(N, T, D, generator=torch.Generator().manual_seed(seed))


def test_attention_is_softmax_of_scaled_products() -> None:
    """Catches heads that are cut across the wrong axis, a missing scale, and queries, keys and values mixed up."""
    attention = Attention(D, H)
    randomise(attention)
    x, size = tokens(), D // H
    out = attention(x)
    weight, bias = attention.qkv.weight, attention.qkv.bias
    for n in range(N):
        q, k, v = ((x[n] @ weight[i * D : (i + 1) * D].T + bias[i * D : (i + 1) * D]) for i in range(3))
        mixed = torch.zeros(T, D)
        for h in range(H):
            part = slice(h * size, (h + 1) * size)
            for t in range(T):
                scores = [math.exp((q[t, part] @ k[u, part]).item() / math.sqrt(size)) for u in range(T)]
                mixed[t, part] = sum(score / sum(scores) * v[u, part] for u, score in enumerate(scores))
        torch.testing.assert_close(out[n], mixed @ attention.out.weight.T + attention.out.bias, rtol=1e-4, atol=1e-5)


def test_attention_drops_in_training_only() -> None:
    """Catches attention dropout that stays on in evaluation: F.scaled_dot_product_attention does not know the mode."""
    attention = Attention(D, H, dropout=0.5)
    randomise(attention)
    x = tokens()
    attention.eval()
    assert torch.equal(attention(x), attention(x))
    attention.train()
    assert not torch.equal(attention(x), attention(x))


def test_samples_do_not_see_each_other() -> None:
    """Catches attention or a norm over the batch axis."""
    layer = Layer(D, H, hidden=7, cond_width=D)
    randomise(layer)
    x, cond = tokens(), torch.randn(N, D, generator=torch.Generator().manual_seed(1))
    changed = x.clone()
    changed[1] += 1
    assert torch.equal(layer(x, cond)[0], layer(changed, cond)[0])
    assert not torch.allclose(layer(x, cond)[1], layer(changed, cond)[1])


def test_modulate_shifts_and_scales_each_sample() -> None:
    """Catches shift and scale exchanged, a scale that starts at 0 and not at 1, or one that varies by token."""
    x = tokens()
    shift, scale = torch.randn(2, N, 1, D, generator=torch.Generator().manual_seed(1))
    out = modulate(x, shift, scale)
    for n in range(N):
        for t in range(T):
            for d in range(D):
                expected = x[n, t, d].item() * (1 + scale[n, 0, d].item()) + shift[n, 0, d].item()
                assert out[n, t, d].item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_modulated_layer_by_hand() -> None:
    """Catches a vector used twice or in the wrong place, or a norm with a scale of its own (DiT, Sec. 3.2)."""
    layer = Layer(D, H, hidden=7, cond_width=D)
    randomise(layer)
    x, cond = tokens(), torch.randn(N, D, generator=torch.Generator().manual_seed(1))

    def norm(values: Tensor) -> Tensor:
        centred = values - values.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()

    vectors = layer.modulation.project(cond * torch.sigmoid(cond))  # N, 6 D
    shift1, scale1, gate1, shift2, scale2, gate2 = (vectors[:, i * D : (i + 1) * D].reshape(N, 1, D) for i in range(6))
    expected = x + gate1 * layer.attention(norm(x) * (1 + scale1) + shift1)
    expected = expected + gate2 * layer.mlp(norm(expected) * (1 + scale2) + shift2)
    torch.testing.assert_close(layer(x, cond), expected, rtol=1e-4, atol=1e-5)


def test_plain_layer_by_hand() -> None:
    """Catches a post-norm layer or a missing residual connection."""
    layer = Layer(D, H, hidden=7)
    randomise(layer)
    x = tokens()
    expected = x + layer.attention(layer.norm1(x))
    expected = expected + layer.mlp(layer.norm2(expected))
    torch.testing.assert_close(layer(x), expected)


def test_modulated_layer_starts_as_the_identity() -> None:
    """Catches gates that do not start at 0, with which a deep stack starts far from its input."""
    layer = Layer(D, H, hidden=7, cond_width=D)
    initialise(layer)
    x = tokens()
    assert torch.equal(layer(x, torch.randn(N, D)), x)


def test_start_values() -> None:
    """Catches a row of the table of start values that is not carried out."""
    network = nn.ModuleDict(
        {"mlp": feed_forward(40, 60), "patches": PatchEmbedding(3, 4, 50), "names": nn.Embedding(60, 40)}
        | {"head": ModulatedHead(40, 30, 40)}
    )
    randomise(network, std=5.0)
    initialise(network)
    linear, head = network["mlp"][0], network["head"]
    for weight, bound in (
        (linear.weight, math.sqrt(6 / (40 + 60))),
        (network["patches"].project.weight, math.sqrt(6 / (3 * 4 * 4 + 50))),
        (head.project.weight, math.sqrt(6 / (40 + 30))),
    ):
        assert 0.97 * bound < weight.abs().max().item() <= bound
        assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert network["names"].weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert head.modulation.project.weight.count_nonzero() == 0
    assert all(
        parameter.count_nonzero() == 0 for name, parameter in network.named_parameters() if name.endswith("bias")
    )


@pytest.mark.parametrize("num_vectors", [2, 6])
def test_modulation_gives_vectors_that_broadcast_over_tokens(num_vectors: int) -> None:
    """Catches vectors that lie on the batch or token axis: [N, 1, D] each, and all different."""
    modulation = Modulation(D, num_vectors, D)
    randomise(modulation)
    vectors = modulation(torch.randn(N, D, generator=torch.Generator().manual_seed(1)))
    assert [vector.shape for vector in vectors] == [(N, 1, D)] * num_vectors
    assert len({vector[0, 0, 0].item() for vector in vectors}) == num_vectors


def test_patches_come_back_in_place() -> None:
    """Catches a transposed grid or patch: with the identity as projection, un-patching undoes patching (3 x 8 x 6)."""
    channels, patch, height, width = 3, 2, 8, 6
    size = channels * patch * patch
    embedding = PatchEmbedding(channels, patch, size)
    with torch.no_grad():
        embedding.project.weight.copy_(torch.eye(size).reshape(size, channels, patch, patch))
        embedding.project.bias.zero_()
    images = torch.randn(N, channels, height, width, generator=torch.Generator().manual_seed(0))
    patches = embedding(images)
    assert patches.shape == (N, 12, size)
    assert torch.equal(patches[:, 4], images[:, :, 2:4, 2:4].flatten(1))  # row 1, column 1 of a grid of 4 x 3
    assert torch.equal(unpatchify(patches, (channels, height, width), patch), images)


def test_positions_are_the_sines_of_row_and_column() -> None:
    """Catches one vector for all positions, or rows and columns exchanged: a grid of 3 x 5, every entry by hand."""
    rows, columns, width = 3, 5, 8
    positions = sincos_positions(rows, columns, width)
    assert positions.shape == (rows * columns, width)
    for r in range(rows):
        for c in range(columns):
            expected = [f(i / 10000 ** (k / 2)) for i in (r, c) for f in (math.sin, math.cos) for k in range(2)]
            assert positions[r * columns + c].tolist() == pytest.approx(expected, abs=1e-6)


def test_noise_features_are_sines_of_geometric_frequencies() -> None:
    """Catches a scalar that reaches the network unscaled, or features that mix samples."""
    embedding = NoiseEmbedding(D, num_frequencies=4)
    embedding.mlp = nn.Identity()
    levels = [-1.55, 0.0, 1.1]
    frequencies = [0.5 * 128 ** (k / 3) for k in range(4)]  # 0.5 to 64
    features = embedding(torch.tensor(levels))
    for n, level in enumerate(levels):
        expected = [f(level * frequency) for f in (math.sin, math.cos) for frequency in frequencies]
        assert features[n].tolist() == pytest.approx(expected, abs=2e-5)


def test_noise_embedding_has_the_width_of_the_network() -> None:
    """Catches features that are not projected, and equal vectors for levels only 5 % apart."""
    vectors = NoiseEmbedding(D)(torch.tensor([0.3, 0.35, 1.0]).log() / 4)
    assert vectors.shape == (3, D)
    near = NoiseEmbedding(D).double()(torch.tensor([1.0, 1.05], dtype=torch.float64).log() / 4)
    assert (near[0] - near[1]).abs().max() > 1e-3


@pytest.mark.parametrize("modulated", [True, False])
def test_the_first_tokens_alone_are_those_of_the_whole_layer(modulated: bool) -> None:
    """Catches queries of other tokens, keys of the first tokens alone, and gradients that do not reach the others."""
    layer = Layer(D, H, hidden=7, cond_width=D if modulated else None).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    x, cond = torch.randn(3, 5, D).double(), torch.randn(3, D).double() if modulated else None
    both = [x.clone().requires_grad_() for _ in range(2)]
    whole, first = layer(both[0], cond)[:, :2], layer(both[1], cond, num_queries=2)
    torch.testing.assert_close(first, whole, rtol=1e-8, atol=1e-10)
    for output in (whole, first):
        output.square().sum().backward()
    torch.testing.assert_close(both[1].grad, both[0].grad, rtol=1e-8, atol=1e-10)


def test_positions_are_on_the_device_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches positions on the CPU of a network without memory, in a process that has loaded a model of transformers.

    While it loads, transformers 5 puts a function of its own in the place of `torch.linspace`; if torch lists the
    functions that make tensors at that moment, the real one is not among them for the rest of the process.
    """
    listed = device._device_constructors() - {torch.linspace}
    monkeypatch.setattr(device, "_device_constructors", lambda: listed)
    with torch.device("meta"):
        assert sincos_positions(2, 2, 8).device.type == "meta"
