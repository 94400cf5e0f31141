"""Quality of blocks, ancestors and rivals over budgets, from the reports of `benchmarks.starts`: a table and a picture.

python -m benchmarks.curves --runs docs/results/starts --config digits_dit --metric fid_digits --best-step \
    --output docs/pictures/starts_digits_dit.png

The picture has the metric over compute (passes of a sample through a layer), and over the passes that follow each other
when every block has a machine of its own, which is wall time. The table, in Markdown, has means over seeds with their
standard errors. `--best-step` takes each arm at its best number of sampler steps, in place of the configured one.
"""

import argparse
import math
import re
import statistics
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from dbl.utils.files import read_json
from dbl.utils.plotting import colour_of, save_figure

_NAMES = {"blocks": "blocks", "end_to_end": "whole network", "one_block": "one block for all levels"}
_HIGHER_IS_BETTER = ("accuracy",)


class Result(NamedTuple):
    """One arm of one run."""

    arm: str
    budget: int  # steps of each block from random weights
    seed: int
    value: float
    passes: float  # of a sample through a layer
    in_sequence: float  # passes that follow each other, every block having a machine of its own


class Point(NamedTuple):
    """An arm at a budget: mean over seeds."""

    values: list[float]
    passes: float
    in_sequence: float

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return statistics.fmean(self.values)

    @property
    def standard_error(self) -> float:
        """Standard error of that mean; NaN with one seed."""
        return statistics.stdev(self.values) / math.sqrt(len(self.values)) if len(self.values) > 1 else math.nan


def main() -> None:
    """Print the table and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="folder with the runs or their reports")
    parser.add_argument("--config", required=True, help="config and label of the runs, such as digits_dit")
    parser.add_argument("--metric", required=True, help="such as fid_digits, accuracy, nats, loss")
    parser.add_argument("--best-step", action="store_true")
    parser.add_argument("--output", type=Path, help="PNG file")
    options = parser.parse_args()
    points = points_of(results(options.runs, options.config, options.metric, options.best_step))
    print(table(points, options.metric))
    if options.output:
        save_figure(picture(points, options.metric), options.output)


def results(runs: Path, config: str, metric: str, best_step: bool) -> Iterator[Result]:
    """The arms of all runs of a config."""
    for folder in sorted(runs.iterdir()):
        named = re.fullmatch(rf"{re.escape(config)}_(\d+)_share_([\d.]+)_seed_(\d+)", folder.name)
        report = next(filter(Path.is_file, (folder / "report.json", folder / "report" / "report.json")), None)
        if not named or report is None:
            continue
        for arm in read_json(report)["sides"]:
            share = float(named[2])
            name = _name(arm["name"], share)
            value = _best(arm, metric) if best_step else arm["quality"][metric]["mean"]
            yield Result(name, int(named[1]), int(named[3]), value, arm["layer_passes"], _in_sequence(arm))


def _name(arm: str, share: float) -> str:
    if arm != "blocks" or share == 0:
        return _NAMES[arm]
    return _NAMES["one_block"] if share == 1 else f"ancestor, share {share:g}"


def _best(arm: dict[str, Any], metric: str) -> float:
    """The best value over numbers of sampler steps; that of an arm without a sampler is its only one."""
    values = [row["metrics"][metric] for row in arm["quality_by_steps"]] or [arm["quality"][metric]]
    means = [value["mean"] for value in values]
    return max(means) if metric in _HIGHER_IS_BETTER else min(means)


def _in_sequence(arm: dict[str, Any]) -> float:
    return float(sum(part["layer_passes"] for part in arm["ancestors"]) + max(p["layer_passes"] for p in arm["parts"]))


def points_of(found: Iterator[Result]) -> dict[str, dict[int, Point]]:
    """Arm -> budget -> its point."""
    by_arm: dict[str, dict[int, list[Result]]] = defaultdict(lambda: defaultdict(list))
    for result in found:
        by_arm[result.arm][result.budget].append(result)
    return {
        arm: {
            budget: Point([one.value for one in group], group[0].passes, group[0].in_sequence)
            for budget, group in sorted(budgets.items())
        }
        for arm, budgets in by_arm.items()
    }


def table(points: dict[str, dict[int, Point]], metric: str) -> str:
    """Markdown: a row for each arm, a column for each budget."""
    budgets = sorted({budget for of_arm in points.values() for budget in of_arm})
    lines = [
        f"| {metric} | " + " | ".join(f"T = {budget:,}" for budget in budgets) + " |",
        "|---" * (len(budgets) + 1) + "|",
    ]
    for arm, of_arm in points.items():
        cells = [_cell(of_arm[budget]) if budget in of_arm else "" for budget in budgets]
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(point: Point) -> str:
    values = " ".join(f"{value:.3f}" for value in point.values)
    if len(point.values) == 1:
        return values
    return f"{point.mean:.3f} ± {point.standard_error:.3f} ({values})"


def picture(points: dict[str, dict[int, Point]], metric: str) -> Figure:
    """The metric over compute, and over wall time with a machine for each block."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    compute, wall = figure.subplots(1, 2, sharey=True)
    shown = [point.mean for of_arm in points.values() for point in of_arm.values()]
    for number, (arm, of_arm) in enumerate(sorted(points.items())):
        row = list(of_arm.values())
        means, errors = [point.mean for point in row], [point.standard_error for point in row]
        style = {"fmt": "o-", "ms": 4, "capsize": 3, "color": colour_of(number), "label": arm}
        compute.errorbar([point.passes for point in row], means, yerr=errors, **style)
        wall.errorbar([point.in_sequence for point in row], means, yerr=errors, **style)
    for axes, label in ((compute, "training compute"), (wall, "wall time, a machine for each block")):
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(f"{label} (passes of a sample through a layer)", fontsize=8)
        axes.grid(alpha=0.3)
    if min(shown) > 0 and max(shown) > 5 * min(shown):
        compute.set_yscale("log")  # for both
    compute.set_ylabel(metric)
    compute.legend(fontsize=7)
    return figure


if __name__ == "__main__":
    main()
