"""Blocks that start from a trained network, beside blocks from random weights with equally many steps.

python -m benchmarks.conversion runs/digits_dit/baseline --num_blocks 3 --steps 100,400 --cuts interleaved,random

The source is a run of one block. For each cut and number of steps a run is made (`dbl convert`) and trained, with the
options that follow; `random` starts from random weights. A call leaves finished runs alone, and prints JSON: for each
run its command, the quality of the blocks, and the loss of each block in its last validation.
"""

import argparse
import json
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.starts import figures, last_validation
from benchmarks.timing import RANDOM_START
from dbl.diffusion.partition import PartitionConfig

RANDOM = "random"


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="run folder of one block")
    parser.add_argument("--num_blocks", type=int, required=True)
    parser.add_argument("--steps", type=lambda text: [int(number) for number in text.split(",")], required=True)
    parser.add_argument("--cuts", type=lambda text: text.split(","), default=["interleaved", "contiguous", RANDOM])
    parser.add_argument("--root", type=Path, default=Path("runs/conversion"))
    parser.add_argument("--name", required=True, help="first part of the names of the runs")
    options, extra = parser.parse_known_args()
    rows = [
        result(options, options.root / f"{options.name}_{cut}_{steps}", cut, steps, extra)
        for steps, cut in product(options.steps, options.cuts)
    ]
    print(json.dumps(rows, indent=2))


def result(options: argparse.Namespace, run: Path, cut: str, steps: int, extra: list[str]) -> dict[str, Any]:
    """Train a run if it has no report yet, and return its figures."""
    command = training(options, run, cut, steps, extra)
    cuts = None if cut == RANDOM else [f"--num_blocks={options.num_blocks}", f"--cut={cut}"]
    return {"steps": steps, "cut": cut, **trained(options.source, run, cuts, command)}


def trained(source: Path, run: Path, cut: list[str] | None, command: list[str]) -> dict[str, Any]:
    """Train a run unless it has a report, and return its figures.

    Args:
        source: run folder from which it is converted.
        run: its folder.
        cut: options of `dbl convert`; None for a run from random weights.
        command: arguments of `dbl` that train it.
    """
    report = run / "report" / "report.json"
    if not report.is_file():
        if cut is not None and not run.exists():
            called(["convert", str(source), *cut, f"--run.root={run.parent}", f"--run.name={run.name}"], run)
        called(command, run)
    (arm,) = json.loads(report.read_text(encoding="utf-8"))["sides"]
    losses = [last_validation(run / part["part"] / "metrics.csv") for part in arm["parts"]]
    return {"command": " ".join(["dbl", *command]), "validation": losses, **figures(arm)}


def training(options: argparse.Namespace, run: Path, cut: str, steps: int, extra: list[str]) -> list[str]:
    """Arguments of `dbl train`; validation follows the last step."""
    config = options.source / "config.yaml" if cut == RANDOM else run / "config.yaml"
    lengths = [f"--trainer.max_steps={steps}", f"--trainer.val_check_interval={steps}"]
    chosen = ["train", "--config", str(config), *lengths, *extra]
    if cut != RANDOM:
        return chosen
    # As in a converted run, which has the default overlap.
    overlap = PartitionConfig().overlap
    cuts = [f"--contract.partition.num_blocks={options.num_blocks}", f"--contract.partition.overlap={overlap}"]
    return [*chosen, *cuts, RANDOM_START, f"--run.root={run.parent}", f"--run.name={run.name}"]


def called(command: list[str], run: Path) -> None:
    """Run a command of `dbl` with its output in a log beside the run. Raises CalledProcessError if it fails."""
    run.parent.mkdir(parents=True, exist_ok=True)
    with run.with_suffix(".log").open("ab") as log:
        subprocess.run([sys.executable, "-m", "dbl", *command], stdout=log, stderr=log, check=True)


if __name__ == "__main__":
    main()
