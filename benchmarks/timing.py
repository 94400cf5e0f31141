"""What the benchmarks share: seconds of several calls in turn, and configs to measure.

Seconds are process time on one thread: what other programs do beside a benchmark changes them little.
"""

import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from dbl.commands.parsing import parse
from dbl.commands.run_config import RunConfig
from dbl.commands.schema import config_parser
from dbl.training.memory.planner import Planner

CONFIGS = Path(__file__).parents[1] / "configs"
RANDOM_START = "--contract.start=dbl.RandomStart"

Call = Callable[[], object]


def median_seconds(
    calls: Mapping[str, Call], repeats: int, warm_up: int = 2, in_a_row: Mapping[str, int] | None = None
) -> dict[str, float]:
    """Median process time of each call, all of them in turn.

    Args:
        calls: functions to time, by name.
        repeats: number of turns.
        warm_up: number of turns before these.
        in_a_row: number of times that a call is made in its turn, if not once; the time is that of one.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(warm_up + repeats):
        for name, call in calls.items():
            number = (in_a_row or {}).get(name, 1)
            start = time.process_time()
            for _ in range(number):
                call()
            if turn >= warm_up:
                seconds[name].append((time.process_time() - start) / number)
    return {name: statistics.median(values) for name, values in seconds.items()}


def config_of(name: str, *options: str) -> RunConfig:
    """A config of `configs/` whose blocks start from random weights, with options as on the command line."""
    return RunConfig(parse(config_parser(), ["--config", str(CONFIGS / f"{name}.yaml"), RANDOM_START, *options]))


def planner_of(config: RunConfig) -> Planner:
    """The maker of blocks and of the whole network of a config."""
    return Planner(config.contract_config, config.data.declared_spec, config.recipe)


def print_figures(figures: Callable[[], Mapping[str, Any]]) -> None:
    """Measure on one thread, and print JSON."""
    torch.set_num_threads(1)
    print(json.dumps(figures(), indent=2))
