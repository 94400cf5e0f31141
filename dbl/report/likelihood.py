"""What labels or tokens cost: the section of a report on the likelihood bound."""

from collections.abc import Mapping
from math import log
from typing import Any

from dbl.report.tables import number, table
from dbl.report.task import Task
from dbl.report.text_task import TextTask

_COMMITTEE = (
    " Here all blocks answered each level together (a *committee*, `inference.committee`), so a row of a block says "
    "what its levels cost, not what it alone can do; the row without committee has each block answer its own levels."
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
    """The row of the chain in which each block answers its own levels, if the rest is of a committee."""
    own = found.get("own_blocks")
    return [("each block at its own levels, no committee", own["nats"], own["standard_error"])] if own else []


def _baseline(sides: list[dict[str, Any]], task: Task) -> list[tuple[str, float, float]]:
    """The row of the end-to-end network, if it has one."""
    found = sides[-1]["likelihood"] if len(sides) > 1 else None
    if found is None:
        return []
    kind = "exact" if found["exact"] else "all, an upper bound too"
    return [(f"{task.titles['end_to_end']}, {kind}", found["nats"], found["standard_error"])]
