"""Scores of a whole cohort: a row per case, and a summary whose intervals resample patients.

What one evaluation does::

    report = CaseReport(["RV", "Myo", "LV"])
    for case in cases:
        report.add(case.name, case.patient, pred, label, spacing_mm, {"disease": "DCM"})
        report.calibration.add(logits, label)
    report.write(folder, "test")               # test.csv, test.compat.csv, test.json, test.md
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..dice import MEAN_DICE, mean_of_known
from ..errors import UserError
from ..files import write_text
from ..markdown import table
from .bootstrap import DRAWS, LEVEL, bootstrap_interval
from .calibration import Calibration
from .hardness import REACH, boundary_dice, contrast, lowest_quartile
from .metrics import COMPAT_RULE, ClassScore, case_scores

# case, patient, group_*, label_sha256: str; counts: int; every other column a float, NaN where not measured
Row = dict[str, Any]

OVERLAPS = ("dice", "jaccard")
DISTANCES = ("hd95_mm", "asd_mm")
STRICT = (*OVERLAPS, *DISTANCES)  # fields of ClassScore and beginnings of columns
COMPAT = ("dice", "jaccard", "hd95_voxels", "asd_voxels")  # of CompatScore
COUNTS = {"missed": "missed", "false_alarms": "false_alarm"}  # columns and the field of ClassScore that they count
BOUNDARY, CONTRAST = "boundary_dice", "contrast"  # columns of :mod:`.hardness`
LABEL = "label_sha256"  # column of :func:`label_digest`; tables of earlier versions lack it
TITLES = {"dice": "Dice", "jaccard": "Jaccard", "hd95_mm": "HD95, {unit}", "asd_mm": "ASD, {unit}",
          "hd95_voxels": "HD95, voxels", "asd_voxels": "ASD, voxels", BOUNDARY: "Boundary Dice"}  # fmt: skip
FAULTS = {"missed": "Missed", "false_alarms": "False alarms"}  # titles of COUNTS
GROUP = "group_"
BY_CONTRAST = "contrast to the surroundings"  # a group of the summary
NOT_GIVEN = "not given"


class CaseTextError(UserError, ValueError):
    """A case's name or attribute that no row of a table can hold."""


