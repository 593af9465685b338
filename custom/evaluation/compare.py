"""The honest verdict: is one model better than another, worse, or is there no evidence either way?

Both models are scored on the same cases (:mod:`.evaluate` writes the files). The difference is taken case by case,
and its interval resamples patients. To compare two files:

    python -m custom.report BASELINE.csv OURS.csv [--metric boundary_dice] [--html PAGE.html]
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import markdown
from .bootstrap import bootstrap_interval
from .case_report import BOUNDARY, DISTANCES, FAULTS, LABEL, Row, class_counts, fault_texts
from .case_table import by_case, classes_of, names_text

FEW_PATIENTS = 6  # all of six sharing a sign has p = 2 / 2**6 = 0.031 in the two-sided sign test; all of five, 0.062
_OTHERS = (BOUNDARY, "hd95_mm_mean", "asd_mm_mean")  # measures that no verdict judges
_TITLES = {"hd95_mm": "HD95", "asd_mm": "ASD", "jaccard": "Jaccard"}  # of columns, by what stands before the class
UNLABELLED = " The runs differ in the unlabelled scans alone: these {}."
_OTHER_LABELS = "they were not scored against the same labels. Evaluate both again, on the same list"
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
        dropped: cases without a number in one or both, on which the mean says nothing.
    """

    mean: float
    low: float
    high: float
    cases: int
    patients: int
    p: float = math.nan
    metric: str = "dice_mean"
    dropped: tuple[str, ...] = ()


def paired_difference(ours: Sequence[Row], baseline: Sequence[Row], metric: str = "dice_mean") -> Difference:
    r"""Return the mean over cases of :math:`\text{ours}_i - \text{baseline}_i`, with its interval over patients.

    A case without a :func:`case_difference` is left out and named in ``dropped``. Dice is there in both or in neither: it
    is over the cases whose label has the structure. A distance lacks every case of which one of the two missed a structure:
    compare missed structures and false alarms beside it.

    Args:
        ours, baseline: rows of the two models, on the same cases, in any order.
        metric: a column, "dice_mean" or another.

    Raises:
        ValueError: the sets of cases differ, a case belongs to different patients, has another label in one table or a
            Dice in one alone, the metric is unknown, or no case has a difference.
    """
    mine, theirs = by_case(ours, "ours"), by_case(baseline, "the baseline")
    _check_same_cases(mine, theirs)
    for name, rows in (("ours", ours), ("the baseline", baseline)):
        _check_metric(rows, metric, name)
    cases = sorted(mine)
    if others := _labelled_otherwise(mine, theirs):
        raise ValueError(f"the labels differ between the two tables for {names_text(others)}: {_OTHER_LABELS}")
    one_sided = [case for case in cases if math.isnan(mine[case][metric]) != math.isnan(theirs[case][metric])]
    if one_sided and _is_dice(metric):
        raise ValueError(f"{metric} is in only one of the two tables for {names_text(one_sided)}: {_OTHER_LABELS}")
    values = np.array([case_difference(mine[case], theirs[case], metric) for case in cases])
    known = ~np.isnan(values)
    if not known.any():
        raise ValueError(f"no case has a {metric} in both tables: there is nothing to compare")
    patients = [mine[case]["patient"] for case in cases]
    low, high = bootstrap_interval(values, patients)
    return Difference(
        mean=float(values[known].mean()),
        low=low,
        high=high,
        cases=int(known.sum()),
        patients=len({patient for patient, keep in zip(patients, known, strict=True) if keep}),
        p=_wilcoxon(values[known], [patient for patient, keep in zip(patients, known, strict=True) if keep]),
        metric=metric,
        dropped=tuple(case for case, keep in zip(cases, known, strict=True) if not keep),
    )


