"""What each block does: the section of a report on diagnostics."""

from collections.abc import Mapping
from typing import Any

from dbl.evaluation.report.glossary import number, table
from dbl.evaluation.report.task import Task


def diagnosis(found: Mapping[str, Any] | None, report: Mapping[str, Any], task: Task) -> list[str]:
    """The lines of the section; none if nothing was diagnosed."""
    if found is None:
        return []
    levels = [level["sigma"] for level in found["levels"]]
    lines = [
        "## What each block does",
        "",
        f"Measured on {found['num_samples']} test {task.samples} at quantiles of the training distribution (sigma "
        f"{levels[0]:.3g} to {levels[-1]:.3g}). *Loss*: {found['loss_unit']}, without the weight of training."
        f"{task.blocks_and_noise}",
        "",
        *_by_block(found, report["sides"][0]["calls"], task),
        "",
        *_findings(found, task),
        "",
        f"![loss over noise levels]({report['pictures']['loss_over_sigma']})",
        "",
        *_boundaries(found),
        *_path(found, report),
    ]
    return lines if lines[-1] else lines[:-1]


def _by_block(found: Mapping[str, Any], calls_of_blocks: list[int], task: Task) -> list[str]:
    header = [
        "block",
        "loss",
        f"loss with {task.shuffled}",
        "rise ± standard error",
        "share of the nats",
        f"network calls per {task.unit}",
    ]
    columns = zip(found["condition"], found["information"], calls_of_blocks, strict=True)
    rows = [
        [
            str(block),
            number(control["loss"]),
            number(control["loss_shuffled"]),
            _rise(control),
            f"{information['share']:.0%}",
            str(calls),
        ]
        for block, (control, information, calls) in enumerate(columns)
    ]
    return table(header, rows)


def _rise(control: Mapping[str, Any]) -> str:
    if not control["loss"]:
        return number(control["loss_shuffled"])
    rise = (control["loss_shuffled"] - control["loss"]) / control["loss"]
    return f"{rise:+.1%} ± {control['standard_error'] / control['loss']:.1%}"


def _findings(found: Mapping[str, Any], task: Task) -> list[str]:
    ignoring = [str(block) for block, control in enumerate(found["condition"]) if not control["uses_condition"]]
    sentence = (
        f"**Block {', '.join(ignoring)} ignores {task.condition}**: its loss hardly changes when it is given that of "
        f"another {task.sample}. At its noise levels the noisy target says all that it needs, or it has not learnt to "
        "look."
        if ignoring
        else f"Every block uses {task.condition}, if little in places: its loss rises by more than 1 % and than two "
        f"standard errors when it is given {task.control}."
    )
    idle = [str(block) for block, calls in enumerate(found["calls_per_block"]) if calls == 0]
    unused = f" The sampler never calls block {', '.join(idle)}: raise the number of steps." if idle else ""
    return [
        f"{sentence}{unused} *Share of the nats*: the integral of squared error / sigma³ over the block's interval as "
        "a share of the whole. For an ideal denoiser it is the information that the interval "
        f"resolves{task.share}.",
    ]


def _boundaries(found: Mapping[str, Any]) -> list[str]:
    if not found["boundaries"]:
        return []
    rows = [
        [
            f"{boundary['blocks'][0]} and {boundary['blocks'][1]}",
            number(boundary["sigma"]),
            number(boundary["difference"]),
            number(boundary["error"]),
            f"{boundary['difference'] / boundary['error']:.2f}" if boundary["error"] else "",
        ]
        for boundary in found["boundaries"]
    ]
    return [
        "Neighbours at the noise level where one takes over from the other, both given the same noisy targets (root "
        "mean squares for a coordinate of the target):",
        "",
        *table(["blocks", "noise level", "difference of their answers", "error of the upper one", "ratio"], rows),
        "",
        "A ratio well below 1 is what blocks that agree would show, though it does not prove that they do.",
        "",
    ]


def _path(found: Mapping[str, Any], report: Mapping[str, Any]) -> list[str]:
    calls = found["trajectory"]
    if not calls:
        return []
    meaning = (
        "The mean of several possible targets is shorter than one of them, so values below 1 are expected where noise "
        "is high."
    )
    if "trajectory" not in report["pictures"]:
        norms = ", ".join(f"{call['norm']:.2f}" for call in calls)
        return [
            "Length of the expected target along the sampler's path, as a multiple of a clean target's, call by call: "
            f"{norms}. {meaning}"
        ]
    lowest = min(calls, key=lambda call: call["norm"])
    return [
        f"![length of the denoised target along the sampler's path]({report['pictures']['trajectory']})",
        "",
        "Length of the denoised target along the sampler's path, as a multiple of a clean target's: "
        f"{calls[0]['norm']:.2f} at the first call, lowest {lowest['norm']:.2f} at sigma {lowest['sigma']:.3g}, "
        f"{calls[-1]['norm']:.2f} at the last. {meaning}",
    ]
