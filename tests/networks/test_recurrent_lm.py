"""RecurrentLM; N = 3 sequences, T = 6 tokens, D = 5 of a vector, C = 11 tokens, W = 16 of the state."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dbl.data.spec import ImageSpec, TextSpec
from dbl.networks import RecurrentLM
from dbl.networks.layers import checkpoint_layers
from dbl.networks.recurrent_lm import RecurrentBaseline, RecurrentNetwork
from dbl.utils.errors import UserError

N, T, D, C, W = 3, 6, 5, 11, 16
SIZES = RecurrentLM(num_layers=5, prelude=1, coda=2, width=W, num_heads=2, mlp_width=20)
TEXT = TextSpec(
    name="toy", identity="toy-1", num_classes=C, class_frequencies=(1 / C,) * C, seq_len=T, tokenizer="letters"
)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def randomise(module: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, 0.3, generator=generator)


def build(random_start: bool = True, embedding: str = "own") -> RecurrentNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = replace(SIZES, embedding=embedding).build(TEXT, (T, D), 5, F.normalize(random(C, D, seed=9)))
    if random_start:
        randomise(network)
    return network


def build_baseline(random_start: bool = True, embedding: str = "own") -> RecurrentBaseline:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = replace(SIZES, embedding=embedding).build_recurrent(TEXT, D, F.normalize(random(C, D, seed=9)))
    if random_start:
        randomise(network)
    return network


def tokens() -> Tensor:
    return torch.randint(0, C, (N, T), generator=torch.Generator().manual_seed(1))


def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Noisy vectors, c_noise and clean tokens."""
    return random(N, T, D), torch.linspace(-1.0, 0.8, N), tokens()


def changed(before: Tensor, after: Tensor) -> list[int]:
    """The positions whose vectors differ in some sequence."""
    return (before != after).any(dim=2).any(dim=0).nonzero().flatten().tolist()


def gradients(network: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad for name, parameter in network.named_parameters()}


def test_the_denoiser_is_causal() -> None:
    """Catches a leak of later tokens or later noisy vectors, and earlier ones that are not used."""
    network = build().eval()
    noisy, c_noise, cond = batch()
    out = network(noisy, c_noise, cond)
    assert out.shape == (N, T, D)
    for j in range(T):
        other_cond, other_noisy = cond.clone(), noisy.clone()
        other_cond[:, j] = (cond[:, j] + 1) % C
        other_noisy[:, j] += 1
        assert changed(out, network(noisy, c_noise, other_cond)) == list(range(j, T))
        assert changed(out, network(other_noisy, c_noise, cond)) == list(range(j, T))


def test_the_baseline_is_causal() -> None:
    """Catches a leak through any of the passes."""
    network, state = build_baseline().eval(), random(N, T, W)
    out = network(tokens(), state, iterations=3)
    assert out.shape == (N, T, D)
    for j in range(T):
        other_tokens, other_state = tokens(), state.clone()
        other_tokens[:, j] = (other_tokens[:, j] + 1) % C
        other_state[:, j] += 1
        assert changed(out, network(other_tokens, state, iterations=3)) == list(range(j, T))
        assert changed(out, network(tokens(), other_state, iterations=3)) == list(range(j, T))


def test_the_noise_level_reaches_its_own_sequence_only() -> None:
    """Catches a level that is ignored or used for another sequence."""
    network = build().eval()
    noisy, c_noise, cond = batch()
    difference = network(noisy, c_noise + torch.tensor([0.0, 0.2, 0.0]), cond) - network(noisy, c_noise, cond)
    difference = difference.abs().flatten(1).amax(dim=1)
    assert difference[1] > 1e-3
    assert difference[[0, 2]].max() == 0


def test_the_noise_level_modulates_core_and_coda_only() -> None:
    """Catches a prelude that depends on the level, which a sampler could not reuse."""
    modulated = [layer.modulation is not None for layer in build().layers]
    assert modulated == [False, True, True, True, True]
    assert not any(layer.modulation for layer in build_baseline().layers)