class CaseReport:
    """Collect the scores of a cohort, case by case.

    Args:
        classes: names of the foreground classes; ``classes[i]`` is the value ``i + 1`` of labels and predictions.

    Raises:
        ValueError: no class, a name twice, or a class called "mean" (it would collide with ``dice_mean``).
    """

    def __init__(self, classes: Sequence[str]) -> None:
        if not classes or len(set(classes)) != len(classes) or "mean" in classes:
            raise ValueError(f"classes needs one or more different names, none of them 'mean', got {list(classes)}")
        self.classes = tuple(classes)
        self.calibration = Calibration()
        self.rows: list[Row] = []
        self.compat_rows: list[Row] = []
        self._cases: set[str] = set()

    def __len__(self) -> int:
        return len(self.rows)

    def add(
        self,
        case: str,
        patient: str,
        pred: NDArray[Any],
        label: NDArray[Any],
        spacing_mm: Sequence[float],
        attributes: Mapping[str, Any] | None = None,
        picture: NDArray[Any] | None = None,
    ) -> dict[str, ClassScore]:
        """Score one case and keep its row.

        Args:
            case: its name, once in a report.
            patient: whose it is; cases of one patient are resampled together.
            pred, label: class indices ``(*spatial)``, in the same grid.
            spacing_mm: the voxel's size along each axis, in mm.
            attributes: what groups the case belongs to, such as ``{"scanner": "A"}``; None is "not given".
            picture: intensities ``(C, *spatial)`` as they are in the file; without them the case has no contrast.

        Returns:
            The scores by class.

        Raises:
            ValueError: a case added twice, or arrays that cannot be scored; the text names the case.
            CaseTextError: a name or an attribute with a line break, which a row of a table cannot hold.
        """
        if case in self._cases:
            raise ValueError(f"case {case} is in the report already: every case is scored once")
        who = {"case": case, "patient": patient}
        groups = {GROUP + name: str(value) for name, value in (attributes or {}).items() if value is not None}
        _check_text({**who, **groups}, case)
        try:
            scores = case_scores(pred, label, self.classes, spacing_mm)
            cells = _cells(scores, STRICT)
            cells[BOUNDARY] = boundary_dice(pred, label, spacing_mm)
            cells[CONTRAST] = math.nan if picture is None else contrast(picture, label, spacing_mm)
        except ValueError as error:
            raise ValueError(f"case {case}: {error}") from error
        counts = {
            column: {name: int(getattr(score, field)) for name, score in scores.items()}
            for column, field in COUNTS.items()
        }
        if any(counts["missed"].values()):  # a mean over the other classes alone would get better by what was missed
            cells |= {f"{field}_mean": math.nan for field in DISTANCES}
        for column, of in counts.items():
            cells |= {f"{column}_{name}": count for name, count in of.items()} | {column: sum(of.values())}
        self.rows.append({**who, **groups, **cells, LABEL: label_digest(label, self.classes)})
        self.compat_rows.append({**who, **_cells({k: score.compat for k, score in scores.items()}, COMPAT)})
        self._cases.add(case)
        return scores

    def summary(self) -> dict[str, Any]:
        """Return mean, standard deviation and interval of every metric, with the counts a reader needs to judge them.

        Per metric ``cases`` and ``patients`` count those with a number, and the interval ends where the metric does (at
        0, at 1 for Dice and Jaccard). Dice is over the cases whose label has the class; a case of which a class was missed has
        no mean distance. Per class ``missed`` counts the cases whose label alone has it, ``false_alarms`` those whose
        prediction alone has it, ``empty_labels`` those whose label lacks it; the sums over the classes stand above.
        ``groups`` has the same for the cases of each value of each attribute, and for the quarter of the cases with the least
        contrast against the others (:func:`~.hardness.lowest_quartile`), ``compat`` the metrics by the rule of published
        tables, ``calibration`` is of :class:`~.calibration.Calibration` (None where it counted nothing).
        """
        metrics = [*_columns(self.classes, STRICT), BOUNDARY]
        return {
            **self._counts(self.rows),
            "interval": f"{100 * LEVEL:.0f} % percentile bootstrap of the mean over cases, {DRAWS} draws of whole "
            "patients, widened for few patients as Student's t is",
            "classes": {name: class_counts(self.rows, name) for name in self.classes},
            "metrics": _summaries(self.rows, metrics),
            "groups": {
                name: {
                    value: {**self._counts(rows), "metrics": _summaries(rows, metrics)}
                    for value, rows in values.items()
                }
                for name, values in _groups(self.rows).items()
            },
            "compat": {"rule": COMPAT_RULE, "metrics": _summaries(self.compat_rows, _columns(self.classes, COMPAT))},
            "calibration": self.calibration.summary(),
        }

    def _counts(self, rows: Sequence[Row]) -> dict[str, int]:
        by_class = [class_counts(rows, name) for name in self.classes]
        total = {key: sum(counts[key] for counts in by_class) for key in (*COUNTS, "empty_labels")}
        return {"cases": len(rows), "patients": len({row["patient"] for row in rows}), **total}

    def write(self, folder: Path, name: str, unit: str = "mm") -> dict[str, Any]:
        """Write four files, each whole or not at all; what was not measured is an empty cell and a null.

        ``<name>.csv`` has a row per case, ``<name>.compat.csv`` the same by the rule of published tables,
        ``<name>.json`` is :meth:`summary` with the ``unit`` of distances, ``<name>.md`` its tables to read.

        Returns:
            The summary.

        Raises:
            ValueError: a report without cases.
        """
        if not self.rows:
            raise ValueError(f"nothing to write to {name}.csv: no case was added")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        summary = {**self.summary(), "unit": unit}
        who = ["case", "patient"]
        counts = [f"{column}{end}" for column in COUNTS for end in (*(f"_{name}" for name in self.classes), "")]
        columns = [*who, *_attributes(self.rows), *_columns(self.classes, STRICT), BOUNDARY, CONTRAST, *counts, LABEL]
        write_text(folder / f"{name}.csv", _csv_text(self.rows, columns))
        write_text(folder / f"{name}.compat.csv", _csv_text(self.compat_rows, [*who, *_columns(self.classes, COMPAT)]))
        write_text(folder / f"{name}.json", json.dumps(summary, indent=2, allow_nan=False) + "\n")
        write_text(folder / f"{name}.md", markdown_text(name, summary))
        return summary


