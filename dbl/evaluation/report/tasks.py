"""Which wording fits a report."""

from collections.abc import Mapping
from typing import Any

from dbl.evaluation.report.glossary import class_name
from dbl.evaluation.report.image_tasks import FindClasses, MakeImages
from dbl.evaluation.report.task import Task
from dbl.evaluation.report.text_tasks import HiddenTokens, NextToken, Recurrent


def task_of(report: Mapping[str, Any]) -> Task:
    """The wording for a report, by its target and its network.

    Args:
        report: what `report.json` holds, but for the pictures.
    """
    target, network = class_name(report["target"]), class_name(report["network"])
    if report["data"]["kind"] == "images":
        return MakeImages(report) if target == "PixelTarget" else FindClasses(report)
    if target == "MaskTarget":
        return HiddenTokens(report)
    return Recurrent(report) if network == "RecurrentLM" else NextToken(report)
