"""The text of a report, from what `report.json` holds."""

from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

from dbl.evaluation.figures import readable_bytes
from dbl.evaluation.report import sections as explain
from dbl.evaluation.report.diagnosis import diagnosis
from dbl.evaluation.report.glossary import number, table, with_spread
from dbl.evaluation.report.pictures import memory_rows
from dbl.evaluation.report.sections import likelihood, verdict, written_texts
from dbl.evaluation.report.side import peak_of
from dbl.evaluation.report.task import Task
from dbl.evaluation.report.tasks import task_of
from dbl.training.memory.tracker import CATEGORIES, MEANINGS


def markdown(report: Mapping[str, Any]) -> list[str]:
    """The lines of `report.md`."""
    blocks, task = report["sides"][0], task_of(report)
    sections = [
        explain.introduction(report, task),
        verdict(report, task),
        _comparison(report, task),
        _samples(report),
        written_texts(report, task),
        _memory(report, task),
        _quality_by_steps(report, task),
        _parts(blocks, task),
        likelihood(report, task),
        diagnosis(blocks["diagnostics"], report, task),
        explain.setup(report, task),
        explain.words(report, task),
    ]
    return [line for section in sections if section for line in (*section, "")][:-1]


def _comparison(report: Mapping[str, Any], task: Task) -> list[str]:
    sides = report["sides"]
    names = task.in_order(list(dict.fromkeys(name for side in sides for name in side["quality"])))
    column, real = task.real
    rows = [[task.metric(name), *(with_spread(side["quality"].get(name)) for side in sides)] for name in names]
    rows += [
        ["parameters in memory at once", *(f"{side['parameters_at_once']:,}" for side in sides)],
        ["peak memory of a training step", *(_peak(side["memory"]) for side in sides)],
        ["wall time of training, s", *(f"{side['seconds']:.0f}" for side in sides)],
        [f"training compute, {task.samples} x layers", *(f"{side['layer_passes']:,}" for side in sides)],
        [f"layers run for one {task.unit}", *(f"{task.layers_run(side):g}" for side in sides)],
    ]
    seeds = report["seeds"]
    several = (
        f" Mean (and range) over training seeds {', '.join(map(str, seeds))}. Values without a range, here and below, "
        f"are of seed {seeds[0]}, except wall time (mean over the seeds)."
        if len(seeds) > 1
        else ""
    )
    header = ["", *(task.titles[side["name"]] for side in sides)]
    if real:
        header.append(column)
        rows = [[*row, number(real.get(name or ""))] for row, name in zip_longest(rows, names)]
    if any(found["over"] == "start noises" for side in sides for found in side["quality"].values()):
        several += " Ranges of image metrics are over draws of start noise for one training."
    lines = ["## Quality and cost", "", *table(header, rows)]
    return [*lines, "", f"{task.test_split}.{several}{task.bounds}"]


def _peak(memory: Mapping[str, Any] | None) -> str:
    peak = None if memory is None else peak_of(memory)
    return "not measured" if peak is None else readable_bytes(peak)


def _samples(report: Mapping[str, Any]) -> list[str]:
    if not report["samples"]:
        return []
    lines = ["## Samples", "", "From the blocks, one class per column.", "", f"![samples]({report['samples']})"]
    if len(report["sides"]) > 1:
        lines += [
            "",
            "From the end-to-end network, with the same start noise:",
            "",
            "![samples](../baseline/report/samples.png)",
        ]
    return lines


def _memory(report: Mapping[str, Any], task: Task) -> list[str]:
    rows = memory_rows(report, task)
    if not rows:
        return _cuda(report, task)
    largest = max(row["peak_bytes"] for row in rows.values())
    sizes = {
        name: [*(row["bytes"][category] for category in CATEGORIES), row["peak_bytes"]] for name, row in rows.items()
    }
    cells = [[name, *(_in_unit(size, largest) for size in row)] for name, row in sizes.items()]
    lines = [
        "## Memory",
        "",
        f"What is in memory at the peak of one training step, in {readable_bytes(largest).split()[1]}. *Measured*: "
        f"counted in a step of this training, for the block that needs most."
        f"{_planned(report['memory_plan'], task)}{task.memory}",
        "",
        *table(["", *CATEGORIES, "peak"], cells),
        "",
        "Columns show what exists at the moment of the peak; that may be before most gradients exist. "
        + "; ".join(f"*{category}*: {MEANINGS[category]}" for category in CATEGORIES)
        + ".",
        "",
        f"![memory]({report['pictures']['memory']})",
    ]
    return lines + _cuda(report, task)


def _planned(plan: Mapping[str, Any] | None, task: Task) -> str:
    if plan is None:
        return ""
    return (
        f" *Planned*: counted without data (`dbl plan`), for {plan['batch_size']} {task.samples} and the kernels of "
        f"the device {plan['device']}. *Checkpointing* keeps only the input of each layer and recomputes the rest, for "
        "about a third more time. *Adafactor* is an optimizer with a small state."
    )


def _in_unit(size: int, largest: int) -> str:
    return readable_bytes(size, largest).split()[0]


def _cuda(report: Mapping[str, Any], task: Task) -> list[str]:
    """What the allocator of a GPU says, if the training ran on one."""
    found = {side["name"]: side["memory"]["cuda"] for side in report["sides"] if side["memory"]}
    return [
        line
        for name, cuda in found.items()
        if cuda
        for line in (
            "",
            f"The GPU's allocator, {task.titles[name]}: {readable_bytes(cuda['allocated_bytes'])} allocated at the "
            f"peak, {readable_bytes(cuda['reserved_bytes'])} reserved.",
        )
    ]


def _quality_by_steps(report: Mapping[str, Any], task: Task) -> list[str]:
    with_steps = [side for side in report["sides"] if side["quality_by_steps"]]
    if not with_steps:
        return []
    names = list(with_steps[0]["quality_by_steps"][0]["metrics"])
    shown = [name for name in names if name.startswith(("accuracy", "fid", "kid"))]
    header = ["steps", *(f"{task.metric(name)}, {task.titles[side['name']]}" for side in with_steps for name in shown)]
    rows = [
        [str(points[0]["steps"]), *(with_spread(point["metrics"][name]) for point in points for name in shown)]
        for points in zip(*(side["quality_by_steps"] for side in with_steps), strict=True)
    ]
    return [
        "## Quality against the number of sampler steps",
        "",
        "With one step only block 0 is called; with fewer steps than blocks some blocks are not called at all.",
        "",
        *table(header, rows),
        "",
        f"![quality against steps]({report['pictures']['quality_vs_steps']})",
    ]


def _parts(side: Mapping[str, Any], task: Task) -> list[str]:
    header = [
        "part",
        task.levels,
        "layers",
        "steps",
        "seconds",
        "parameters",
        f"network calls per {task.unit}",
        "test loss, weighted",
    ]
    rows = []
    for index, (part, calls) in enumerate(zip(side["parts"], side["calls"], strict=True)):
        levels = "" if part["sigma_high"] is None else f"{part['sigma_high']:.3g} to {part['sigma_low']:.3g}"
        loss = side["test"].get(f"test/loss_block_{index}")
        numbers = [part["layers"], part["steps"], f"{part['seconds']:.0f}", f"{part['parameters']:,}", calls]
        rows.append([part["part"], levels, *map(str, numbers), number(loss)])
    return ["## Blocks, part by part", "", *table(header, rows)]
