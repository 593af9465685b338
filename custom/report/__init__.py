"""One page, ``report.html``, that shows an evaluated run, or two of them case by case.

It reads what :mod:`..evaluation` wrote and needs nothing else to be read: figures, style and script are inside.

    python -m custom.report eval/evaluation/test
    python -m custom.report BASELINE.csv OURS.csv --names supervised "mean teacher" --html compared.html
"""

from .inputs import ReportError
from .pair import compare_report
from .run import page_of_evaluation, write_report

__all__ = ["ReportError", "compare_report", "page_of_evaluation", "write_report"]
