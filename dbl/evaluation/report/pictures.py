"""The pictures of a report, drawn from what `report.json` holds."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbl.evaluation.figures import (
    curves_figure,
    likelihood_figure,
    loss_figure,
    memory_figure,
    memory_quality_figure,
    steps_figure,
    trajectory_figure,
)
from dbl.evaluation.report.facts import LOWER, memory_and_quality, memory_rows, shown_metric, unbeaten
from dbl.utils.plotting import save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# A path of fewer calls is described in words.
_FEW_CALLS = 6


def draw_pictures(report: Mapping[str, Any], words: Any, folder: Path) -> dict[str, str]:
    """Write the pictures as files; arguments as in `figures_of`, and the folder for the files.

    Returns:
        Names of the pictures and of their files.
    """
    figures = figures_of(report, words)
    for name, figure in figures.items():
        save_figure(figure, folder / f"{name}.png")
    return {name: f"{name}.png" for name in figures}


def figures_of(report: Mapping[str, Any], words: Any) -> "dict[str, Figure]":
    """Draw what there is to draw.

    Args:
        report: content of `report.json`, except the pictures.
        words: names for the task of the report, the module of `words.j2`.

    Returns:
        The pictures by their names.
    """
    blocks = report["sides"][0]
    figures = {}
    if losses := _losses(report, words):
        figures["loss_curves"] = curves_figure(losses)
    if rows := memory_rows(report, words):
        figures["memory"] = memory_figure({name: row["bytes"] for name, row in rows.items()})
    if points := memory_and_quality(report, words):
        name = shown_metric(blocks["quality"])
        joined = unbeaten(points, name.startswith(LOWER))
        figures["quality_vs_memory"] = memory_quality_figure(points, joined, words.metric(name), name.startswith(LOWER))
    if blocks["quality_by_steps"]:
        name = shown_metric(blocks["quality_by_steps"][0]["metrics"])
        curves = _curves(report, name, words)
        figures["quality_vs_steps"] = steps_figure(curves, words.metric(name), name.startswith(LOWER))
    if blocks["likelihood"]:
        figures["likelihood"] = likelihood_figure(blocks["likelihood"]["curve"], words.nouns["level"])
    if found := blocks["diagnostics"]:
        boundaries = [boundary["sigma"] for boundary in found["boundaries"]]
        figures["loss_over_sigma"] = loss_figure(found["levels"], boundaries, found["loss_unit"])
        if len(found["trajectory"]) >= _FEW_CALLS:
            figures["trajectory"] = trajectory_figure(found["trajectory"], boundaries)
    return figures


def _losses(report: Mapping[str, Any], words: Any) -> dict[str, dict[str, list[dict[str, float]]]]:
    """Title -> losses of each part that has any: ancestors and blocks, then the rivals."""
    blocks, *rivals = report["sides"]
    parts = {part["part"].replace("_", " "): part for part in (*blocks["ancestors"], *blocks["parts"])}
    for arm in rivals:
        title = words.titles[arm["name"]]
        parts |= {title if len(arm["parts"]) == 1 else f"{title}, {part['part']}": part for part in arm["parts"]}
    return {title: part["losses"] for title, part in parts.items() if part["losses"]["train"]}


def _curves(report: Mapping[str, Any], name: str, words: Any) -> dict[str, list[dict[str, Any]]]:
    """The points of each arm; an end-to-end classifier, which takes no steps, is a line at its one value."""
    steps = [row["steps"] for row in report["sides"][0]["quality_by_steps"]]
    curves = {}
    for arm in report["sides"]:
        if rows := arm["quality_by_steps"]:
            curves[words.titles[arm["name"]]] = [{"steps": row["steps"], **row["metrics"][name]} for row in rows]
        elif name in arm["quality"]:
            line = words.without_sampler(arm["name"])
            curves[line] = [{"steps": number, **arm["quality"][name]} for number in (steps[0], steps[-1])]
    return curves