def _labelled_otherwise(mine: Mapping[str, Row], theirs: Mapping[str, Row]) -> list[str]:
    """The cases whose labels differ; none where the classes do, or where a table of an earlier version does not say."""
    first = next(iter(mine))
    if {*classes_of([mine[first]])} != {*classes_of([theirs[first]])}:
        return []
    found = {case: (mine[case].get(LABEL), theirs[case].get(LABEL)) for case in sorted(mine)}
    return [case for case, (one, other) in found.items() if one and other and one != other]


def case_difference(ours: Row, baseline: Row, metric: str = "dice_mean") -> float:
    """Return ours minus the baseline on one case; NaN where one of the two has no number."""
    return float(ours[metric]) - float(baseline[metric])


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
    sign, amount, basis = judgement(difference)
    theirs, ours = names
    if sign > 0:
        return (
            f"{ours} is better than {theirs} by {amount} ({basis}).{UNLABELLED.format('helped') if unlabelled else ''}"
        )
    if sign < 0:
        return (
            f"{ours} is worse than {theirs} by {amount} ({basis}).{UNLABELLED.format('harmed') if unlabelled else ''}"
        )
    return f"No evidence either way: the difference is {amount} ({basis})."


def judgement(difference: Difference) -> tuple[int, str, str]:
    """What :func:`verdict` says, in parts: 1 (better), -1 (worse) or 0 (no evidence); how many points, and on what basis.

    Raises:
        ValueError: see there.
    """
    if not _is_dice(difference.metric):
        raise ValueError(f"the verdict is in Dice points, this difference is of {difference.metric}")
    if not math.isfinite(difference.mean):
        raise ValueError(f"the difference is {difference.mean}: there is nothing to judge")
    mean, low, high = (_points(value) for value in (difference.mean, difference.low, difference.high))
    enough = difference.patients >= FEW_PATIENTS
    if enough and low > 0:
        return 1, f"{mean:.1f} Dice points", _basis(low, high, difference.patients)
    if enough and high < 0:
        return -1, f"{-mean:.1f} Dice points", _basis(-high, -low, difference.patients)
    return 0, f"{mean:.1f} Dice points", _basis(low, high, difference.patients)


def model_table(results: dict[str, Sequence[Row]], classes: Sequence[str], unit: str = "mm") -> str:
    """Return a Markdown table, readable as plain text: a row a model, in the order of ``results``.

    Each column is over the cases in which all models have a number, so that its means differ by what a case differs:
    Dice, in points (100 x Dice), over those whose label has the structure; HD95 and ASD, the case's mean over its
    classes, over those in which no model missed one. Missed structures and false alarms must be read beside them.

    Args:
        results: the rows of each model, on the same cases.
        classes: whose Dice is shown.
        unit: of distances.

    Raises:
        ValueError: no model, other cases, or rows that lack a class.
    """
    if not results:
        raise ValueError("a table needs at least one model")
    columns = {**{f"dice_{name}": f"Dice {name}" for name in classes}, "dice_mean": "Dice mean"}
    columns |= {"hd95_mm_mean": f"HD95, {unit}", "asd_mm_mean": f"ASD, {unit}"}
    tables = {model: by_case(rows, model) for model, rows in results.items()}
    for model, rows in results.items():
        _check_same_cases(tables[model], next(iter(tables.values())))
        for metric in columns:
            _check_metric(rows, metric, model)
    cases = next(iter(tables.values()))
    shared = {m: [c for c in cases if _all_have(tables, c, m)] for m in columns}
    lines = [
        [
            model,
            *(_mean([(100 if _is_dice(m) else 1) * rows[c][m] for c in shared[m]]) for m in columns),
            *row_faults([*rows.values()], classes).values(),
            str(len(rows)),
        ]
        for model, rows in tables.items()
    ]
    return markdown.table(["Model", *columns.values(), *FAULTS.values(), "Cases"], lines)


def row_faults(rows: Sequence[Row], classes: Sequence[str]) -> dict[str, str]:
    """Return ``7 of 44`` missed structures and ``6 of 16`` false alarms, over cases and classes."""
    counts = [class_counts(rows, name) for name in classes]
    return fault_texts({key: sum(of[key] for of in counts) for key in counts[0]}, len(classes) * len(rows))


