"""The running text of a report, so that a reader who does not know the project needs no other page."""

import re
from collections.abc import Mapping
from math import log
from typing import Any

from dbl.evaluation.figures import readable_bytes
from dbl.evaluation.report.glossary import class_name, number, signed_spread, start_of, table, with_spread
from dbl.evaluation.report.pictures import shown_metric
from dbl.evaluation.report.task import Task
from dbl.evaluation.report.text_task import TextTask

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
        f"- Noise distribution of training: {task.choice(class_name(report['noise']))}.",
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


# Characters of one text that are shown.
_MOST_SHOWN = 1200


def written_texts(report: Mapping[str, Any], task: Task) -> list[str]:
    """The section of the texts that the sides wrote; none if none were written."""
    sides = [side for side in report["sides"] if side["text_quality"] and side["text_quality"]["texts"]]
    if not sides:
        return []
    lines = [
        "## Samples",
        "",
        "Beginnings of test texts that the network was given, each in a box of its own, and under them what was "
        "written to follow. All tokens were drawn; nothing was picked out.",
    ]
    for index, texts in enumerate(zip(*(side["text_quality"]["texts"] for side in sides), strict=False), start=1):
        lines += ["", f"**Text {index}, given:**", "", *fenced(texts[0]["prompt"])]
        for side, text in zip(sides, texts, strict=True):
            lines += ["", f"Written, {task.titles[side['name']]}:", "", *fenced(text["generated"])]
    return lines


def fenced(text: str) -> list[str]:
    """A text as lines of a code block that nothing in the text can end; a long one is cut."""
    shown = text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]} … (cut)"
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", shown)), default=0))
    return [f"{fence}text", *shown.splitlines(), fence]


_COMMITTEE = (
    " Here all blocks answered each level together (a *ensemble*, `inference.ensemble`), so a row of a block says "
    "what its levels cost, not what it alone can do; the row without ensemble has each block answer its own levels."
)


def likelihood(report: Mapping[str, Any], task: Task) -> list[str]:
    """The lines of the section; none if there is no bound."""
    found = report["sides"][0]["likelihood"]
    if found is None:
        return []
    rows = [(f"block {index}", block["nats"], block["standard_error"]) for index, block in enumerate(found["blocks"])]
    # Masked text loses nothing at the highest level, where all is hidden.
    if found["prior"]:
        rows.insert(0, ("cost at the highest noise (prior)", found["prior"], None))
    rows += [
        (task.reconstruction, found["reconstruction"], None),
        ("all", found["nats"], found["standard_error"]),
        *_without_committee(found),
        *_baseline(report["sides"], task),
    ]
    header, cells = ["", "nats", "standard error"], [[name, *map(number, values)] for name, *values in rows]
    if isinstance(task, TextTask):
        header.append(f"bits per {task.bit_unit}")
        cells = [[*row, number(nats / log(2))] for row, (_, nats, _) in zip(cells, rows, strict=True)]
    return [
        "## Likelihood: nats by block",
        "",
        task.likelihood + (_COMMITTEE if found.get("own_blocks") else ""),
        "",
        *table(header, cells),
        "",
        f"![likelihood over noise levels]({report['pictures']['likelihood']})",
    ]


def _without_committee(found: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """The row of the chain in which each block answers its own levels, if the rest is of a ensemble."""
    own = found.get("own_blocks")
    return [("each block at its own levels, no ensemble", own["nats"], own["standard_error"])] if own else []


def _baseline(sides: list[dict[str, Any]], task: Task) -> list[tuple[str, float, float]]:
    """The row of the end-to-end network, if it has one."""
    found = sides[-1]["likelihood"] if len(sides) > 1 else None
    if found is None:
        return []
    kind = "exact" if found["exact"] else "all, an upper bound too"
    return [(f"{task.titles['end_to_end']}, {kind}", found["nats"], found["standard_error"])]


def verdict(report: Mapping[str, Any], task: Task) -> list[str]:
    """Bullets on quality, steps, layers and memory of blocks beside the end-to-end network; none without it."""
    if len(report["sides"]) < 2:
        return []
    lines = [_quality(report, task), _steps(report, task), _memory(report)]
    return ["## In short", "", *(f"- {line}" for line in lines if line)]


def _quality(report: Mapping[str, Any], task: Task) -> str:
    blocks, whole = (side["quality"] for side in report["sides"])
    name = shown_metric(blocks)
    if name not in whole:
        return ""
    first, second = blocks[name], whole[name]
    text = f"{task.metric(name)}: {with_spread(first)} for {task.the_blocks}, {with_spread(second)} end to end"
    if name == "accuracy":
        images = abs(first["mean"] - second["mean"]) * report["data"]["num_test_samples"]
        text += f", a difference of {images:.1f} of {report['data']['num_test_samples']:,} test {task.samples}"
    if name == "nats":
        text += _difference(first, second, task)
    if len(report["seeds"]) < 2:
        return f"{text}. One training seed: a small difference says nothing."
    overlap = first["min"] <= second["max"] and second["min"] <= first["max"]
    return f"{text}. The ranges over {len(report['seeds'])} seeds {'overlap' if overlap else 'do not overlap'}."


def _difference(blocks: Mapping[str, Any], whole: Mapping[str, Any], task: Task) -> str:
    """Of nats, seed by seed, as both sides of a seed saw the same data."""
    pairs = zip(blocks["values"], whole["values"], strict=True)
    found = signed_spread([first - second for first, second in pairs])
    if task.exact_baseline:
        return (
            f"; the first is an upper bound, the second exact. The bound of {task.the_blocks} minus the end-to-end "
            f"value is {found} nats; but for the error of the estimate, which stands under *Likelihood*, the true "
            "difference is at most that"
        )
    return f"; both are upper bounds. Blocks minus end to end is {found} nats"


def _steps(report: Mapping[str, Any], task: Task) -> str:
    sides = [side for side in report["sides"] if side["quality_by_steps"]]
    if len(sides) < 2:
        return ""
    name = shown_metric(sides[0]["quality_by_steps"][0]["metrics"])
    best = [min(side["quality_by_steps"], key=lambda row: row["metrics"][name]["mean"]) for side in sides]
    values = [number(row["metrics"][name]["mean"]) for row in best]
    return (
        f"Best {task.metric(name)} over numbers of sampler steps: {values[0]} with {best[0]['steps']} steps for the "
        f"blocks, {values[1]} with {best[1]['steps']} end to end; a step of the blocks runs one block only."
    )


def _memory(report: Mapping[str, Any]) -> str:
    if not report["memory_plan"]:
        return ""
    rows = {row["name"]: row["peak_bytes"] for row in report["memory_plan"]["rows"]}
    block_name = next(name for name in rows if name.endswith(("block", "blocks")))
    whole, block = rows["end to end"], rows[block_name]
    text = (
        f"A training step needs {readable_bytes(block)} for a block and {readable_bytes(whole)} end to end (ratio "
        f"{block / whole:.2f})"
    )
    if f"{block_name}, checkpointing" not in rows:
        return f"{text}."
    saving, block_saving = rows["end to end, checkpointing"], rows[f"{block_name}, checkpointing"]
    return (
        f"{text}; with activation checkpointing {readable_bytes(block_saving)} and "
        f"{readable_bytes(saving)} (ratio {block_saving / saving:.2f}). So checkpointing alone, without blocks, needs "
        f"{'less' if saving < block else 'more'} than blocks without checkpointing."
    )
