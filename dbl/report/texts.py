"""The texts of a report: beginnings of test texts, and how each side continues them."""

import re
from collections.abc import Mapping
from typing import Any

from dbl.report.task import Task

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
    for number, texts in enumerate(zip(*(side["text_quality"]["texts"] for side in sides), strict=False)):
        lines += ["", f"**Text {number + 1}, given:**", "", *fenced(texts[0]["prompt"])]
        for side, text in zip(sides, texts, strict=True):
            lines += ["", f"Written, {task.titles[side['name']]}:", "", *fenced(text["generated"])]
    return lines


def fenced(text: str) -> list[str]:
    """A text as lines of a code block that nothing in the text can end; a long one is cut."""
    shown = text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]} … (cut)"
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", shown)), default=0))
    return [f"{fence}text", *shown.splitlines(), fence]
