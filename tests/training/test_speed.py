"""Speed of steps: counted FLOPs, peaks of devices, seconds."""

from dataclasses import dataclass
from itertools import count

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from toy import Stripes

from dbl.denoising.targets import PixelTarget
from dbl.diffusion.noise import LogNormalNoise
from dbl.diffusion.partition import PartitionConfig
from dbl.networks import Architecture
from dbl.run.contract import ContractConfig
from dbl.training import speed
from dbl.training.config import TrainingConfig
from dbl.training.memory.planner import _ATTENTION_ON_CPU, Planner
from dbl.training.peak_flops import device_peak, measured_tflops, published_peak
from dbl.training.speed import free_bytes, median_seconds


class _TwoLinear(nn.Module):
    """Rows of an image through two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 10), nn.Linear(10, 6)

    def forward(self, noisy: Tensor, c_noise: Tensor, cond: Tensor) -> Tensor:
        return self.second(self.first(noisy))


@dataclass(frozen=True)
class _Two(Architecture):
    """Makes it."""

    num_layers: int = 2

    def build(self, data, target_shape, num_layers, table=None):  # type: ignore[no-untyped-def]
        return _TwoLinear()


def test_flops_are_those_of_the_arithmetic(stripes: Stripes) -> None:
    """Catches FLOPs of a forward pass alone, of another batch, or of all batches of a planned step."""
    config = ContractConfig(_Two(), PixelTarget(), LogNormalNoise(), PartitionConfig(num_blocks=1))
    planner = Planner(config, stripes.spec, TrainingConfig(accumulate=3))
    # Forward: both layers. Backward: weights of both, and the input of the second: the noisy images need no gradient.
    rows, products = 7 * 1 * 4, 5
    assert planner.flops(planner.block(config.partition, planner.recipe), 7) == products * 2 * rows * 6 * 10


def test_attention_on_a_cpu_is_counted() -> None:
    """Catches the kernel that torch's counter does not know: without it the attention of a CPU is free."""
    query, key, value = (torch.randn(2, 3, length, 8, requires_grad=True) for length in (5, 7, 7))
    with FlopCounterMode(display=False, custom_mapping=_ATTENTION_ON_CPU) as counter:
        F.scaled_dot_product_attention(query, key, value).sum().backward()
    product = 2 * 2 * 3 * 5 * 7 * 8
    assert counter.get_total_flops() == (2 + 5) * product  # scores and output; scores again and four gradients


@pytest.mark.parametrize(
    ("name", "precision", "matmul", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16-mixed", "high", 989.4),
        ("NVIDIA H100 80GB HBM3", "32-true", "high", 494.7),
        ("NVIDIA H100 80GB HBM3", "32-true", "highest", 66.9),
        ("NVIDIA A100-SXM4-80GB", "bf16-mixed", "high", 312),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "bf16-mixed", "high", None),
    ],
)
def test_a_published_peak_is_that_of_device_and_precision(
    name: str, precision: str, matmul: str, tflops: float | None
) -> None:
    """Catches a share of the peak of another precision, or a slice of a device taken for the whole."""
    peak = published_peak(name, precision, matmul)
    assert (peak.tflops, peak.source) == (tflops, "unknown" if tflops is None else "published")


def test_a_peak_that_is_given_counts() -> None:
    """Catches a table that wins over what the user knows, and a device that is asked although nobody needs it."""
    assert device_peak("cuda", "32-true", "high", 3.5) == (3.5, "given")


def test_the_peak_of_a_cpu_is_measured() -> None:
    """Catches seconds for their inverse, and a unit that is wrong by a thousand: from a slow core to a large server."""
    assert 1e-3 < measured_tflops(torch.float32) < 100
    assert device_peak("cpu", "32-true", "high").source == "measured"


def test_the_median_leaves_out_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches the first steps, which compile, among those that count, and a mean that one pause moves."""
    clock = iter(
        [time for step, seconds in enumerate([9, 9, 9, 1, 2, 50]) for time in (100 * step, 100 * step + seconds)]
    )
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(clock))
    calls = count()
    assert median_seconds(lambda: next(calls), num_steps=3) == 2
    assert next(calls) == 6


def test_free_memory_is_a_size_or_unknown() -> None:
    """Catches kilobytes taken for bytes, which would refuse every network."""
    free = free_bytes("cpu")
    assert free is None or free > 2**26