def label_digest(label: NDArray[Any], classes: Sequence[str]) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 over the shape and the voxels of a label.

    By it two tables tell whether they were scored against the same labels. Classes are counted
    in the order of their names: another order in the task makes no other label.

    Args:
        label: class indices ``(*spatial)``, 0 to ``len(classes)``.
        classes: names of the foreground classes, as in :class:`CaseReport`.
    """
    places = np.zeros(len(classes) + 1, dtype="<u2")
    places[1:] = [1 + sorted(classes).index(name) for name in classes]
    state = hashlib.sha256(str(label.shape).encode())
    whole = label.astype(np.uint8) if label.dtype == bool else label
    state.update(np.ascontiguousarray(places[whole]).data)
    return state.hexdigest()[:16]


def markdown_text(name: str, summary: Mapping[str, Any]) -> str:
    """Return the tables of a :meth:`CaseReport.summary`, readable as plain text too."""
    classes = summary["classes"]
    titles = {metric: title.format(unit=summary["unit"]) for metric, title in TITLES.items()}
    counts = {c: [*faults_of(summary, c).values()] for c in [*classes, "mean"]}
    parts = [
        f"# Scores of {name}",
        f"{summary['cases']} cases of {summary['patients']} patients. Missed: a structure of the label of which the "
        "prediction has nothing; it has Dice 0 and no distance. False alarm: a class that the prediction has and the label "
        "lacks; it has no Dice and no distance, and counts in its own column alone. So Dice is over the cases that have "
        f"the structure, and {MEAN_DICE}. A case with a missed structure has no mean "
        f"distance. Intervals: {summary['interval']}. Boundary Dice counts the voxels within {REACH} of the reference's "
        "surface alone.",
        table(
            ["Metric", "Class", "Mean", "SD", f"{100 * LEVEL:.0f} % interval", "Cases", *FAULTS.values()],
            [
                [titles[m], c, *_numbers(summary["metrics"][f"{m}_{c}"], m), *counts[c]]
                for m in STRICT
                for c in [*classes, "mean"]
            ]
            + [[titles[BOUNDARY], "mean", *_numbers(summary["metrics"][BOUNDARY], "dice"), *counts["mean"]]],
            texts=2,
        ),
    ]
    if summary["groups"]:
        parts += ["## Groups", _group_table(summary["groups"], len(classes), titles)]
    if summary["calibration"]:
        calibration = summary["calibration"]
        parts += [
            "## Calibration",
            f"Expected calibration error {calibration['ece']:.3f} over {calibration['voxels']} {calibration['over']}.",
        ]
    parts += ["## As published tables count", f"Only to stand beside them: {summary['compat']['rule']}."]
    metrics = summary["compat"]["metrics"]
    rows = [[c, *(_number(metrics[f"{m}_{c}"]["mean"], m) for m in COMPAT)] for c in [*classes, "mean"]]
    parts.append(table(["Class", *(titles[m] for m in COMPAT)], rows))
    return "\n\n".join(parts) + "\n"


def class_counts(rows: Sequence[Row], name: str) -> dict[str, int]:
    """Return how often a class was ``missed``, a ``false_alarms``, and how many ``empty_labels`` lack it."""
    counts = {column: sum(row[f"{column}_{name}"] for row in rows) for column in COUNTS}
    return {**counts, "empty_labels": sum(math.isnan(row[f"dice_{name}"]) for row in rows)}


def faults_of(summary: Mapping[str, Any], name: str = "mean") -> dict[str, str]:
    """Return ``7 of 44`` (structures that labels have) and ``6 of 16`` (that they lack) of a class, or of all by ``mean``."""
    counts = summary if name == "mean" else summary["classes"][name]
    return fault_texts(counts, summary["cases"] * (len(summary["classes"]) if name == "mean" else 1))


def fault_texts(counts: Mapping[str, Any], places: int) -> dict[str, str]:
    """Return both counts, each with what it could have been: labels that have, and that lack, what is looked for.

    Args:
        counts: ``missed``, ``false_alarms`` and ``empty_labels``.
        places: cases times classes.
    """
    empty = counts["empty_labels"]
    return {
        "missed": f"{counts['missed']} of {places - empty}",
        "false_alarms": f"{counts['false_alarms']} of {empty}",
    }


def _group_table(groups: Mapping[str, Any], classes: int, titles: Mapping[str, str]) -> str:
    level = f"{100 * LEVEL:.0f} % interval"
    head = [
        "Attribute",
        "Value",
        "Patients",
        "Cases",
        "Dice",
        level,
        titles[BOUNDARY],
        titles["hd95_mm"],
        *FAULTS.values(),
    ]
    rows = []
    for attribute, values in groups.items():
        for value, group in values.items():
            dice, hd95 = group["metrics"]["dice_mean"], group["metrics"]["hd95_mm_mean"]
            mean, _, interval, _ = _numbers(dice, "dice")
            counts = str(group["patients"]), str(group["cases"])
            boundary, distance = _number(group["metrics"][BOUNDARY]["mean"], "dice"), _number(hd95["mean"], "hd95_mm")
            faults = fault_texts(group, classes * group["cases"]).values()
            rows.append([attribute, value, *counts, mean, interval, boundary, distance, *faults])
    return table(head, rows, texts=2)


def _numbers(metric: Mapping[str, Any], kind: str) -> list[str]:
    """Mean, SD, interval and number of cases as they are printed."""
    interval = "-" if metric["low"] is None else f"{_number(metric['low'], kind)} to {_number(metric['high'], kind)}"
    return [_number(metric["mean"], kind), _number(metric["sd"], kind), interval, str(metric["cases"])]


def _number(value: float | None, kind: str) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if kind in OVERLAPS else f"{value:.1f}"


def _check_text(texts: Mapping[str, str], case: str) -> None:
    for column, text in texts.items():
        if any(mark in column + text for mark in "\r\n"):
            raise CaseTextError(
                f"case {case!r}: {column!r} is {text!r}, with a line break, which a row of a table cannot hold. Take it out "
                "of the data list"
            )


def _attributes(rows: Sequence[Row]) -> list[str]:
    """The group columns of all cases, in the order in which they came up."""
    return list(dict.fromkeys(column for row in rows for column in row if column.startswith(GROUP)))


def _groups(rows: Sequence[Row]) -> dict[str, dict[str, list[Row]]]:
    """The cases by the values of each attribute, and by their contrast where that is known."""
    found = {attribute.removeprefix(GROUP): _by_value(rows, attribute) for attribute in _attributes(rows)}
    quartile = lowest_quartile(rows)
    return {BY_CONTRAST: quartile, **found} if quartile else found


def _by_value(rows: Sequence[Row], attribute: str) -> dict[str, list[Row]]:
    """The cases of each value, values in order; those without the attribute last."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.get(attribute) or NOT_GIVEN, []).append(row)
    return {value: found[value] for value in sorted(found, key=lambda v: (v == NOT_GIVEN, v))}


