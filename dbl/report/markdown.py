"""The text of a report, from what `report.json` holds."""

from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

from dbl.figures import readable_bytes
from dbl.memory import CATEGORIES, MEANINGS
from dbl.report import explain
from dbl.report.diagnosis import diagnosis
from dbl.report.glossary import metric
from dbl.report.pictures import memory_rows, title
from dbl.report.side import peak_of
from dbl.report.tables import number, table, with_spread
from dbl.report.verdict import verdict


def markdown(report: Mapping[str, Any]) -> list[str]:
    """The lines of `report.md`."""
    blocks = report["sides"][0]
    sections = [
        explain.introduction(report),
        verdict(report),
        _comparison(report),
        _samples(report),
        _memory(report),
        _quality_by_steps(report),
        _parts(blocks),
        _likelihood(report),
        diagnosis(blocks["diagnostics"], report),
        explain.setup(report),
        explain.words(report),
    ]
    return [line for section in sections if section for line in (*section, "")][:-1]


def _comparison(report: Mapping[str, Any]) -> list[str]:
    sides = report["sides"]
    names = list(dict.fromkeys(name for side in sides for name in side["quality"]))
    real = (sides[0]["image_quality"] or {}).get("real_test_images", {})
    rows = [[metric(name), *(with_spread(side["quality"].get(name)) for side in sides)] for name in names]
    rows += [
        ["parameters in memory at once", *(f"{side['parameters_at_once']:,}" for side in sides)],
        ["peak memory of a training step", *(_peak(side["memory"]) for side in sides)],
        ["wall time of training, s", *(f"{side['seconds']:.0f}" for side in sides)],
        ["training compute, images x layers", *(f"{side['layer_passes']:,}" for side in sides)],
        ["layers run for one sample", *(str(_layer_calls(side)) for side in sides)],
    ]
    seeds = report["seeds"]
    several = (
        f" Mean (and range) over training seeds {', '.join(map(str, seeds))}. Values without a range, here and below, "
        f"are of seed {seeds[0]}, except wall time (mean over the seeds)."
        if len(seeds) > 1
        else ""
    )
    header = ["", *(title(side["name"]) for side in sides)]
    if real:
        header.append(f"{report['data']['num_test_images']:,} real test images")
        rows = [[*row, number(real.get(name or ""))] for row, name in zip_longest(rows, names)]
    if any(found["over"] == "start noises" for side in sides for found in side["quality"].values()):
        several += " Ranges of image metrics are over draws of start noise for one training."
    lines = ["## Quality and cost", "", *table(header, rows)]
    return [*lines, "", f"{report['data']['num_test_images']:,} test images.{several}"]


def _peak(memory: Mapping[str, Any] | None) -> str:
    peak = None if memory is None else peak_of(memory)
    return "not measured" if peak is None else readable_bytes(peak)


def _layer_calls(side: Mapping[str, Any]) -> int:
    return sum(calls * part["layers"] for calls, part in zip(side["calls"], side["parts"], strict=True))


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


def _memory(report: Mapping[str, Any]) -> list[str]:
    rows = memory_rows(report)
    if not rows:
        return _cuda(report)
    largest = max(row["peak_bytes"] for row in rows.values())
    sizes = {
        name: [*(row["bytes"][category] for category in CATEGORIES), row["peak_bytes"]] for name, row in rows.items()
    }
    cells = [[name, *(_in_unit(size, largest) for size in row)] for name, row in sizes.items()]
    lines = [
        "## Memory",
        "",
        f"What is in memory at the peak of one training step, in {readable_bytes(largest).split()[1]}. *Measured*: "
        f"counted in a step of this training, for the block that needs most.{_planned(report['memory_plan'])}",
        "",
        *table(["", *CATEGORIES, "peak"], cells),
        "",
        "Columns show what exists at the moment of the peak; that may be before most gradients exist. "
        + "; ".join(f"*{category}*: {MEANINGS[category]}" for category in CATEGORIES)
        + ".",
        "",
        f"![memory]({report['pictures']['memory']})",
    ]
    return lines + _cuda(report)


def _planned(plan: Mapping[str, Any] | None) -> str:
    if plan is None:
        return ""
    return (
        f" *Planned*: counted without data (`dbl plan`), for {plan['batch_size']} images and the kernels of the device "
        f"{plan['device']}. *Checkpointing* keeps only the input of each layer and recomputes the rest, for about a "
        "third more time. *Adafactor* is an optimizer with a small state."
    )


def _in_unit(size: int, largest: int) -> str:
    return readable_bytes(size, largest).split()[0]


def _cuda(report: Mapping[str, Any]) -> list[str]:
    """What the allocator of a GPU says, if the training ran on one."""
    found = {side["name"]: side["memory"]["cuda"] for side in report["sides"] if side["memory"]}
    return [
        line
        for name, cuda in found.items()
        if cuda
        for line in (
            "",
            f"The GPU's allocator, {title(name)}: {readable_bytes(cuda['allocated_bytes'])} allocated at the peak, "
            f"{readable_bytes(cuda['reserved_bytes'])} reserved.",
        )
    ]


def _quality_by_steps(report: Mapping[str, Any]) -> list[str]:
    with_steps = [side for side in report["sides"] if side["quality_by_steps"]]
    if not with_steps:
        return []
    names = list(with_steps[0]["quality_by_steps"][0]["metrics"])
    shown = [name for name in names if name.startswith(("accuracy", "fid", "kid"))]
    header = ["steps", *(f"{metric(name)}, {title(side['name'])}" for side in with_steps for name in shown)]
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


def _parts(side: Mapping[str, Any]) -> list[str]:
    header = [
        "part",
        "noise levels",
        "layers",
        "steps",
        "seconds",
        "parameters",
        "network calls per sample",
        "test loss, weighted",
    ]
    rows = []
    for index, (part, calls) in enumerate(zip(side["parts"], side["calls"], strict=True)):
        levels = "" if part["sigma_high"] is None else f"{part['sigma_high']:.3g} to {part['sigma_low']:.3g}"
        loss = side["test"].get(f"test/loss_block_{index}")
        numbers = [part["layers"], part["steps"], f"{part['seconds']:.0f}", f"{part['parameters']:,}", calls]
        rows.append([part["part"], levels, *map(str, numbers), number(loss)])
    return ["## Blocks, part by part", "", *table(header, rows)]


def _likelihood(report: Mapping[str, Any]) -> list[str]:
    found = report["sides"][0]["likelihood"]
    if found is None:
        return []
    rows = [["cost at the highest noise (prior)", number(found["prior"]), ""]]
    rows += [
        [f"block {index}", number(block["nats"]), number(block["standard_error"])]
        for index, block in enumerate(found["blocks"])
    ]
    rows += [
        ["cost of reading the label from the last vector (reconstruction)", number(found["reconstruction"]), ""],
        ["all", number(found["nats"]), number(found["standard_error"])],
    ]
    return [
        "## Likelihood: nats by block",
        "",
        *explain.likelihood(report),
        "",
        *table(["", "nats", "standard error"], rows),
        "",
        f"![likelihood over noise levels]({report['pictures']['likelihood']})",
    ]
