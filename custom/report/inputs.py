"""What a page is made from: the files that an evaluation left beside one another."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..evaluation.case_report import GROUP, Row
from ..evaluation.case_table import read_cases
from ..evaluation.earlier import summary_of_today


class ReportError(UserError, ValueError):
    """The files of an evaluation are missing, or do not belong together."""


@dataclass(frozen=True)
class ShownSlice:
    """One slice of a case: image ``(X, Y)`` or ``(3, X, Y)``, class indices ``(X, Y)``, sizes in the unit of distances."""

    image: NDArray[Any]
    label: NDArray[Any]
    pred: NDArray[Any]
    spacing_mm: tuple[float, float]


@dataclass(frozen=True)
class Evaluated:
    """The scores of one network.

    Args:
        name: how the page calls it.
        rows: a row a case, as :func:`.evaluation.compare.read_cases` gives them.
        summary: the content of its ``.json``.
        pictures: its ``.slices.npz``, which need not exist.
    """

    name: str
    rows: list[Row]
    summary: Mapping[str, Any]
    pictures: Path

    @property
    def classes(self) -> list[str]:
        return list(self.summary["classes"])

    @property
    def several(self) -> list[str]:
        """The classes where there are several; of a single one the mean says all."""
        return self.classes if len(self.classes) > 1 else []

    @property
    def attributes(self) -> list[str]:
        """What the cases are grouped by."""
        return [column.removeprefix(GROUP) for column in self.rows[0] if column.startswith(GROUP)]

    @property
    def unit(self) -> str:
        """The unit of distances: ``mm``, or ``pixels`` where the scans are pictures."""
        return str(self.summary.get("unit", "mm"))

    def metric(self, name: str) -> Mapping[str, Any]:
        """See :func:`metric_of`."""
        return metric_of(self.summary, name)

    def has(self, name: str) -> bool:
        """Whether the metric was measured."""
        return bool(self.summary["metrics"].get(name))

    def cases_with_pictures(self) -> set[str]:
        if not self.pictures.is_file():
            return set()
        with np.load(self.pictures, allow_pickle=False) as arrays:
            return {str(case) for case in arrays["cases"]}

    def slice_of(self, case: str) -> ShownSlice:
        """The slice of a case that :meth:`cases_with_pictures` names."""
        with np.load(self.pictures, allow_pickle=False) as arrays:
            i = [str(name) for name in arrays["cases"]].index(case)
            x, y = (float(size) for size in arrays[f"spacing_{i}"])
            return ShownSlice(arrays[f"image_{i}"], arrays[f"label_{i}"], arrays[f"pred_{i}"], (x, y))


def metric_of(summary: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """``mean``, ``sd``, ``low``, ``high`` and counts of a metric of a summary or a group; None if not measured."""
    return {**dict.fromkeys(("mean", "sd", "low", "high", "cases", "patients")), **(summary["metrics"].get(name) or {})}


def read_evaluated(csv_path: Path, name: str) -> Evaluated:
    """Read the scores whose table of cases is ``csv_path``; the other files lie beside it, with the same stem.

    Raises:
        ReportError: a file is missing or is not what an evaluation writes; the text names it.
    """
    csv_path = Path(csv_path)
    summary = read_json(csv_path.with_suffix(".json"))
    if not isinstance(summary.get("classes"), dict) or not isinstance(summary.get("metrics"), dict):
        raise ReportError(
            f"{csv_path.with_suffix('.json')} is not a summary of an evaluation: it lacks classes or metrics"
        )
    try:
        rows = read_cases(csv_path)
        summary = summary_of_today(summary, str(csv_path))
    except (OSError, ValueError) as error:
        raise ReportError(f"{error}") from error
    if summary.get("modality") not in (None, name):
        name = f"{name} ({summary['modality']})"
    return Evaluated(name, rows, summary, csv_path.with_suffix(".slices.npz"))


def read_json(path: Path) -> dict[str, Any]:
    """Read an object that an evaluation wrote; raise :class:`ReportError` where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ReportError(
            f"{path} is not there: no finished evaluation. Evaluate first (configs/evaluate.yaml), or name the folder "
            "evaluation/<part> of an evaluated run."
        ) from None
    except (OSError, ValueError) as error:
        raise ReportError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ReportError(f"{path} is not a summary of an evaluation: it holds no object")
    return content


def fault_of(row: Row, name: str) -> str:
    """Why a class of a case has no distance: ``missed`` or ``false alarm``; empty where neither is."""
    return "missed" if row[f"missed_{name}"] else "false alarm" if row[f"false_alarms_{name}"] else ""
