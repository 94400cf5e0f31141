"""The running text of a report, so that a reader who does not know the project needs no other page."""

from collections.abc import Mapping
from typing import Any

from dbl.report.glossary import class_name, start_of
from dbl.report.task import Task

_PAPER = "[DiffusionBlocks](https://arxiv.org/abs/2506.14202)"


def introduction(report: Mapping[str, Any], task: Task) -> list[str]:
    """What was trained, and what the method is."""
    lines = [
        f"# {report['run']}",
        "",
        f"A {class_name(report['network'])} of {task.sizes['num_layers']} layers on {task.data_set}, {task.pieces} "
        f"({_PAPER}). {task.purpose}",
        "",
        task.training,
    ]
    return [*lines, "", task.baseline] if len(report["sides"]) > 1 else lines


def setup(report: Mapping[str, Any], task: Task) -> list[str]:
    """Choices that the figures depend on."""
    cut, kind = report["partition"]["init_args"], report["target"]["init_args"].get("kind")
    average = "moving average (`ema.decay`)" if report["sides"][0]["weights"] == "ema" else "last weights"
    return [
        "## Settings",
        "",
        f"- Target: {task.choice(class_name(report['target']))}.",
        *([f"- Readout: {task.choice(kind)}."] if kind else []),
        f"- Noise law of training: {task.choice(class_name(report['noise']))}.",
        f"- Partition: {cut['num_blocks']} block{'s' * (cut['num_blocks'] > 1)} by {task.choice(cut['scheme'])}; in "
        f"training each interval is widened by {cut['overlap']:g} of its width in the logarithm of {task.level} on "
        "both sides.",
        f"- Weights that were tested: the {average}.",
        f"- Sampler: {task.sampler}.",
        *task.judged,
        "- All settings: `config.yaml` in the run folder. All figures: `report.json` beside this page.",
    ]


def words(report: Mapping[str, Any], task: Task) -> list[str]:
    """Each figure of the report in a sentence."""
    names = task.in_order(list(dict.fromkeys(name for side in report["sides"] for name in side["quality"])))
    starts = dict.fromkeys(start_of(task.metrics, name) for name in names)
    lines = ["## What the figures mean", ""]
    lines += [f"- *{task.metrics[start][0]}*: {task.metrics[start][1]}" for start in starts if start]
    lines += [
        "- *parameters in memory at once*: trainable numbers that are in memory at the same time in training.",
        "- *peak memory*: the section on memory says what it consists of.",
        "- *wall time*: training of all parts one after another on this machine, validation included. Blocks need "
        "nothing from each other: on several machines it is that of the longest.",
        *task.costs,
    ]
    return lines
