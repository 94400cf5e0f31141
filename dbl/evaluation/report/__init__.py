"""The report of a run: `report.json`, and `report.md` and `report.html` made from it by the templates.

docs/report.md lists the keys of `report.json`, which are stable, and explains each figure. There is a template for each
task (`facts.task_of`); all wording is in `templates/`.
"""

from dbl.evaluation.report.arm import Arm as Arm
from dbl.evaluation.report.reader import Report as Report
from dbl.evaluation.report.write import write_report as write_report
