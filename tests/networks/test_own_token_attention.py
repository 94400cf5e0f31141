"""Attention over clean tokens and the own one; N = 2 texts, H = 3 heads, 8 numbers of a key."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from dbl.data.spec import TextSpec
from dbl.networks import CausalLM, own_token_attention
from dbl.networks.causal_lm import CausalNetwork
from dbl.networks.kv_cache import KeysValues
from dbl.networks.own_token_attention import _OwnTokenAttention, up_to_and_itself

N, H, WIDTH = 2, 3, 8
# Neither is a multiple of the tiles of a kernel; the last has several tiles of keys on a CPU.
LENGTHS = [2, 7, 130, 600]
TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-5, torch.bfloat16: 4e-2}


def tensors(length: int, dtype: torch.dtype = torch.float64, clean: int | None = None) -> list[Tensor]:
    """Query, clean keys and values, own keys and values, laid out as the layers do."""
    generator = torch.Generator().manual_seed(0)
    lengths = [length, clean or length, clean or length, length, length]
    made = [torch.randn(N, size, H, WIDTH, generator=generator, dtype=torch.float64) for size in lengths]
    return [tensor.to(dtype).transpose(1, 2).requires_grad_() for tensor in made]


def attend(query: Tensor, keys: Tensor, values: Tensor, own_keys: Tensor, own_values: Tensor) -> Tensor:
    clean, own = KeysValues(keys, values), KeysValues(own_keys, own_values)
    return own_token_attention.own_token_attention(query, clean, own)


def by_definition(query: Tensor, keys: Tensor, values: Tensor, own_keys: Tensor, own_values: Tensor) -> Tensor:
    """Softmax over the clean tokens up to the own place and the own token, one query after the other."""
    outputs, before = [], keys.shape[2] - query.shape[2]
    for i in range(query.shape[2]):
        seen_keys = torch.cat([keys[:, :, : before + i + 1], own_keys[:, :, i : i + 1]], dim=2)
        seen_values = torch.cat([values[:, :, : before + i + 1], own_values[:, :, i : i + 1]], dim=2)
        scores = seen_keys @ query[:, :, i, :, None] * WIDTH**-0.5  # N, H, seen, 1
        outputs.append((scores.softmax(dim=2) * seen_values).sum(dim=2))
    return torch.stack(outputs, dim=2)


def with_mask(query: Tensor, keys: Tensor, values: Tensor, own_keys: Tensor, own_values: Tensor) -> Tensor:
    seen, length = KeysValues(keys, values).append(own_keys, own_values), query.shape[2]
    mask = up_to_and_itself(0, length, query.device)
    return F.scaled_dot_product_attention(query, *seen, attn_mask=mask)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("length", LENGTHS)
def test_it_is_attention_with_the_mask(length: int, dtype: torch.dtype) -> None:
    """Catches a merge that loses a part, and gradients of the parts before they were merged."""
    inputs = tensors(length, dtype)
    weights = torch.randn(N, H, length, WIDTH, generator=torch.Generator().manual_seed(1)).to(dtype)
    found, expected = attend(*inputs), with_mask(*inputs)
    assert found.dtype == dtype
    assert type(found.grad_fn).__name__ == "_OwnTokenAttentionBackward"  # no mask is made
    of_found, of_expected = (torch.autograd.grad((out * weights).sum(), inputs) for out in (found, expected))
    for a, b in zip((found, *of_found), (expected, *of_expected), strict=True):
        torch.testing.assert_close(a, b, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def test_gradients_are_those_of_finite_differences() -> None:
    """Catches a wrong formula that the form with a mask would share."""
    assert torch.autograd.gradcheck(attend, tensors(5))


@pytest.mark.parametrize(("length", "clean"), [(1, 1), (4, 4), (4, 9), (1, 9)])
def test_clean_tokens_before_the_first_query_are_seen(length: int, clean: int) -> None:
    """Catches queries aligned to the wrong end of the memory."""
    inputs = tensors(length, clean=clean)
    torch.testing.assert_close(attend(*inputs), by_definition(*inputs))


@pytest.mark.parametrize("length", LENGTHS[1:])
def test_later_clean_tokens_and_other_noisy_vectors_are_not_seen(length: int) -> None:
    """Catches a leak, in values and in gradients: not even the last bit may change."""
    inputs, place = tensors(length), length // 2
    before = attend(*inputs)
    for number in (1, 2, 3, 4):
        others = [tensor.detach().clone() for tensor in inputs]
        others[number][:, :, place] += 1
        places = (attend(*others) != before).any(dim=3).any(dim=1).any(dim=0).nonzero().flatten().tolist()
        assert places == (list(range(place, length)) if number < 3 else [place])
    _, of_keys, of_values, own_keys, own_values = torch.autograd.grad(before[:, :, place].sum(), inputs)
    for of_clean, of_own in ((of_keys, own_keys), (of_values, own_values)):
        assert of_clean[:, :, place + 1 :].eq(0).all()
        assert of_clean[:, :, place].abs().max() > 0
        of_own[:, :, place] = 0
        assert of_own.eq(0).all()


@pytest.mark.parametrize("scale", [-1e4, 1e4])
def test_extreme_scores_overflow_nowhere(scale: float) -> None:
    """Catches exponentials of scores themselves: the own token has all of the weight, or none."""
    inputs = [tensor.detach() for tensor in tensors(7, torch.float32)]
    inputs[3] = scale * inputs[0]  # own scores of one sign
    inputs = [tensor.requires_grad_() for tensor in inputs]
    out = attend(*inputs)
    torch.testing.assert_close(out, by_definition(*inputs), rtol=1e-4, atol=1e-5)
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(out.sum(), inputs))


def test_calls_of_the_kernels_for_cuda_are_valid() -> None:
    """Catches arguments that these kernels refuse; tensors without data show no more without a GPU."""
    context = SimpleNamespace()
    context.save_for_backward = lambda *saved: setattr(context, "saved_tensors", saved)
    with FakeTensorMode():
        shape = (N, 7, H, WIDTH)
        inputs = [torch.empty(shape, device="cuda", dtype=torch.bfloat16).transpose(1, 2) for _ in range(5)]
        out = _OwnTokenAttention.forward(context, *inputs)
        gradients = _OwnTokenAttention.backward(context, torch.empty_like(out))
    assert [(each.shape, each.dtype) for each in (out, *gradients)] == [(inputs[0].shape, torch.bfloat16)] * 6


def network() -> tuple[CausalNetwork, tuple[Tensor, Tensor, Tensor]]:
    """A network of two layers, and its arguments."""
    text = TextSpec(name="toy", identity="toy-1", num_classes=5, class_frequencies=(0.2,) * 5, seq_len=9, tokenizer="x")
    sizes = CausalLM(num_layers=2, width=16, num_heads=2, mlp_width=20)
    made = sizes.build(text, (9, 4), 2)
    generator = torch.Generator().manual_seed(0)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)  # a layer starts as the identity
    noisy = torch.randn(3, 9, 4, generator=generator)
    return made, (noisy, torch.linspace(-1, 0.8, 3), torch.randint(0, 5, (3, 9), generator=generator))


def test_a_network_is_compiled_as_one_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches questions about kernels that the compiler cannot answer, those about a GPU too."""
    flash = own_token_attention._has_flash
    monkeypatch.setattr(own_token_attention, "_has_kernel", lambda query: not flash(query.device))
    compiled, inputs = network()
    explained = torch._dynamo.explain(compiled)(*inputs)
    assert (explained.graph_count, explained.graph_break_count) == (1, 0)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_compiled_network_learns_the_same(precision: torch.dtype) -> None:
    """Catches a backward pass that the compiler cannot follow."""
    plain, inputs = network()
    gradients = []
    for each in (plain, torch.compile(plain, backend="aot_eager", fullgraph=True)):
        plain.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            out = each(*inputs)
        out.float().square().sum().backward()
        gradients.append([parameter.grad for parameter in plain.parameters() if parameter.grad is not None])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-2, atol=1e-2 if precision == torch.bfloat16 else 1e-5)