def comparison(
    baseline: Sequence[Row],
    ours: Sequence[Row],
    names: Sequence[str],
    metric: str = "dice_mean",
    unit: str = "mm",
    unlabelled: bool = False,
) -> str:
    """Return table, paired difference and verdict of two models on the same cases, as plain text; ``unlabelled`` as in
    :func:`verdict`."""
    difference = paired_difference(ours, baseline, metric)
    classes = classes_of(baseline)
    lines = [
        model_table({names[0]: baseline, names[1]: ours}, classes, unit),
        "",
        "Each column is over the cases in which both have a number: Dice, in points (100 x Dice), over those whose label has "
        "the structure, distances over those in which neither missed one. Missed: of the structures in the labels; false "
        "alarms: of the classes that a label lacks. They have no distance, and a false alarm has no Dice.",
        f"{names[1]} minus {names[0]}, paired over {difference.cases} cases: {_amount(difference, unit)}; "
        f"{significance(difference.p)}.",
    ]
    if difference.dropped:
        why = "whose label lacks the structure" if _is_dice(metric) else "without a number in one or both"
        lines.append(f"Left out, {why}: {names_text(difference.dropped)}.")
    if not _is_dice(metric):
        return "\n".join(lines)
    lines += [verdict(difference, names, unlabelled), *beside_dice(baseline, ours, names, difference, unit)]
    if len(classes) > 1:
        lines += [f"{name}, {_both_faults(baseline, ours, names, [name])}." for name in classes]
    return "\n".join(lines)


def beside_dice(
    baseline: Sequence[Row], ours: Sequence[Row], names: Sequence[str], difference: Difference, unit: str = "mm"
) -> list[str]:
    """Say what a verdict does not judge, as it is of Dice alone: missed structures and false alarms; the other measures in one
    line.

    Args:
        baseline, ours: rows of the two models, on the same cases.
        names: what they are called, the baseline first.
        difference: that of the verdict.
        unit: of distances.
    """
    shown = [name for name in classes_of(baseline) if difference.metric in ("dice_mean", f"dice_{name}")]
    structure = "a structure" if len(shown) > 1 else f"the structure ({shown[0]})"
    lines = [
        f"That is by Dice alone, over the {difference.cases} of {_cases(len(baseline))} whose label has {structure}.",
        f"Missed structures and false alarms: {_both_faults(baseline, ours, names, shown)}.",
    ]
    others = [
        _other(paired_difference(ours, baseline, metric), unit)
        for metric in _OTHERS
        if all(metric in row for row in (*baseline, *ours))
        and any(math.isfinite(case_difference(*pair, metric)) for pair in _pairs(ours, baseline))
    ]
    return [*lines, f"Not judged, {names[1]} minus {names[0]}: {'; '.join(others)}."] if others else lines


def _both_faults(baseline: Sequence[Row], ours: Sequence[Row], names: Sequence[str], classes: Sequence[str]) -> str:
    found = [row_faults(rows, classes) for rows in (baseline, ours)]
    return "; ".join(
        f"{name}: missed {of['missed']}, false alarms {of['false_alarms']}"
        for name, of in zip(names, found, strict=True)
    )


def _pairs(ours: Sequence[Row], baseline: Sequence[Row]) -> list[tuple[Row, Row]]:
    theirs = by_case(baseline, "the baseline")
    return [(row, theirs[row["case"]]) for row in ours]


class _Named(NamedTuple):
    """What the pages call a measure, the unit they show it in, how many of these make one of its own, and decimals."""

    title: str
    unit: str = ""
    scale: int = 1
    digits: int = 3


def _named(metric: str, unit: str) -> _Named:
    """Name a column; ``unit`` is that of distances. What no page shows has its own name."""
    if metric == BOUNDARY:
        return _Named("boundary Dice", "points", 100, 1)
    for start, title in _TITLES.items():
        if metric.startswith(f"{start}_"):
            of = metric.removeprefix(f"{start}_")
            named = title if of == "mean" else f"{title}, {of}"
            return _Named(named, unit, 1, 2) if start in DISTANCES else _Named(named)
    return _Named(metric)


