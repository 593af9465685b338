"""Evaluations from before missed structures and false alarms were told apart.

They have ``failures``, the sum of both, and in them a false alarm has Dice 0. Where there was none they hold what an evaluation
holds today; else their Dice is another measure, and the networks must be scored again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import UserError
from .case_report import COUNTS, Row

TOGETHER = "failures"  # the key and the column


class EarlierScores(UserError, ValueError):
    """Scores of an earlier version that cannot be read as today's."""


def summary_of_today(summary: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return a summary with ``missed``, ``false_alarms`` and ``empty_labels``, also by class and by group.

    Args:
        summary: content of an evaluation's ``.json``, of any version.
        where: what the text of an error names.

    Raises:
        EarlierScores: it counts false alarms as Dice 0.
    """
    if TOGETHER not in summary:
        return dict(summary)
    try:
        return _converted(summary, where)
    except (KeyError, TypeError) as error:
        raise EarlierScores(_cannot(where, f"whether it did cannot be told ({error!r})")) from error


def _converted(summary: Mapping[str, Any], where: str) -> dict[str, Any]:
    cases, metrics = summary["cases"], summary["metrics"]
    found = {}
    for name, counts in summary["classes"].items():
        # A class of a case had a Dice where its label had it, and else where it was a false alarm.
        false_alarms = metrics[f"dice_{name}"]["cases"] - (cases - counts["empty_labels"])
        if false_alarms:
            raise EarlierScores(_cannot(where, f"{false_alarms} of {counts[TOGETHER]} failures of {name}"))
        found[name] = _split(counts, counts["empty_labels"])
    groups = {
        attribute: {value: _split(of, _empty(of, summary["classes"])) for value, of in values.items()}
        for attribute, values in (summary.get("groups") or {}).items()
    }
    return {**_split(summary, summary["empty_labels"]), "classes": found, "groups": groups}


def rows_of_today(rows: Sequence[Row], summary: Mapping[str, Any] | None, where: str) -> list[Row]:
    """Return the rows of a table with the columns of :data:`~.case_report.COUNTS`, as floats.

    Args:
        rows: of a table of any version, numbers as floats.
        summary: what lies beside the table, of the same version; None where nothing does.
        where: what the text of an error names.

    Raises:
        EarlierScores: it counts false alarms as Dice 0, or cannot say whether it does.
    """
    if TOGETHER not in rows[0]:
        return list(rows)
    failures = sum(row[TOGETHER] for row in rows)
    if failures and (summary is None or TOGETHER not in summary):
        raise EarlierScores(
            _cannot(
                where, f"the .json beside it, which says how many of its {failures:g} failures were such, is missing"
            )
        )
    if failures and summary is not None:
        summary_of_today(summary, where)
    classes = [key.removeprefix("dice_") for key in rows[0] if key.startswith("dice_") and key != "dice_mean"]
    return [_row(row, classes) for row in rows]


def _row(row: Row, classes: Sequence[str]) -> Row:
    missed = {name: row["dice_" + name] == 0 and math.isnan(row.get("hd95_mm_" + name, math.nan)) for name in classes}
    counts = {f"missed_{name}": float(row[TOGETHER] > 0 and there) for name, there in missed.items()}
    counts |= {f"false_alarms_{name}": 0.0 for name in classes} | {"missed": row[TOGETHER], "false_alarms": 0.0}
    return {key: value for key, value in row.items() if key != TOGETHER} | counts


def _split(counts: Mapping[str, Any], empty_labels: int) -> dict[str, Any]:
    rest = {key: value for key, value in counts.items() if key != TOGETHER}
    return {**rest, **dict(zip(COUNTS, (counts[TOGETHER], 0), strict=True)), "empty_labels": empty_labels}


def _empty(group: Mapping[str, Any], classes: Mapping[str, Any]) -> int:
    return sum(group["cases"] - group["metrics"][f"dice_{name}"]["cases"] for name in classes)


def _cannot(where: str, which: str) -> str:
    return (
        f"{where} is of an earlier version, which counted a false alarm as Dice 0: {which}. Its figures are not those of "
        "today: evaluate again (configs/evaluate.yaml)"
    )
