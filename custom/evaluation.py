"""Scores of a whole cohort: a row per case, and a summary whose intervals resample patients.

Two volumes of one patient are not two independent observations. Every interval here is therefore a bootstrap over
patients: a patient is drawn with all of their volumes, or not at all.

    report = CaseReport(["RV", "Myo", "LV"])
    for case in cases:
        report.add(case.name, case.patient, pred, label, spacing_mm)
    report.write(folder, "test")               # test.csv, test.json
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .checkpoint import write_text
from .metrics import ClassScore, case_scores

Row = dict[str, Any]  # case, patient: str; failures: int; every other column a float, NaN where not measured

LEVEL = 0.95
DRAWS = 10000
_INDICES_AT_ONCE = 2_000_000  # bounds the memory of a bootstrap (8 bytes each)


class CaseReport:
    """Collects the scores of a cohort, case by case.

    Args:
        classes: names of the foreground classes; ``classes[i]`` is the value ``i + 1`` of labels and predictions.

    Raises:
        ValueError: no class, a name twice, or a class called "mean" (it would collide with ``dice_mean``).
    """

    def __init__(self, classes: Sequence[str]) -> None:
        if not classes or len(set(classes)) != len(classes) or "mean" in classes:
            raise ValueError(f"classes needs one or more different names, none of them 'mean', got {list(classes)}")
        self.classes = tuple(classes)
        self.rows: list[Row] = []
        self._cases: set[str] = set()
        self.empty_labels = dict.fromkeys(self.classes, 0)
        self.failures = dict.fromkeys(self.classes, 0)

    def __len__(self) -> int:
        return len(self.rows)

    def add(
        self, case: str, patient: str, pred: NDArray[Any], label: NDArray[Any], spacing_mm: Sequence[float]
    ) -> dict[str, ClassScore]:
        """Scores one case and keeps its row.

        Args:
            case: its name, once in a report.
            patient: whose it is; cases of one patient are resampled together.
            pred, label: class indices ``(*spatial)``, in the same grid.
            spacing_mm: the voxel's size along each axis, in mm.

        Returns:
            The scores by class.

        Raises:
            ValueError: a case added twice, or arrays that cannot be scored; the text names the case.
        """
        if case in self._cases:
            raise ValueError(f"case {case} is in the report already: every case is scored once")
        try:
            scores = case_scores(pred, label, self.classes, spacing_mm)
        except ValueError as error:
            raise ValueError(f"case {case}: {error}") from error
        self.rows.append(_row(case, patient, scores))
        self._cases.add(case)
        for name, score in scores.items():
            self.empty_labels[name] += score.empty_label
            self.failures[name] += score.failure
        return scores

    def summary(self) -> dict[str, Any]:
        """Mean, standard deviation and interval of every metric, with the counts a reader needs to judge them.

        Per metric ``cases`` and ``patients`` count those with a number; per class ``failures`` counts the cases where
        exactly one of prediction and label is empty, ``empty_labels`` those whose label lacks the class.
        """
        metrics = [key for key in _columns(self.classes) if key.startswith(("dice_", "hd95_mm_"))]
        return {
            "cases": len(self.rows),
            "patients": len({row["patient"] for row in self.rows}),
            "failures": sum(self.failures.values()),
            "empty_labels": sum(self.empty_labels.values()),
            "interval": f"{LEVEL:.0%} percentile bootstrap of the mean over cases, {DRAWS} draws of whole patients",
            "classes": {
                name: {"failures": self.failures[name], "empty_labels": self.empty_labels[name]}
                for name in self.classes
            },
            "metrics": {metric: _summary(self.rows, metric) for metric in metrics},
        }

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        """Writes ``<name>.csv`` (a row per case) and ``<name>.json`` (:meth:`summary`), each whole or not at all.

        What was not measured is an empty cell and a null.

        Returns:
            The paths of both.

        Raises:
            ValueError: a report without cases.
        """
        if not self.rows:
            raise ValueError(f"nothing to write to {name}.csv: no case was added")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        table, summary = folder / f"{name}.csv", folder / f"{name}.json"
        write_text(table, _csv_text(self.rows, _columns(self.classes)))
        write_text(summary, json.dumps(self.summary(), indent=2, allow_nan=False) + "\n")
        return table, summary


def bootstrap_interval(
    values: Sequence[float] | NDArray[Any],
    groups: Sequence[Hashable],
    seed: int = 0,
    draws: int = DRAWS,
    level: float = LEVEL,
) -> tuple[float, float]:
    r"""Percentile bootstrap interval of the mean over cases, drawing whole groups (patients) with replacement.

    .. math:: m^* = \frac{\sum_{g \in G^*} \sum_{i \in g} x_i}{\sum_{g \in G^*} |g|}

    with :math:`G^*` as many groups as there are, drawn with replacement. NaN values are ignored.

    Args:
        values: one number a case.
        groups: the group (patient) of each case.
        seed: of the draws; the same arguments give the same interval.
        draws: how many resamplings.
        level: the share of resamplings inside the interval, in (0, 1).

    Returns:
        ``(low, high)``, in the unit of the values; both NaN where fewer than two groups have a value, because one
        patient says nothing about the spread over patients.

    Raises:
        ValueError: as many groups as values are needed; ``level`` or ``draws`` out of range.
    """
    numbers = np.asarray(values, dtype=float)
    if numbers.ndim != 1 or len(numbers) != len(groups):
        raise ValueError(f"one group a value is needed, got {len(groups)} groups and values {numbers.shape}")
    if not 0 < level < 1 or draws < 1:
        raise ValueError(f"level must lie in (0, 1) and draws be at least 1, got {level} and {draws}")
    sums, sizes = _group_sums(numbers, groups)
    if len(sums) < 2:
        return math.nan, math.nan
    tail = (1 - level) / 2
    low, high = np.quantile(_resampled_means(sums, sizes, seed, draws), [tail, 1 - tail])
    return float(low), float(high)


def _group_sums(values: NDArray[Any], groups: Sequence[Hashable]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Sum and number of the values of each group that has any, groups in the order of their first value."""
    members: dict[Hashable, list[float]] = {}
    for group, value in zip(groups, values.tolist(), strict=True):
        if not math.isnan(value):
            members.setdefault(group, []).append(value)
    return (
        np.array([math.fsum(group) for group in members.values()]),
        np.array([len(group) for group in members.values()]),
    )


