"""What a report says in short: the first figures that a reader asks for, in words, drawn from the figures alone."""

from collections.abc import Mapping
from typing import Any

from dbl.figures import readable_bytes
from dbl.report.pictures import shown_metric
from dbl.report.tables import number, signed_spread, with_spread
from dbl.report.task import Task


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
