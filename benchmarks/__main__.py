"""All figures of speed in one table, each with its goal and the command that measures it alone.

Each group runs in a process of its own, on one thread. Every ratio is of two arms measured in turn within one process.

    python -m benchmarks
    python -m benchmarks blocks official_vit --output runs/bench.json
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from dbl.utils.files import write_json


class Goal(NamedTuple):
    """A bound on a figure, and the side on which it should be."""

    side: str
    bound: float

    def is_reached(self, value: float) -> bool:
        """Whether a value is on that side of the bound, or on it."""
        return value <= self.bound if self.side == "at most" else value >= self.bound

    def __str__(self) -> str:
        return f"{self.side} {self.bound:g}"


# Module -> figure -> goal. A module may give more figures than these, which are shown without a goal.
GROUPS = {
    "official_vit": {"official / ours, ViT block step, B = 3": Goal("at least", 1.25)},
    "lightning_path": {
        "Lightning path / plain loop, digits DiT": Goal("at most", 1.03),
        "milliseconds above a plain step, tiny DiT": Goal("at most", 1.5),
        "host reads in a step that does not log": Goal("at most", 0),
    },
    "blocks": {
        "B x block / whole step, digits ViT, B = 3": Goal("at most", 1.05),
        "B x block / whole step, digits DiT, B = 12": Goal("at most", 1.2),
    },
    "vocabulary_memory": {
        "block / whole memory, masked, 256 sequences": Goal("at most", 0.32),
        "block / whole memory, lm1b_ar, clean stream, 256 sequences": Goal("at most", 0.32),
        "block / whole memory, lm1b_ar": Goal("at most", 0.32),
    },
    "writing": {
        "against_transformers, end to end": Goal("at least", 1.3),
        "against_transformers, ensemble, K = 8": Goal("at least", 0.9),
        "against_transformers, two streams, K = 4": Goal("at least", 0.45),
        "tokens_per_second, recurrent, K = 8": Goal("at least", 60),
    },
    "workers": {"extra_wall_s_a_worker": Goal("at most", 6), "first_step_s, median": Goal("at most", 5)},
    "make_train": {"seconds of make train": Goal("at most", 200)},
}


def main(arguments: list[str] | None = None) -> int:
    """Measure the groups; print the table and write it as JSON. Returns 1 if a group failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"by default all: {' '.join(GROUPS)}")
    parser.add_argument("--output", type=Path, default=Path("runs/bench.json"), help="where the JSON goes")
    options = parser.parse_args(arguments)
    if unknown := set(options.groups) - GROUPS.keys():
        parser.error(f"there is no group {unknown.pop()}: choose from {' '.join(GROUPS)}")
    rows: list[dict[str, Any]] = []
    for group in options.groups or GROUPS:
        print(f"{group} ...", file=sys.stderr)
        rows += rows_of(group, measured(group))
        write_json(options.output, {"threads": 1, "figures": rows})  # after each, since all of them take long
    print_table(rows)
    print(f"written: {options.output}")
    return int(any(row["value"] is None for row in rows))


def command_of(group: str) -> list[str]:
    """The command that measures a group alone and prints it as JSON."""
    return ["python", "-m", f"benchmarks.{group}"]


def measured(group: str) -> dict[str, float]:
    """The figures of a group by their names; empty if its command failed, which it says itself."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, *command_of(group)[1:]]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    return dict(numbers_in(json.loads(done.stdout))) if done.returncode == 0 else {}


def numbers_in(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of nested JSON objects, with the names that lead to them."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from numbers_in(value, f"{prefix}{name}, ")
        elif isinstance(value, int | float):
            yield f"{prefix}{name}", value


def rows_of(group: str, figures: dict[str, float]) -> list[dict[str, Any]]:
    """A row for each figure and for each goal whose figure is missing, with the value null."""
    goals, command = GROUPS[group], " ".join(command_of(group))
    rows = []
    for name in [*figures, *(goal for goal in goals if goal not in figures)]:
        value, goal = figures.get(name), goals.get(name)
        reached = None if goal is None else value is not None and goal.is_reached(value)
        aim = None if goal is None else str(goal)
        rows.append({"figure": name, "value": value, "goal": aim, "reached": reached, "command": command})
    return rows


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print all rows, those that miss their goal with a mark."""
    table = Table("figure", "value", "goal", "", "command")
    for row in rows:
        value = "not measured" if row["value"] is None else f"{row['value']:.4g}"
        table.add_row(row["figure"], value, row["goal"], {True: "yes", False: "no"}.get(row["reached"]), row["command"])
    Console(width=None if Console().is_terminal else 150).print(table)


if __name__ == "__main__":
    sys.exit(main())