def _in_own_unit(difference: Difference, unit: str) -> tuple[str, float, float, int]:
    """``HD95 +1.00 pixels``; the bounds of its interval in that unit, and their decimals."""
    title, unit, scale, digits = _named(difference.metric, unit)
    mean, low, high = (round(scale * x, digits) + 0.0 for x in (difference.mean, difference.low, difference.high))
    return f"{title} {mean:+.{digits}f} {unit}".rstrip(), low, high, digits


def _other(difference: Difference, unit: str) -> str:
    """A measure that is not judged: its difference, interval, p and number of cases."""
    amount, low, high, digits = _in_own_unit(difference, unit)
    interval = "no interval" if math.isnan(low) else f"95 % interval {low:.{digits}f} to {high:.{digits}f}"
    p = "no patient differs" if math.isnan(difference.p) else f"p {_p_text(difference.p)}"
    return f"{amount} ({interval}, {p}, {_cases(difference.cases)})"


def _cases(count: int) -> str:
    return f"{count} {'case' if count == 1 else 'cases'}"


def _amount(difference: Difference, unit: str) -> str:
    """Return the difference in points of Dice; any other metric is named, in its own unit; ``unit`` is that of distances."""
    if _is_dice(difference.metric):
        basis = _basis(_points(difference.low), _points(difference.high), difference.patients)
        of = "" if difference.metric == "dice_mean" else f" of {difference.metric.removeprefix('dice_')}"
        return f"{_points(difference.mean):+.1f} Dice points{of} ({basis})"
    amount, low, high, digits = _in_own_unit(difference, unit)
    return f"{amount} ({_basis(low, high, difference.patients, digits)})"


def _basis(low: float, high: float, patients: int, digits: int = 1) -> str:
    """What a sentence rests on: the interval and the number of patients."""
    interval = "no interval" if math.isnan(low) else f"95 % interval {low:.{digits}f} to {high:.{digits}f}"
    text = f"{interval}, {patients} {'patient' if patients == 1 else 'patients'}"
    return text if patients >= FEW_PATIENTS else f"{text}: too few patients to tell"


def significance(p: float) -> str:
    """The test and its p in words; NaN is that of patients none of whom differs."""
    if math.isnan(p):
        return "no patient differs"
    return f"Wilcoxon signed-rank test over patients p {_p_text(p)}"


def _p_text(p: float) -> str:
    return f"= {p:.3f}" if p >= 0.001 else "< 0.001"


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


def _all_have(models: Mapping[str, Mapping[str, Row]], case: str, metric: str) -> bool:
    return all(math.isfinite(cases[case][metric]) for cases in models.values())


def _mean(values: Sequence[float]) -> str:
    finite = [value for value in values if math.isfinite(value)]
    return f"{math.fsum(finite) / len(finite):.1f}" if finite else "-"


def _check_same_cases(ours: dict[str, Row], baseline: dict[str, Row]) -> None:
    only = {"only ours": ours.keys() - baseline.keys(), "only the baseline": baseline.keys() - ours.keys()}
    faults = [f"{whose} has {names_text(sorted(names))}" for whose, names in only.items() if names]
    if faults:
        raise ValueError(f"the two tables hold different cases: {'; '.join(faults)}. Score both on the same ones")
    moved = sorted(case for case in ours if ours[case]["patient"] != baseline[case]["patient"])
    if moved:
        raise ValueError(f"the two tables give different patients to {names_text(moved)}")


def _check_metric(rows: Sequence[Row], metric: str, where: str) -> None:
    if any(metric not in row for row in rows):
        known = [key for key, value in rows[0].items() if isinstance(value, float)]
        raise ValueError(f"{where}: no column {metric}, the table has {', '.join(known)}")