def test_order_matters() -> None:
    """Catches positions that are missing: the last output would not tell which of two earlier tokens came first."""
    network, state = build_baseline().eval(), torch.zeros(1, T, W)
    out = [network(torch.tensor([[*order, 3, 4, 5, 6]]), state, iterations=1) for order in ((1, 2), (2, 1))]
    assert (out[0] - out[1])[:, -1].abs().max() > 1e-4


def test_iterations_go_on_from_the_last_state() -> None:
    """Catches a number of iterations that is ignored, and passes that start afresh or forget the tokens."""
    network, state = build_baseline().eval(), random(N, T, W)
    outs = [network(tokens(), state, iterations) for iterations in (1, 2, 3)]
    assert min((outs[0] - outs[1]).abs().max(), (outs[1] - outs[2]).abs().max()) > 1e-4
    place = network.whole(tokens())
    after = network.iterate(state, network.embed(tokens(), place), place)
    torch.testing.assert_close(network(tokens(), after, iterations=2), outs[2])


def test_one_pass_of_the_core_uses_every_core_layer_once() -> None:
    """Catches layers of the prelude or the coda that are repeated, or core layers that are not."""
    network, calls = build_baseline(), []
    for number, layer in enumerate(network.layers):
        layer.register_forward_hook(lambda *_, number=number: calls.append(number))
    network(tokens(), random(N, T, W), iterations=2)
    assert calls == [0, 1, 2, 1, 2, 3, 4]


@pytest.mark.parametrize("backprop_iterations", [3, 7, None])
def test_long_back_propagation_is_the_full_one(backprop_iterations: int | None) -> None:
    """Catches a truncation that cuts one pass too many."""
    network, state = build_baseline(), random(N, T, W).requires_grad_()
    network(tokens(), state, 3, backprop_iterations).square().sum().backward()
    assert state.grad.abs().max() > 0
    # The same by hand, without a word about gradients.
    place = network.whole(tokens())
    reached, by_hand = gradients(network), copy.deepcopy(network)
    by_hand.zero_grad()
    x = state.detach()
    for _ in range(3):
        x = by_hand.iterate(x, by_hand.embed(tokens(), place), place)
    by_hand.read(x, place).square().sum().backward()
    for name, gradient in gradients(by_hand).items():
        torch.testing.assert_close(reached[name], gradient, rtol=1e-4, atol=1e-4)


def test_truncated_back_propagation_stops_at_the_state() -> None:
    """Catches gradients through all passes (memory grows with depth), changed outputs, and a prelude cut off."""
    network, state = build_baseline(), random(N, T, W).requires_grad_()
    full = network(tokens(), state, 4)
    out = network(tokens(), state, 4, backprop_iterations=1)
    assert torch.equal(out, full)
    out.square().sum().backward()
    assert state.grad is None
    truncated = {name: gradient.clone() for name, gradient in gradients(network).items()}
    assert truncated["layers.0.mlp.down.weight"].abs().max() > 0
    # One pass from the state that three passes leave.
    network.zero_grad()
    place = network.whole(tokens())
    with torch.no_grad():
        embedded, last = network.embed(tokens(), place), state
        for _ in range(3):
            last = network.iterate(last, embedded, place)
    network(tokens(), last, 1).square().sum().backward()
    for name, gradient in gradients(network).items():
        torch.testing.assert_close(truncated[name], gradient)


def test_truncation_turns_no_gradients_on() -> None:
    """Catches gradients in evaluation: memory would grow with every pass."""
    network, tracked = build_baseline(), []
    network.core_norm.register_forward_hook(lambda _, inputs, out: tracked.append(out.requires_grad))
    with torch.no_grad():
        network(tokens(), random(N, T, W), 3, 2)
    assert tracked == [False] * 3