def _resampled_means(sums: NDArray[Any], sizes: NDArray[Any], seed: int, draws: int) -> NDArray[Any]:
    """The mean over cases in each of ``draws`` resamplings of the groups: ``(draws,)``."""
    random = np.random.default_rng(seed)
    rows = max(1, _INDICES_AT_ONCE // len(sums))
    means = []
    for start in range(0, draws, rows):
        drawn = random.integers(len(sums), size=(min(rows, draws - start), len(sums)))  # (rows, groups)
        means.append(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    return np.concatenate(means)


def _summary(rows: Sequence[Row], metric: str) -> dict[str, Any]:
    values = np.array([row[metric] for row in rows], dtype=float)
    known = ~np.isnan(values)
    patients = [row["patient"] for row in rows]
    low, high = bootstrap_interval(values, patients)
    return {
        "mean": _or_none(values[known].mean() if known.any() else math.nan),
        "sd": _or_none(values[known].std(ddof=1) if known.sum() > 1 else math.nan),
        "low": _or_none(low),
        "high": _or_none(high),
        "cases": int(known.sum()),
        "patients": len({patient for patient, keep in zip(patients, known, strict=True) if keep}),
    }


def _row(case: str, patient: str, scores: dict[str, ClassScore]) -> Row:
    counted = [score.dice for score in scores.values() if not math.isnan(score.dice)]
    return {
        "case": case,
        "patient": patient,
        **{f"dice_{name}": score.dice for name, score in scores.items()},
        "dice_mean": math.fsum(counted) / len(counted) if counted else math.nan,
        **{f"hd95_mm_{name}": score.hd95_mm for name, score in scores.items()},
        "failures": sum(score.failure for score in scores.values()),
    }


def _columns(classes: Sequence[str]) -> list[str]:
    dices, distances = [f"dice_{name}" for name in classes], [f"hd95_mm_{name}" for name in classes]
    return ["case", "patient", *dices, "dice_mean", *distances, "failures"]


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else repr(value)
    return str(value)


def _csv_text(rows: Sequence[Row], columns: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row[column]) for column in columns] for row in rows)
    return text.getvalue()
