"""The figures of README and docs/results.md: train what is missing, keep the raw reports, write the tables.

python -m benchmarks.results                         # every task; hours, and the text and CIFAR-10 in $DBL_DATA
python -m benchmarks.results digits_dit --seeds 0    # some of them
python -m benchmarks.results --tables                # only the tables, from the reports that are kept

A task is one config at one budget: blocks from an ancestor, blocks from random weights, the whole network and one block
for all levels, at equal compute (`benchmarks.starts`). A call resumes what an earlier one began. What it keeps is in
docs/results/starts, a `report.json` for each run, with command, commit, versions and machine; the tables follow from
these files alone.
"""

import argparse
import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

from benchmarks.curves import Point, points_of, results
from benchmarks.starts import ROOT, Trial, result
from dbl.evaluation.figures import readable_bytes
from dbl.utils.files import read_json, write_text

PROJECT = Path(__file__).parents[1]
KEPT = PROJECT / "docs" / "results" / "starts"
PAGES = (PROJECT / "README.md", PROJECT / "docs" / "results.md")
SHARES = (0.5, 0.0)
ARMS = {
    "whole network": "whole network",
    "blocks": "blocks from random weights",
    "ancestor, share 0.5": "blocks from an ancestor",
    "one block for all levels": "one block for all levels",
}
NO_TEXTS = ("--text_quality.num_texts=0",)
_TABLE = re.compile(r"^<!-- results -->$.*?^<!-- end -->$", re.MULTILINE | re.DOTALL)


class Task(NamedTuple):
    """A row of the tables."""

    config: str
    budget: int  # steps of each block from random weights
    metric: str
    title: str
    options: Sequence[str] = ()
    at_best_step: bool = False  # each arm at its best number of sampler steps
    is_share: bool = False  # shown in percent


TASKS = (
    Task("digits_dit", 1000, "fid_digits", "digits DiT, FID, lower is better", at_best_step=True),
    Task("digits_vit", 560, "accuracy", "digits ViT, accuracy", is_share=True),
    Task("cifar10_vit", 600, "accuracy", "CIFAR-10 ViT, accuracy after 1.6 epochs", is_share=True),
    Task(
        "shakespeare_mdm",
        600,
        "bits_per_token",
        "Shakespeare, masked, bits a character, upper bound",
        NO_TEXTS,
    ),
    Task("shakespeare_ar", 500, "nats", "Shakespeare, causal (B = 4), nats a character, upper bound", NO_TEXTS),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing and write the tables anew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [task.config for task in TASKS]
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"some of {', '.join(names)}; by default all")
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--tables", action="store_true", help="train nothing")
    options = parser.parse_args(arguments)
    if unknown := set(options.tasks) - set(names):
        parser.error(f"no task {', '.join(sorted(unknown))}: give some of {', '.join(names)}")
    chosen = [task for task in TASKS if task.config in options.tasks or not options.tasks]
    failed = [] if options.tables else [name for task in chosen for name in run(task, options.seeds)]
    for page in PAGES:
        write_text(page, with_tables(page.read_text(encoding="utf-8"), KEPT))
    if failed:
        sys.exit(f"failed, with their logs beside them: {', '.join(failed)}")


def run(task: Task, seeds: Iterable[int]) -> list[str]:
    """Run all trials of a task and keep their reports; returns the names of those that failed."""
    failed = []
    for seed, share in product(seeds, SHARES):
        trial = Trial(Path("configs") / f"{task.config}.yaml", task.budget, share, seed)
        print(f"{trial.name} ...", flush=True)
        if "exit_code" in result(trial, list(task.options)):
            failed.append(str(ROOT / trial.name))
            continue
        kept = KEPT / trial.name
        kept.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / trial.name / "report" / "report.json", kept)
    return failed


def with_tables(page: str, kept: Path) -> str:
    """The text of a page with its table written anew from the reports that are kept."""
    lines = ["<!-- results -->", "", *table(kept), "", "<!-- end -->"]
    return _TABLE.sub("\n".join(lines), page)


def table(kept: Path) -> list[str]:
    """Lines of Markdown: the planned memory, then a row for each task of which all arms have a report."""
    found = {task: points_of(results(kept, task.config, task.metric, task.at_best_step)) for task in TASKS}
    rows = [_row(task, points) for task, points in found.items() if set(ARMS) <= set(points)]
    return [
        f"| equal compute | {' | '.join(ARMS.values())} |",
        "|---" * (len(ARMS) + 1) + "|",
        _memory_row(kept),
        *rows,
    ]


def _memory_row(kept: Path) -> str:
    """Planned memory of a step of the first task, which has a report; three of the arms need that of one block."""
    reports = sorted(kept.glob(f"{TASKS[0].config}_{TASKS[0].budget}_share_0_seed_*/report.json"))
    rows = read_json(reports[0])["memory_plan"]["rows"]
    whole, block = (
        readable_bytes(next(row["peak_bytes"] for row in rows if bool(row["num_blocks"]) is is_blocks))
        for is_blocks in (False, True)
    )
    return f"| digits DiT, memory of a training step | {whole} | {block} | {block} | {block} |"


def _row(task: Task, points: dict[str, dict[int, Point]]) -> str:
    cells = [_cell(task, points[arm][task.budget]) for arm in ARMS]
    return f"| {task.title} | {' | '.join(cells)} |"


def _cell(task: Task, point: Point) -> str:
    """Mean, and its standard error or that it is of one seed."""
    factor, digits, unit = (100, 1, " %") if task.is_share else (1, 3, "")
    mean, error = point.mean * factor, point.standard_error * factor
    spread = f" ± {error:.{digits}f}" if len(point.values) > 1 else ""
    count = "" if len(point.values) == 3 else f" ({len(point.values)} seed{'s' * (len(point.values) > 1)})"
    return f"{mean:.{digits}f}{spread}{unit}{count}"


if __name__ == "__main__":
    main()
