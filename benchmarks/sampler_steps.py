"""Quality of trained runs by method, schedule and number of sampler steps, on the validation split: to choose settings.

python -m benchmarks.sampler_steps runs/digits_dit --schedules karras,quantile --numbers 3,6,12,24,48

Images are compared with the real validation images, and a classifier is given these; the test split is not read. Start
noises are other draws than those of a report. Prints JSON: for each setting the quality of each run and draw, and their
mean, best first.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from statistics import fmean
from typing import Any

from dbl.commands.run_config import RunConfig
from dbl.data import ImageData
from dbl.denoising.sampling import Sampler
from dbl.evaluation.quality_by_steps import quality_by_steps
from dbl.evaluation.report.facts import LOWER, shown_metric
from dbl.inference.stack import BlockStack
from dbl.run.folder import RunFolder
from dbl.utils.errors import UserError


def main() -> None:
    """Measure all settings and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="folders of trained runs of one config, such as those of several seeds")
    parser.add_argument("--methods", default="euler", help="sampling methods, separated by commas")
    parser.add_argument("--schedules", default="karras", help="schedules of levels")
    parser.add_argument("--numbers", default="3,6,12,24,48", help="numbers of steps")
    parser.add_argument("--draws", default="1", help="draws of start noise; a report has draw 0")
    options = parser.parse_args()
    numbers, draws = ([int(number) for number in text.split(",")] for text in (options.numbers, options.draws))
    samplers = list(product(options.methods.split(","), options.schedules.split(",")))
    print(json.dumps(best_first([row for run in options.runs for row in rows_of(run, samplers, numbers, draws)])))


def rows_of(
    path: str, samplers: list[tuple[Any, Any]], numbers: list[int], draws: list[int]
) -> Iterator[dict[str, Any]]:
    """The quality of one run for each setting and draw."""
    config = RunConfig.load(RunFolder.at(path).config)
    if not isinstance(config.data, ImageData):
        raise UserError(f"{path} writes text: its steps are not measured here")
    stack = BlockStack.from_pretrained(RunFolder.at(path).model, config.inference).eval()
    judge = config.groups.image_quality
    judge.reference = replace(judge.reference, split="validation", num_images=None)
    for (method, schedule), draw in product(samplers, draws):
        sampler = replace(config.inference.sampler, method=method, schedule=schedule)
        stack.inference = replace(config.inference, sampler=sampler)
        for row in quality_by_steps(stack, config.data, judge, numbers, split="validation", draw=draw):
            yield {**named(sampler), "steps": row["steps"], "run": path, "draw": draw, "metrics": row["metrics"]}


def named(sampler: Sampler) -> dict[str, Any]:
    """What is compared, beside the number of steps."""
    return {"method": sampler.method, "schedule": sampler.schedule}


def best_first(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The metric that decides, and the values and mean of each setting, in the order of the means."""
    metric = shown_metric(rows[0]["metrics"])
    found: dict[tuple[Any, ...], list[float]] = {}
    for row in rows:
        found.setdefault((row["method"], row["schedule"], row["steps"]), []).append(row["metrics"][metric])
    settings = [
        {"method": method, "schedule": schedule, "steps": steps, "mean": fmean(values), "values": values}
        for (method, schedule, steps), values in found.items()
    ]
    settings.sort(key=lambda setting: setting["mean"], reverse=not metric.startswith(LOWER))
    return {"metric": metric, "settings": settings}


if __name__ == "__main__":
    main()
