"""The figure of a partition: what a reader takes from it is computed again here."""

import math

import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from dbl.diffusion.masking import MaskingNoise
from dbl.diffusion.noise import LogNormalNoise, LogUniformNoise, NoiseDistribution
from dbl.diffusion.partition import Partition
from dbl.diffusion.plot import partition_figure
from dbl.utils.plotting import colour_of

PARTITION = Partition(boundaries=(80.0, 1.0, 0.1, 0.002), layers=(1, 2, 3), overlap=0.1)


def _axes(noise: NoiseDistribution, partition: Partition, block: int | None = None) -> Axes:
    (axes,) = partition_figure(noise, partition, block).axes
    return axes


def test_the_curve_is_the_density_of_ln_sigma() -> None:
    """Catches a density per unit of sigma, which looks quite different on a log axis."""
    curve = _axes(LogNormalNoise(), PARTITION).lines[0]
    sigmas, density = (torch.as_tensor(values) for values in (curve.get_xdata(), curve.get_ydata()))
    normal = torch.distributions.Normal(-1.2, 1.2)
    inside = slice(1, -1)  # one-sided differences at the ends
    assert torch.allclose(density[inside], normal.log_prob(sigmas.log()).exp()[inside], atol=2e-3)
    assert torch.trapezoid(density, sigmas.log()).item() == pytest.approx(1, abs=1e-3)


def test_high_noise_is_on_the_left_of_a_log_axis() -> None:
    """Catches an axis against the order in which blocks run."""
    axes = _axes(LogNormalNoise(), PARTITION)
    left, right = axes.get_xlim()
    assert axes.get_xscale() == "log"
    assert left > 80 > 0.002 > right


def test_each_block_fills_its_own_interval_in_its_own_colour() -> None:
    """Catches swapped boundaries or colours, and a block without an area."""
    axes = _axes(LogUniformNoise(), PARTITION)
    assert len(axes.collections) == 3
    step = math.log(80 / 0.002) / 199  # of the grid on which the curve is drawn
    for block, area in enumerate(axes.collections):
        assert to_hex(area.get_facecolor()[0]).upper() == colour_of(block)
        levels = torch.as_tensor(area.get_paths()[0].vertices[:, 0]).log()
        low, high = PARTITION.interval(block)
        assert math.log(low) <= levels.min() + 1e-9 < math.log(low) + step + 2e-9
        assert math.log(high) >= levels.max() - 1e-9 > math.log(high) - step - 2e-9


def test_the_legend_names_levels_and_layers() -> None:
    """Catches a legend in the wrong order or with the wrong sizes."""
    legend = _axes(LogNormalNoise(), PARTITION).get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [
        "block 0: 80 to 1, 1 layers",
        "block 1: 1 to 0.1, 2 layers",
        "block 2: 0.1 to 0.002, 3 layers",
    ]


@pytest.mark.parametrize("block", [0, 1, 2])
def test_dotted_lines_mark_the_training_interval(block: int) -> None:
    """Catches lines at the interval without its overlap."""
    axes = _axes(LogNormalNoise(), PARTITION, block)
    dotted = [line for line in axes.lines if line.get_linestyle() == ":"]
    assert [line.get_xdata()[0] for line in dotted] == list(PARTITION.training_interval(block))
    assert f"block {block}" in axes.get_title()
    assert "0.1" in axes.get_title()


def test_without_a_block_nothing_is_dotted() -> None:
    """Catches marks of block 0 in a figure of the whole partition."""
    axes = _axes(LogNormalNoise(), PARTITION)
    assert len(axes.lines) == 1
    assert axes.get_title() == ""


def test_masked_diffusion_names_its_own_level() -> None:
    """Catches sigma on the axis of a probability."""
    axes = _axes(MaskingNoise(0.01), Partition((1.0, 0.5, 0.01), (1, 1)))
    assert "masking probability" in axes.get_xlabel()
    assert axes.get_ylabel() == "density of ln m"
    assert "sigma" in _axes(LogNormalNoise(), PARTITION).get_xlabel()