@pytest.mark.parametrize("embedding", ["own", "table"])
def test_every_parameter_learns_by_the_second_step(embedding: str) -> None:
    """Catches parameters that nothing reads, and gates that never open."""
    for network, inputs in (
        (build(random_start=False, embedding=embedding), batch()),
        (build_baseline(random_start=False, embedding=embedding), (tokens(), random(N, T, W), 2)),
    ):
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
        for _ in range(2):
            optimizer.zero_grad()
            F.mse_loss(network(*inputs), random(N, T, D, seed=3)).backward()
            optimizer.step()
        silent = [
            name for name, gradient in gradients(network).items() if gradient is None or gradient.abs().max() == 0
        ]
        assert silent == []


def test_checkpointing_changes_no_gradient() -> None:
    """Catches layers that activation checkpointing cannot find or runs differently when they are repeated."""
    for plain, inputs in ((build(), batch()), (build_baseline(), (tokens(), random(N, T, W), 3, 2))):
        saving = copy.deepcopy(plain)
        checkpoint_layers(saving)
        for network in (plain, saving):
            network(*inputs).square().sum().backward()
        for a, b in zip(plain.parameters(), saving.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("embedding", ["own", "table"])
def test_layers_add_up_in_float32(embedding: str) -> None:
    """Catches a sum of layers in low precision, in which small late contributions are rounded away."""
    for network, inputs in (
        (build(embedding=embedding), batch()),
        (build_baseline(embedding=embedding), (tokens(), random(N, T, W), 2)),
    ):
        dtypes: list[torch.dtype] = []
        for layer in network.layers:
            layer.register_forward_pre_hook(lambda _, args, dtypes=dtypes: dtypes.append(args[0].dtype))
        with torch.autocast("cpu", torch.bfloat16):
            network(*inputs)
        assert set(dtypes) == {torch.float32}


def test_the_halves_of_the_adapter_start_as_one_layer() -> None:
    """Catches halves that start as layers of their own: their sum would be too large by the square root of 2."""
    network = RecurrentLM(width=64, num_heads=4, mlp_width=96).build_recurrent(TEXT, D)
    for half in (network.adapt_state, network.adapt_embedding):
        assert half.weight.std().item() == pytest.approx(128**-0.5, rel=0.1)


def test_the_denoiser_is_one_block() -> None:
    """Catches a cut through layers that are one and the same at every level."""
    with pytest.raises(UserError, match=r"contract\.partition\.num_blocks=1"):
        SIZES.build(TEXT, (T, D), 2)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"num_layers": 3}, r"num_layers \(3\).*prelude \(1\).*coda \(2\)"),
        ({"prelude": -1}, "prelude"),
        ({"coda": -1}, "coda"),
        ({"num_heads": 16}, "even"),
        ({"mlp_width": 0}, "mlp_width"),
        ({"embedding": "other"}, "embedding"),
    ],
    ids=str,
)
def test_impossible_sizes_are_refused(change: dict[str, int | str], match: str) -> None:
    """Catches a model without a core, and sizes that fail inside torch."""
    with pytest.raises(UserError, match=match):
        replace(SIZES, **change)


@pytest.mark.parametrize(("iterations", "backprop_iterations"), [(0, None), (2, 0)])
def test_no_iterations_are_refused(iterations: int, backprop_iterations: int | None) -> None:
    """Catches a model that returns its start state, or a core that never learns."""
    with pytest.raises(UserError, match="iterations"):
        build_baseline()(tokens(), random(N, T, W), iterations, backprop_iterations)


def test_images_and_other_targets_are_refused(data_spec: ImageSpec) -> None:
    """Catches a text network on images, and one on targets that are not one vector for each token."""
    with pytest.raises(UserError, match="text"):
        SIZES.build(data_spec, (T, D), 5)
    with pytest.raises(UserError, match="text"):
        SIZES.build_recurrent(data_spec, D)
    with pytest.raises(UserError, match="TokenTarget"):
        SIZES.build(TEXT, (T,), 5)
