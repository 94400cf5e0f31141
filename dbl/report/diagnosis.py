"""What each block does: the section of a report on diagnostics."""

from collections.abc import Mapping
from typing import Any

from dbl.report.tables import number, table


def diagnosis(found: Mapping[str, Any] | None, report: Mapping[str, Any]) -> list[str]:
    """The lines of the section; none if nothing was diagnosed."""
    if found is None:
        return []
    return [
        "## What each block does",
        "",
        f"Measured on {found['num_images']} test images.",
        "",
        *_by_block(found, _condition_name(report)),
        "",
        *_findings(found, _condition_name(report)),
        "",
        f"![loss over noise levels]({report['pictures']['loss_over_sigma']})",
        "",
        *_boundaries(found),
        f"![length of the denoised target along the sampler's path]({report['pictures']['trajectory']})",
        "",
        *_trajectory(found),
    ]


def _condition_name(report: Mapping[str, Any]) -> str:
    return "class label" if report["target"]["class_path"].endswith("PixelTarget") else "image"


def _by_block(found: Mapping[str, Any], condition: str) -> list[str]:
    header = [
        "block",
        f"loss, {found['loss_unit']}",
        f"loss with the {condition} of another",
        "uses it",
        "share of the information",
        "calls a sample",
    ]
    columns = zip(found["condition"], found["information"], found["calls_per_block"], strict=True)
    rows = [
        [
            str(block),
            number(control["loss"]),
            number(control["loss_shuffled"]),
            "yes" if control["uses_condition"] else "**no**",
            f"{information['share']:.0%}",
            str(calls),
        ]
        for block, (control, information, calls) in enumerate(columns)
    ]
    return table(header, rows)


def _findings(found: Mapping[str, Any], condition: str) -> list[str]:
    ignoring = [str(block) for block, control in enumerate(found["condition"]) if not control["uses_condition"]]
    sentence = (
        f"Block {', '.join(ignoring)} ignores its {condition}: its loss hardly changes when it is given that of "
        "another image. At its noise levels the noisy target says all that it needs, or it has not learnt to look."
        if ignoring
        else f"Every block uses its {condition}: its loss rises when it is given that of another image."
    )
    idle = [str(block) for block, calls in enumerate(found["calls_per_block"]) if calls == 0]
    unused = f" The sampler never calls block {', '.join(idle)}: raise the number of steps." if idle else ""
    return [
        f"{sentence}{unused} *Loss* is without the weight of training. *Share of the information*: of all nats that "
        "the blocks resolve between the highest and the lowest noise, those in the block's interval.",
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
        ]
        for boundary in found["boundaries"]
    ]
    return [
        "Neighbours at the noise level where one takes over from the other, both given the same noisy targets:",
        "",
        *table(["blocks", "noise level", "difference of their answers", "error of the answer"], rows),
        "",
        "Both figures are root mean squares for a coordinate of the target. Blocks that were trained apart and still "
        "agree well within their error have learnt the same function there.",
        "",
    ]


def _trajectory(found: Mapping[str, Any]) -> list[str]:
    first, last = found["trajectory"][0], found["trajectory"][-1]
    return [
        "Length of the denoised target (for classes: of the expected class vector) along the sampler's path, as a "
        f"multiple of the clean targets': {first['norm']:.2f} at the first call, {last['norm']:.2f} at the last. It "
        "starts short, because the mean of all that is possible is short, and should end near 1."
    ]
