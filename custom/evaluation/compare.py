"""The honest verdict: is one model better than another, worse, or is there no evidence either way?

Both models are scored on the same cases (:mod:`.evaluate` writes the files). The difference is taken case by case,
and its interval resamples patients. To compare two files:

    python -m custom.report BASELINE.csv OURS.csv [--metric boundary_dice] [--html PAGE.html]
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import markdown
from .bootstrap import bootstrap_interval
from .case_report import GROUP, Row

FEW_PATIENTS = 6  # all of six sharing a sign has p = 2 / 2**6 = 0.031 in the two-sided sign test; all of five, 0.062
UNLABELLED = " The runs differ in the unlabelled scans alone: these {}."
_NAMES_SHOWN = 10
_ROUNDING = 1e-12  # a smaller difference is one of rounding


@dataclass(frozen=True)
class Difference:
    """Ours minus the baseline, paired by case.

    Args:
        mean: over the cases, in the metric's own unit (Dice in [-1, 1], HD95 in mm).
        low, high: the 95 % bootstrap interval over patients; NaN with fewer than two patients.
        cases, patients: how many the mean is over.
        p: of the two-sided Wilcoxon signed-rank test on the patients' mean differences, those of exactly 0 left out;
            NaN where all are 0.
        metric: the column that was compared.
        dropped: cases on which the mean says nothing: without a number in both, or, for other metrics than Dice, in one.
        filled: cases whose Dice was taken as 1 in one of the two, see :func:`case_difference`.
    """

    mean: float
    low: float
    high: float
    cases: int
    patients: int
    p: float = math.nan
    metric: str = "dice_mean"
    dropped: tuple[str, ...] = ()
    filled: int = 0


def read_cases(csv_path: Path | str) -> list[Row]:
    """Read a per-case table that :meth:`.case_report.CaseReport.write` wrote.

    Returns:
        A dict a case: ``case``, ``patient`` and every ``group_...`` strings, ``failures`` an int, every other column a
        float (an empty cell is NaN).

    Raises:
        ValueError: not such a table, a cell that is no number, no case, or a case twice; the text names the file.
    """
    with open(csv_path, newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        needed = ("case", "patient", "dice_mean", "failures")
        missing = [name for name in needed if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{csv_path} is no table of cases: it lacks the columns {', '.join(missing)}")
        rows = [_read_row(raw, f"{csv_path}, line {reader.line_num}") for raw in reader]
    if not rows:
        raise ValueError(f"{csv_path} holds no case")
    _by_case(rows, str(csv_path))
    return rows


def paired_difference(ours: Sequence[Row], baseline: Sequence[Row], metric: str = "dice_mean") -> Difference:
    r"""Return the mean over cases of :math:`\text{ours}_i - \text{baseline}_i`, with its interval over patients.

    A case without a :func:`case_difference` is left out and named in ``dropped``. For HD95 that includes every failure:
    compare the failures beside it.

    Args:
        ours, baseline: rows of the two models, on the same cases, in any order.
        metric: a column, "dice_mean" or another.

    Raises:
        ValueError: the sets of cases differ, a case belongs to different patients, the metric is unknown, or no case
            has a difference.
    """
    mine, theirs = _by_case(ours, "ours"), _by_case(baseline, "the baseline")
    _check_same_cases(mine, theirs)
    for name, rows in (("ours", ours), ("the baseline", baseline)):
        _check_metric(rows, metric, name)
    cases = sorted(mine)
    values = np.array([case_difference(mine[case], theirs[case], metric) for case in cases])
    known = ~np.isnan(values)
    if not known.any():
        raise ValueError(f"no case has a {metric} in both tables: there is nothing to compare")
    patients = [mine[case]["patient"] for case in cases]
    low, high = bootstrap_interval(values, patients)
    one_sided = sum(math.isnan(mine[case][metric]) != math.isnan(theirs[case][metric]) for case in cases)
    return Difference(
        mean=float(values[known].mean()),
        low=low,
        high=high,
        cases=int(known.sum()),
        patients=len({patient for patient, keep in zip(patients, known, strict=True) if keep}),
        p=_wilcoxon(values[known], [patient for patient, keep in zip(patients, known, strict=True) if keep]),
        metric=metric,
        dropped=tuple(case for case, keep in zip(cases, known, strict=True) if not keep),
        filled=one_sided if _is_dice(metric) else 0,
    )


def case_difference(ours: Row, baseline: Row, metric: str = "dice_mean") -> float:
    """Return ours minus the baseline on one case; NaN where it has none.

    A Dice that only one of the two has is of a structure that is not there: the other one found something all the same,
    and scores 0. The one without a number rightly found nothing, and counts as 1. Left out, the false find would cost
    nothing.
    """
    mine, theirs = float(ours[metric]), float(baseline[metric])
    if _is_dice(metric) and math.isnan(mine) != math.isnan(theirs):
        mine, theirs = (1.0 if math.isnan(value) else value for value in (mine, theirs))
    return mine - theirs


def verdict(difference: Difference, names: Sequence[str], unlabelled: bool = False) -> str:
    """Say one of three sentences: ours is better, ours is worse, or no evidence either way.

    A point is 1/100 of Dice. Judged as it is printed, to 0.1 point: an interval that touches 0.0 contains 0. When
    ours is worse, the bounds are those of the loss, so they are positive and the smaller comes first. With fewer
    than six patients there is no evidence, whatever the interval, and the sentence says why.

    Args:
        difference: ours minus the baseline.
        names: what they are called, the baseline first.
        unlabelled: the two differ in the use of unlabelled scans alone, see
            :func:`~.same_settings.only_unlabelled_differs`: a second sentence names these as the cause.

    Raises:
        ValueError: a difference of something else than Dice, or one that is not a number.
    """
    if not _is_dice(difference.metric):
        raise ValueError(f"the verdict is in Dice points, this difference is of {difference.metric}")
    if not math.isfinite(difference.mean):
        raise ValueError(f"the difference is {difference.mean}: there is nothing to judge")
    mean, low, high = (_points(value) for value in (difference.mean, difference.low, difference.high))
    enough = difference.patients >= FEW_PATIENTS
    theirs, ours = names
    if enough and low > 0:
        basis, cause = _basis(low, high, difference.patients), UNLABELLED.format("helped") if unlabelled else ""
        return f"{ours} is better than {theirs} by {mean:.1f} Dice points ({basis}).{cause}"
    if enough and high < 0:
        basis, cause = _basis(-high, -low, difference.patients), UNLABELLED.format("harmed") if unlabelled else ""
        return f"{ours} is worse than {theirs} by {-mean:.1f} Dice points ({basis}).{cause}"
    return (
        f"No evidence either way: the difference is {mean:.1f} Dice points ({_basis(low, high, difference.patients)})."
    )


def model_table(results: dict[str, Sequence[Row]], classes: Sequence[str]) -> str:
    """Return a Markdown table, readable as plain text: a row a model, in the order of ``results``.

    Dice is the mean over the cases that have one, in points (100 x Dice). HD95 and ASD are the mean over cases of the
    case's mean over its classes, in mm, as everywhere; a case with a failure has none, so ``Failures`` must be read
    beside them.

    Raises:
        ValueError: no model, or rows that lack a class.
    """
    if not results:
        raise ValueError("a table needs at least one model")
    head = ["Model", *(f"Dice {name}" for name in classes), "Dice mean", "HD95, mm", "ASD, mm", "Failures", "Cases"]
    return markdown.table(head, [_table_row(model, rows, classes) for model, rows in results.items()])


def comparison(
    baseline: Sequence[Row],
    ours: Sequence[Row],
    names: Sequence[str],
    metric: str = "dice_mean",
    unlabelled: bool = False,
) -> str:
    """Return table, paired difference and verdict of two models on the same cases, as plain text; ``unlabelled`` as in
    :func:`verdict`."""
    difference = paired_difference(ours, baseline, metric)
    classes = [key[len("dice_") :] for key in baseline[0] if key.startswith("dice_") and key != "dice_mean"]
    lines = [
        model_table({names[0]: baseline, names[1]: ours}, classes),
        "",
        "Dice in points (100 x Dice). Failures: classes of a case where exactly one of prediction and label is empty; "
        "they have no distance, nor has the mean of their case.",
        f"{names[1]} minus {names[0]}, paired over {difference.cases} cases: {_amount(difference)}; "
        f"{_significance(difference.p)}.",
    ]
    if difference.filled:
        lines.append(
            f"Dice taken as 1 for the one that rightly found nothing where the other did: {difference.filled} "
            f"{'case' if difference.filled == 1 else 'cases'}."
        )
    if difference.dropped:
        lines.append(f"Left out, without a number in both: {_listed(difference.dropped)}.")
    return "\n".join([*lines, *([verdict(difference, names, unlabelled)] if _is_dice(metric) else [])])


def _amount(difference: Difference) -> str:
    """Return the difference in points of Dice; any other metric is named, in its own unit."""
    if _is_dice(difference.metric):
        basis = _basis(_points(difference.low), _points(difference.high), difference.patients)
        of = "" if difference.metric == "dice_mean" else f" of {difference.metric}"
        return f"{_points(difference.mean):+.1f} Dice points{of} ({basis})"
    basis = _basis(difference.low, difference.high, difference.patients, digits=3)
    return f"{difference.mean:+.3f} of {difference.metric} ({basis})"


def _basis(low: float, high: float, patients: int, digits: int = 1) -> str:
    """What a sentence rests on: the interval and the number of patients."""
    interval = "no interval" if math.isnan(low) else f"95 % interval {low:.{digits}f} to {high:.{digits}f}"
    text = f"{interval}, {patients} {'patient' if patients == 1 else 'patients'}"
    return text if patients >= FEW_PATIENTS else f"{text}: too few patients to tell"


def _significance(p: float) -> str:
    if math.isnan(p):
        return "no patient differs"
    return "Wilcoxon signed-rank test over patients p " + (f"= {p:.3f}" if p >= 0.001 else "< 0.001")


def _wilcoxon(values: NDArray[Any], patients: Sequence[str]) -> float:
    """p of the patients' mean differences; ``values`` are the cases', none of them NaN."""
    from scipy.stats import wilcoxon

    means = np.array([np.mean(values[[p == patient for p in patients]]) for patient in dict.fromkeys(patients)])
    means = means[np.abs(means) > _ROUNDING]
    return float(wilcoxon(means).pvalue) if means.size else math.nan


def _is_dice(metric: str) -> bool:
    return metric.startswith("dice_")


def _points(dice: float) -> float:
    """Dice points to one decimal, as printed; never -0.0."""
    return round(100 * dice, 1) + 0.0


def _table_row(model: str, rows: Sequence[Row], classes: Sequence[str]) -> list[str]:
    dice, distances = [*(f"dice_{name}" for name in classes), "dice_mean"], ["hd95_mm_mean", "asd_mm_mean"]
    for metric in [*dice, *distances]:
        _check_metric(rows, metric, model)
    return [
        model,
        *(_mean([100 * row[metric] for row in rows]) for metric in dice),
        *(_mean([row[metric] for row in rows]) for metric in distances),
        str(sum(row["failures"] for row in rows)),
        str(len(rows)),
    ]


def _mean(values: Sequence[float]) -> str:
    finite = [value for value in values if math.isfinite(value)]
    return f"{math.fsum(finite) / len(finite):.1f}" if finite else "-"


def _read_row(raw: dict[str, str], where: str) -> Row:
    row: Row = {}
    for column, cell in raw.items():
        if column is None or cell is None:
            raise ValueError(f"{where}: the number of cells differs from the header's")
        text = column in ("case", "patient") or column.startswith(GROUP)
        row[column] = cell if text else _number(cell, column, where)
    if not (row["failures"] >= 0 and row["failures"] == int(row["failures"])):
        raise ValueError(f"{where}: failures is {raw['failures']!r}, not a count")
    row["failures"] = int(row["failures"])
    return row


def _number(cell: str, column: str, where: str) -> float:
    try:
        return float(cell) if cell else math.nan
    except ValueError:
        raise ValueError(f"{where}: {column} is {cell!r}, not a number") from None


def _by_case(rows: Sequence[Row], where: str) -> dict[str, Row]:
    cases = {row["case"]: row for row in rows}
    if len(cases) != len(rows):
        names = [row["case"] for row in rows]
        raise ValueError(f"{where}: twice in the table: {_listed(sorted({n for n in names if names.count(n) > 1}))}")
    return cases


def _check_same_cases(ours: dict[str, Row], baseline: dict[str, Row]) -> None:
    only = {"only ours": ours.keys() - baseline.keys(), "only the baseline": baseline.keys() - ours.keys()}
    faults = [f"{whose} has {_listed(sorted(names))}" for whose, names in only.items() if names]
    if faults:
        raise ValueError(f"the two tables hold different cases: {'; '.join(faults)}. Score both on the same ones")
    moved = sorted(case for case in ours if ours[case]["patient"] != baseline[case]["patient"])
    if moved:
        raise ValueError(f"the two tables give different patients to {_listed(moved)}")


def _check_metric(rows: Sequence[Row], metric: str, where: str) -> None:
    if any(metric not in row for row in rows):
        known = [key for key, value in rows[0].items() if isinstance(value, float)]
        raise ValueError(f"{where}: no column {metric}, the table has {', '.join(known)}")


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
