"""Blocks from random weights and from ancestors at equal compute, over budgets and seeds, beside their rivals.

python -m benchmarks.starts --config configs/digits_dit.yaml --budgets 250,1000 --shares 0,0.25,0.5,0.75 --seeds 0,1,2

A budget is given by T, the steps of each block from random weights, hence B x T block-steps in all. With share 0
`dbl compare` trains the rivals as well: the whole network, and one block for all levels; with share 1 that one is
trained alone. A call resumes what an earlier
one began, leaves finished runs alone, and prints JSON: for each run its command, the metrics of each arm (images by the
number of sampler steps too), and the mean loss of each part in its last validation.
"""

import argparse
import csv
import json
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from benchmarks.timing import RANDOM_START

ROOT = Path("runs/starts")


class Trial(NamedTuple):
    """One run."""

    config: Path
    budget: int  # block-steps of the whole run, divided by the number of blocks
    share: float  # of the ancestor; with 1 it is all there is
    seed: int
    label: str = ""  # tells runs with other options apart

    @property
    def name(self) -> str:
        """Name of its run folder."""
        return f"{self.config.stem}{self.label}_{self.budget}_share_{self.share:g}_seed_{self.seed}"

    def command(self, extra: list[str]) -> list[str]:
        """Command line without the interpreter."""
        kind = "train" if self.share else "compare"
        options = [f"--contract.seed={self.seed}", f"--run.root={ROOT}", f"--run.name={self.name}"]
        options += self._one_block() if self.share == 1 else self._blocks()
        return ["dbl", kind, "--config", str(self.config), *options, *extra]

    def _blocks(self) -> list[str]:
        steps = f"--trainer.max_steps={round(self.budget * (1 - self.share))}"
        if not self.share:
            return [steps, RANDOM_START]
        return [steps, "--contract.start=dbl.Ancestor", f"--contract.start.share={self.share:g}"]

    def _one_block(self) -> list[str]:
        contract = yaml.safe_load(self.config.read_text(encoding="utf-8"))["contract"]
        blocks, layers = contract["partition"]["num_blocks"], contract["network"]["init_args"]["num_layers"]
        return [
            f"--trainer.max_steps={self.budget * blocks}",
            RANDOM_START,
            "--contract.partition.num_blocks=1",
            "--contract.partition.overlap=0",
            f"--contract.network.num_layers={layers // blocks}",
        ]


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--budgets", type=_numbers, required=True)
    parser.add_argument("--shares", type=_numbers, default=[0, 0.25, 0.5, 0.75])
    parser.add_argument("--seeds", type=_numbers, default=[0, 1, 2])
    parser.add_argument(
        "--label", default="", help="added to the names of runs with further options, such as _width_16"
    )
    options, extra = parser.parse_known_args()
    trials = product(options.seeds, options.budgets, options.shares)
    rows = [
        result(Trial(options.config, int(budget), share, int(seed), options.label), extra)
        for seed, budget, share in trials
    ]
    print(json.dumps(rows, indent=2))


def _numbers(text: str) -> list[float]:
    return [float(number) for number in text.split(",")]


def result(trial: Trial, extra: list[str]) -> dict[str, Any]:
    """Run a trial if it has no report yet, and return its figures."""
    command, run = trial.command(extra), ROOT / trial.name
    report = run / "report" / "report.json"
    if not report.is_file():
        log = ROOT / f"{trial.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            code = subprocess.run([sys.executable, "-m", *command], stdout=file, stderr=file, check=False).returncode
        if code:
            return {"command": " ".join(command), "exit_code": code, "log": str(log)}
    arms = json.loads(report.read_text(encoding="utf-8"))["sides"]
    return {
        "command": " ".join(command),
        "budget": trial.budget,
        "share": trial.share,
        "seed": trial.seed,
        "arms": {arm["name"]: figures(arm) for arm in arms},
        "validation": {
            str(path.parent.relative_to(run)): loss
            for path in sorted(run.rglob("metrics.csv"))
            if (loss := last_validation(path)) is not None
        },
    }


def figures(arm: dict[str, Any]) -> dict[str, Any]:
    """Quality of an arm at its configured number of steps and at the best one, and what it cost."""
    found = {name: spread["mean"] for name, spread in arm["quality"].items()}
    for row in arm["quality_by_steps"]:
        found |= {f"{name}_{row['steps']}_steps": spread["mean"] for name, spread in row["metrics"].items()}
    return found | {"seconds": arm["seconds"], "layer_passes": arm["layer_passes"]}


def last_validation(path: Path) -> float | None:
    """Loss of the last validation in a `metrics.csv`."""
    with path.open(encoding="utf-8", newline="") as file:
        losses = [row["val/loss"] for row in csv.DictReader(file) if row.get("val/loss")]
    return float(losses[-1]) if losses else None


if __name__ == "__main__":
    main()
