"""The pictures of a report, drawn from what `report.json` holds."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dbl.evaluation.figures import likelihood_figure, loss_figure, memory_figure, steps_figure, trajectory_figure
from dbl.evaluation.report.glossary import LOWER
from dbl.evaluation.report.task import Task
from dbl.evaluation.report.tasks import task_of
from dbl.utils.plotting import save_figure

# A path of fewer calls is told in words.
FEW_CALLS = 6


def draw_pictures(report: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """Draw what there is to draw; the names of the pictures and of their files."""
    blocks, task = report["sides"][0], task_of(report)
    figures = {}
    if rows := memory_rows(report, task):
        figures["memory"] = memory_figure({name: row["bytes"] for name, row in rows.items()})
    if blocks["quality_by_steps"]:
        name = shown_metric(blocks["quality_by_steps"][0]["metrics"])
        figures["quality_vs_steps"] = steps_figure(
            _curves(report, name, task), task.metric(name), name.startswith(LOWER)
        )
    if blocks["likelihood"]:
        figures["likelihood"] = likelihood_figure(blocks["likelihood"]["curve"], task.level)
    if found := blocks["diagnostics"]:
        boundaries = [boundary["sigma"] for boundary in found["boundaries"]]
        figures["loss_over_sigma"] = loss_figure(found["levels"], boundaries, found["loss_unit"])
        if len(found["trajectory"]) >= FEW_CALLS:
            figures["trajectory"] = trajectory_figure(found["trajectory"], boundaries)
    for name, figure in figures.items():
        save_figure(figure, folder / f"{name}.png")
    return {name: f"{name}.png" for name in figures}


def memory_rows(report: Mapping[str, Any], task: Task) -> dict[str, dict[str, Any]]:
    """Rows of the memory table: what was measured, then what was only planned; each with `bytes` and `peak_bytes`."""
    measured = {
        f"{task.titles[side['name']]} (measured)": side["memory"]
        for side in report["sides"]
        if side["memory"] and side["memory"]["bytes"]
    }
    plan = report["memory_plan"]["rows"] if report["memory_plan"] else []
    return measured | {f"{row['name']} (planned)": row for row in plan}


def shown_metric(metrics: Mapping[str, Any]) -> str:
    """The one metric to show where there is room for one: accuracy, FID, nats, or else the loss."""
    return next(name for start in ("accuracy", "fid", "nats", "loss") for name in metrics if name.startswith(start))


def _curves(report: Mapping[str, Any], name: str, task: Task) -> dict[str, list[dict[str, Any]]]:
    """For each side its points; an end-to-end classifier, which takes no steps, is a line at its one value."""
    steps = [row["steps"] for row in report["sides"][0]["quality_by_steps"]]
    curves = {}
    for side in report["sides"]:
        if rows := side["quality_by_steps"]:
            curves[task.titles[side["name"]]] = [{"steps": row["steps"], **row["metrics"][name]} for row in rows]
        elif name in side["quality"]:
            line = f"{task.titles[side['name']]} (without a sampler)"
            curves[line] = [{"steps": number, **side["quality"][name]} for number in (steps[0], steps[-1])]
    return curves
