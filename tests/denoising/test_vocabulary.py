"""Logits made chunk by chunk against logits made at once; N = 3, T = 5, C = 11, D = 7 unless stated."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from dbl.data.spec import IGNORED
from dbl.denoising import vocabulary
from dbl.denoising.denoiser import GaussianDenoiser, MaskedDenoiser
from dbl.denoising.targets import Clean, TableReadout, unit_rows
from dbl.denoising.vocabulary import exact_evaluation, in_one_chunk, linear_label_nats
from dbl.networks import MaskedLM
from dbl.networks.masked_lm import MaskedNetwork

N, T, C, D = 3, 5, 11, 7
SIGMA = torch.tensor([0.3, 1.0, 4.0])
LABELS = torch.randint(0, C, (N, T), generator=torch.Generator().manual_seed(0)).index_fill(1, torch.tensor([4]), 2)
LABELS[1, 2:] = IGNORED
LABELS[2] = IGNORED  # a sequence with nothing to score


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From the call on, chunks have 4 rows, which leaves a rest of 3."""
    return lambda: monkeypatch.setattr(vocabulary, "_rows_of_chunk", lambda num_classes, features: 4)


class Affine(nn.Module):
    """A network of the noisy vectors alone."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(D, D)

    def forward(self, noisy: Tensor, c_noise: Tensor, cond: Any) -> Tensor:
        return self.linear(noisy)  # type: ignore[no-any-return]


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gaussian(kind: str, share: float = 0.0) -> GaussianDenoiser:
    torch.manual_seed(1)
    readout = TableReadout(unit_rows(random(C, D, seed=2)), kind, share)  # type: ignore[arg-type]
    return GaussianDenoiser(Affine(), readout, 0.5, lambda sigma: 1 + sigma)


def masked() -> MaskedDenoiser:
    torch.manual_seed(1)
    network = MaskedNetwork(MaskedLM(1, width=8, num_heads=2, mlp_width=8), C, 1)
    nn.init.normal_(network.head.project.weight)
    return MaskedDenoiser(network, lambda sigma: 1 / sigma, C)


def batch(kind: str) -> tuple[Clean, Tensor, Tensor]:
    """Clean targets, noisy targets and levels."""
    if kind == "masked":
        tokens = LABELS.clamp(min=0)
        hidden = random(N, T, seed=5) > 0
        return Clean(tokens, tokens[:, :0], LABELS), tokens.masked_fill(hidden, C), SIGMA / 5
    vectors = random(N, T, D, seed=3)
    return Clean(vectors, LABELS, LABELS), vectors + random(N, T, D, seed=4), SIGMA


def losses_and_gradients(denoiser: GaussianDenoiser | MaskedDenoiser, kind: str, precision: str) -> list[Tensor]:
    for parameter in denoiser.parameters():
        parameter.grad = None
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        losses = denoiser.loss(*batch(kind))
    (losses * torch.tensor([1.0, 2.0, 3.0])).mean().backward()
    return [losses.detach(), *(p.grad for p in denoiser.parameters() if p.grad is not None)]


CASES = [("posterior", 0.0), ("posterior", 0.3), ("posterior", 1.0), ("linear", 0.0), ("cosine", 0.0), ("masked", 0.0)]


def make(kind: str, share: float) -> GaussianDenoiser | MaskedDenoiser:
    return masked() if kind == "masked" else gaussian(kind, share)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize(("kind", "share"), CASES)
def test_chunks_change_neither_loss_nor_gradient(
    kind: str, share: float, precision: str, small_chunks: Callable[[], None]
) -> None:
    """Catches a row that is lost between chunks or scored with another's level, and gradients added in bfloat16."""
    denoiser = make(kind, share)
    whole = losses_and_gradients(denoiser, kind, precision)
    small_chunks()
    parts = losses_and_gradients(denoiser, kind, precision)
    torch.testing.assert_close(parts[0], whole[0])
    # The sum over the rows of a chunk is rounded to bfloat16, that over the chunks is not.
    tolerance = {"rtol": 0.02, "atol": 2e-3} if precision == "bf16" else {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(parts, whole, **tolerance)
    assert len(parts) == len(whole) > 2


@pytest.mark.parametrize(("kind", "share"), CASES)
def test_chunks_change_no_prediction(kind: str, share: float, small_chunks: Callable[[], None]) -> None:
    """Catches an evaluation that forgets the adjustment, a level, or the given tokens in some chunk."""
    denoiser = make(kind, share)
    clean, noisy, sigma = batch(kind)

    def results() -> list[Tensor]:
        with torch.no_grad():
            first, second = (denoiser.predict(noisy, sigma, clean.cond, lambda x: 0.5 * x) for _ in range(2))
        nats, denoised = second.nats(LABELS), second.denoised  # used outside of `no_grad`
        assert not nats.requires_grad
        return [first.logits, first.denoised, denoised, nats, denoiser.prediction_loss(first, clean, noisy)]  # type: ignore[list-item]

    whole = results()
    assert whole[0].shape == (N, T, C)
    small_chunks()
    for one, other in zip(results(), whole, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_one_chunk_is_the_plain_formula_bit_by_bit(precision: str) -> None:
    """Catches a small vocabulary whose results depend on this module."""
    _, noisy, sigma = batch("posterior")
    denoiser = gaussian("posterior")
    found = losses_and_gradients(denoiser, "posterior", precision)
    for parameter in denoiser.parameters():
        parameter.grad = None
    readout = denoiser.readout
    assert isinstance(readout, TableReadout)
    scale = 1 / (sigma.square() + 0.25).sqrt().reshape(-1, 1, 1)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        own = readout.linear(denoiser.network.linear(scale * noisy)).float()  # type: ignore[operator, union-attr]
    logits = own + (noisy @ readout.table.T) / sigma.reshape(-1, 1, 1).square()
    nats = F.cross_entropy(logits.flatten(0, 1), LABELS.flatten(), reduction="none", ignore_index=IGNORED)
    losses = (1 + sigma) * (nats.reshape(N, T).sum(1) / (LABELS != IGNORED).sum(1).clamp(min=1))
    (losses * torch.tensor([1.0, 2.0, 3.0])).mean().backward()
    expected = [losses.detach(), *(parameter.grad for parameter in denoiser.parameters())]
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_the_baseline_reads_a_linear_layer_in_chunks(small_chunks: Callable[[], None]) -> None:
    """Catches a bias that is left out, and nats of ignored labels."""
    linear, features = nn.Linear(D, C), random(N, T, D, seed=7)
    logits = linear(features).flatten(0, 1)
    expected = F.cross_entropy(logits, LABELS.flatten(), reduction="none", ignore_index=IGNORED).reshape(N, T)
    assert torch.equal(linear_label_nats(linear, features, LABELS), expected)
    small_chunks()
    torch.testing.assert_close(linear_label_nats(linear, features, LABELS), expected)


@pytest.mark.parametrize(("num_classes", "num_rows"), [(10, 512), (256, 256 * 256), (30, 256 * 256)])
def test_bytes_characters_and_classes_are_one_chunk(num_classes: int, num_rows: int) -> None:
    """Catches recomputation where nothing is saved: the largest batch of the configs of small vocabularies."""
    assert in_one_chunk(num_classes, torch.empty(num_rows, 128, device="meta"))


@pytest.mark.parametrize("use", ["training", "denoised", "nats"])
def test_a_large_vocabulary_is_never_there_at_once(use: str) -> None:
    """Catches a training step or an evaluation that makes more logits at once than a chunk has: 64 MiB, not 1 GiB."""
    largest = 0

    class Largest(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            if isinstance(result, Tensor):
                largest = max(largest, result.untyped_storage().nbytes())
            return result

    with FakeTensorMode():
        readout = TableReadout(torch.empty(32000, 64), "posterior")
        output, noisy = torch.empty(2, 32, 256, 64)
        labels, sigma = torch.empty(32, 256, dtype=torch.int64), torch.ones(32)
        output.requires_grad_()
        with Largest(), torch.set_grad_enabled(use == "training"):
            if use == "training":
                clean = Clean(noisy, labels, labels)
                readout.unweighted_loss(noisy, output, noisy, sigma, clean).mean().backward()
            else:
                prediction = readout(noisy, output, noisy, sigma)
                _ = prediction.denoised if use == "denoised" else prediction.nats(labels)
    assert largest <= 2**24 * 4


class FlopsByPrecision(TorchDispatchMode):
    """Counts the floating-point operations of matrix products by the precision of their inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.total: Counter[torch.dtype] = Counter()
        self.shapes: list[tuple[torch.Size, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            tensors = [value for value in args if isinstance(value, Tensor)]
            self.total[tensors[0].dtype] += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=result)
            self.shapes.append(tuple(value.shape for value in tensors))
        return result


@pytest.mark.parametrize(("share", "products"), [(0.0, 1), (0.5, 1), (1.0, 0)])
def test_only_the_evidence_is_multiplied_in_float32(share: float, products: int) -> None:
    """Catches a learned head in float32 under bf16-mixed: two thirds of the operations around a large vocabulary."""
    denoiser = gaussian("posterior", share)
    with FlopsByPrecision() as flops:
        losses_and_gradients(denoiser, "posterior", "bf16")
    assert flops.total[torch.float32] == products * 2 * N * T * C * D
    head = 2 * N * T * C * D
    body = 2 * N * T * D * D
    assert flops.total[torch.bfloat16] == 3 * head + 2 * body  # the noisy vectors need no gradient


def test_evaluation_is_exact_and_training_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches TF32 in a likelihood, and a setting that outlives its use."""
    calls: list[str] = []
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: calls[-1] if calls else "high")
    monkeypatch.setattr(torch, "set_float32_matmul_precision", calls.append)
    with exact_evaluation():
        assert calls == []
    with torch.no_grad(), exact_evaluation():
        assert calls == ["highest"]
    assert calls == ["highest", "high"]


def test_a_compiled_step_makes_chunks_too(small_chunks: Callable[[], None]) -> None:
    """Catches chunks that cannot be traced: the whole loss as one compiled function."""
    denoiser = gaussian("posterior")
    small_chunks()
    expected = losses_and_gradients(denoiser, "posterior", "float32")
    denoiser.compile(backend="aot_eager")
    compiled = torch.compile(denoiser.loss, backend="aot_eager")
    for parameter in denoiser.parameters():
        parameter.grad = None
    losses = compiled(*batch("posterior"))
    (losses * torch.tensor([1.0, 2.0, 3.0])).mean().backward()
    found = [losses.detach(), *(parameter.grad for parameter in denoiser.parameters())]
    torch.testing.assert_close(found, expected)