def _summaries(rows: Sequence[Row], metrics: Sequence[str]) -> dict[str, Any]:
    return {metric: _summary(rows, metric) for metric in metrics}


def _summary(rows: Sequence[Row], metric: str) -> dict[str, Any]:
    values = np.array([row[metric] for row in rows], dtype=float)
    known = ~np.isnan(values)
    patients = [row["patient"] for row in rows]
    low, high = np.clip(
        bootstrap_interval(values, patients), 0, 1 if metric.startswith((*OVERLAPS, BOUNDARY)) else None
    )
    return {
        "mean": _or_none(mean_of_known(values.tolist())),
        "sd": _or_none(values[known].std(ddof=1) if known.sum() > 1 else math.nan),
        "low": _or_none(low),
        "high": _or_none(high),
        "cases": int(known.sum()),
        "patients": len({patient for patient, keep in zip(patients, known, strict=True) if keep}),
    }


def _cells(scores: Mapping[str, Any], fields: Sequence[str]) -> dict[str, float]:
    """Columns ``<field>_<class>`` and ``<field>_mean``, the mean over the classes that have a number."""
    cells: dict[str, float] = {}
    for field in fields:
        values = {name: getattr(score, field) for name, score in scores.items()}
        cells |= {f"{field}_{name}": value for name, value in values.items()}
        cells[f"{field}_mean"] = mean_of_known(values.values())
    return cells


def _columns(classes: Sequence[str], fields: Sequence[str]) -> list[str]:
    return [f"{field}_{name}" for field in fields for name in (*classes, "mean")]


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
    writer.writerows([_cell(row.get(column, "")) for column in columns] for row in rows)
    return text.getvalue()
