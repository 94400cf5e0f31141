"""What a sweep found: the best run on the validation split, one table and one picture over all runs."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dbl.evaluation.figures import readable_bytes
from dbl.evaluation.report.facts import shown_metric
from dbl.utils.markdown import table
from dbl.utils.plotting import colour_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]

# Keys whose values change what the validation loss is measured on, or its scale.
_OF_THE_LOSS = ("contract.noise", "contract.target", "data.class_path", "data.init_args.tokenizer")


def higher_is_better(metric: str) -> bool:
    """Whether higher values of a validation metric are better."""
    return metric.startswith("accuracy")


def ranked(rows: Sequence[Row], metric: str) -> list[Row]:
    """The finished runs, the best on the validation split first.

    Args:
        rows: runs of a sweep, each with `state` and, if it is finished, `validation` (metric -> value).
        metric: name of the metric.
    """
    sign = -1 if higher_is_better(metric) else 1
    finished = [row for row in rows if row["state"] == "finished" and metric in row["validation"]]
    return sorted(finished, key=lambda row: sign * float(row["validation"][metric]))


def sweep_markdown(sweep: Mapping[str, Any]) -> str:
    """The page of a sweep.

    Args:
        sweep: content of `sweep.json`.
    """
    metric, rows = sweep["metric"], ranked(sweep["runs"], sweep["metric"])
    lines = [f"# Sweep {sweep['name']}", ""]
    if rows:
        lines += [_verdict(rows[0], metric, len(rows)), "", sweep_table(sweep), "", "![All runs](sweep.png)", ""]
    else:
        lines += ["No run is finished yet.", ""]
    if metric.startswith("loss") and any(key.startswith(_OF_THE_LOSS) for key in sweep["keys"]):
        lines += [
            "The validation loss has another scale for other data, targets or noise: do not compare it.",
            "",
        ]
    lines += [f"- {row['name']}: {row['state']}{_reason(row)}" for row in sweep["runs"] if row["state"] != "finished"]
    return "\n".join(lines).rstrip() + "\n"


def _reason(row: Row) -> str:
    return f" ({row['reason']})" if row.get("reason") else ""


def _verdict(best: Row, metric: str, number: int) -> str:
    of = f"the best of {number} runs" if number > 1 else "the only one"
    return (
        f"{best['name']} is {of} on the validation split: {metric} {best['validation'][metric]:.4g}. Figures of the "
        "test split stand beside it and chose nothing; of many runs the best validation figure is a little too good."
    )


def sweep_table(sweep: Mapping[str, Any]) -> str:
    """A row for each finished run, the best first: choices, validation, test, memory and time."""
    rows, metric, keys = ranked(sweep["runs"], sweep["metric"]), sweep["metric"], sweep["keys"]
    test = list(dict.fromkeys(name for row in rows for name in row["test"]))
    first = shown_metric(test) if any(name.startswith(("accuracy", "fid", "nats", "loss")) for name in test) else None
    shown = [name for name in dict.fromkeys((first, metric)) if name is not None and name in test]
    header = [*keys.values(), f"validation {metric}", *(f"test {name}" for name in shown), "peak memory", "time", "run"]
    return table(header, ([*_choices(row, keys), *_figures(row, metric, shown), row["name"]] for row in rows))


def _choices(row: Row, keys: Mapping[str, str]) -> list[str]:
    return [row["choices"].get(key, "") for key in keys]


def _figures(row: Row, metric: str, shown: Sequence[str]) -> list[str | None]:
    test = [f"{row['test'][name]:.4g}" if name in row["test"] else None for name in shown]
    memory = readable_bytes(row["peak_bytes"]) if row["peak_bytes"] else None
    return [f"{row['validation'][metric]:.4g}", *test, memory, f"{row['seconds']:.0f} s"]


def sweep_figure(sweep: Mapping[str, Any]) -> "Figure":
    """A panel for each key: its values against the validation metric, with the best run in a ring.

    A grid of two keys has a line for each value of the other one.

    Args:
        sweep: content of `sweep.json`, with at least one finished run.
    """
    from matplotlib.figure import Figure

    metric, keys = sweep["metric"], sweep["keys"]
    rows = ranked(sweep["runs"], metric)
    figure = Figure(figsize=(max(5, 3.6 * len(keys)), 3.4), layout="constrained")
    panels = figure.subplots(1, len(keys), squeeze=False, sharey=True).flatten()
    for panel, (key, name) in zip(panels, keys.items(), strict=True):
        places = _places(panel, [row["choices"][key] for row in rows], sweep["ranges"].get(key))
        others = [other for other in keys if other != key]
        lines = others[0] if len(others) == 1 and not sweep["study"] else None
        _draw(panel, rows, key, lines, metric, places, keys)
        best = places[rows[0]["choices"][key]], rows[0]["validation"][metric]
        panel.plot(*best, "o", ms=11, mfc="none", color="black")
        panel.set_xlabel(name)
    better = "higher" if higher_is_better(metric) else "lower"
    panels[0].set_ylabel(f"validation {metric}, {better} is better")
    figure.suptitle(f"{sweep['name']}: {len(rows)} runs; ring: the best", fontsize=9)
    return figure


def _draw(
    panel: "Axes",
    rows: Sequence[Row],
    key: str,
    lines: str | None,
    metric: str,
    places: Mapping[str, float],
    keys: Mapping[str, str],
) -> None:
    values = list(dict.fromkeys(row["choices"][lines] for row in rows)) if lines else [None]
    for number, value in enumerate(sorted(values, key=_order)):
        chosen = [row for row in rows if value is None or row["choices"][lines] == value]
        points = sorted((places[row["choices"][key]], row["validation"][metric]) for row in chosen)
        style = "o-" if lines or (len(keys) == 1 and len(places) == len(rows)) else "o"
        label = None if value is None else f"{keys[lines or '']} {value}"
        panel.plot(*zip(*points, strict=True), style, ms=4, color=colour_of(number), label=label)
    if lines:
        panel.legend(fontsize=7)


def _order(value: str | None) -> tuple[float, str]:
    number = _number(value)
    return (math.inf if number is None else number, str(value))


def _number(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _places(panel: "Axes", values: Sequence[str], drawn_from: str | None) -> dict[str, float]:
    """Value -> place on the horizontal axis: the number itself, or one place after the other for what is no number."""
    distinct = sorted(dict.fromkeys(values), key=_order)
    numbers = [_number(value) for value in distinct]
    found = [number for number in numbers if number is not None]
    if len(found) < len(distinct):
        panel.set_xticks(range(len(distinct)), labels=distinct, fontsize=7)
        return {value: float(place) for place, value in enumerate(distinct)}
    if min(found) > 0 and (max(found) >= 20 * min(found) or (drawn_from or "").startswith("log:")):
        panel.set_xscale("log")
    elif len(found) <= 8 and not drawn_from:
        panel.set_xticks(found, labels=distinct)
    return dict(zip(distinct, found, strict=True))
