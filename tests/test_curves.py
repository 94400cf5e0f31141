"""The table and the picture of quality over budgets."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.curves import picture, points_of, results, table
from benchmarks.starts import Trial


def _arm(name: str, values: dict[int, float], passes: tuple[float, ...], ancestor: float = 0) -> dict[str, Any]:
    """An arm with FID by steps, the last number of which is the configured one."""
    rows = [{"steps": steps, "metrics": {"fid": {"mean": value}}} for steps, value in values.items()]
    return {
        "name": name,
        "quality": {"fid": {"mean": values[max(values)]}},
        "quality_by_steps": rows,
        "layer_passes": sum(passes) + ancestor,
        "parts": [{"layer_passes": number} for number in passes],
        "ancestors": [{"layer_passes": ancestor}] if ancestor else [],
    }


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two seeds without an ancestor, kept as a report alone, and a run with one."""
    for seed, worse in ((0, 0.0), (1, 0.2)):
        arms = [_arm("blocks", {12: 1.0 + worse, 50: 3.0}, (20, 20)), _arm("end_to_end", {12: 2.0, 50: 1.5}, (40,))]
        _write(tmp_path / f"toy_10_share_0_seed_{seed}", arms)
    blocks = _arm("blocks", {12: 0.5, 50: 2.0}, (10, 10), ancestor=20)
    _write(tmp_path / "toy_10_share_0.5_seed_0" / "report", [blocks])
    _write(tmp_path / "toys_10_share_0_seed_0", [])  # another config
    return tmp_path


def _write(folder: Path, arms: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(json.dumps({"sides": arms}))


def test_points_are_means_over_seeds(runs: Path) -> None:
    """Catches seeds that are lost, the configured steps in place of the best, and passes that run at the same time."""
    points = points_of(results(runs, "toy", "fid", best_step=True))
    blocks = points["blocks"][10]
    assert blocks.mean == pytest.approx(1.1)
    assert blocks.standard_error == pytest.approx(0.1)
    assert (blocks.passes, blocks.in_sequence) == (40, 20)
    assert points["whole network"][10].values == [1.5, 1.5]
    ancestor = points["ancestor, share 0.5"][10]
    assert (ancestor.values, ancestor.passes, ancestor.in_sequence) == ([0.5], 40, 30)
    at_configured = points_of(results(runs, "toy", "fid", best_step=False))
    assert at_configured["blocks"][10].values == [3.0, 3.0]


def test_the_table_and_the_picture_show_each_arm(runs: Path) -> None:
    """Catches an arm without a row or a line, and a standard error where there is one seed."""
    points = points_of(results(runs, "toy", "fid", best_step=True))
    assert table(points, "fid").splitlines() == [
        "| fid | T = 10 |",
        "|---|---|",
        "| ancestor, share 0.5 | 0.500 |",
        "| blocks | 1.100 ± 0.100 (1.000 1.200) |",
        "| whole network | 1.500 ± 0.000 (1.500 1.500) |",
    ]
    compute, wall = picture(points, "fid").axes
    assert len(compute.get_legend_handles_labels()[1]) == 3
    assert sorted(line.get_xdata()[0] for line in wall.get_lines() if len(line.get_xdata()) == 1)[0] == 20


def test_share_1_is_one_block_for_all_levels(runs: Path) -> None:
    """Catches blocks of its own for that arm, and another compute or size than those of the blocks."""
    _write(runs / "toy_20_share_1_seed_0", [_arm("blocks", {12: 0.7}, (80,))])
    points = points_of(results(runs, "toy", "fid", best_step=True))
    assert points["one block for all levels"][20].passes == 80
    command = Trial(Path(__file__).parents[1] / "configs" / "digits_dit.yaml", 20, 1.0, 0).command([])
    assert {
        "--trainer.max_steps=60",
        "--contract.partition.num_blocks=1",
        "--contract.network.num_layers=4",
        "--contract.start=dbl.RandomStart",
    } <= set(command)
