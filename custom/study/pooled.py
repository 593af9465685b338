"""The folds of a study as one evaluation: every labelled patient is scored once, by networks that never saw it."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..evaluation.calibration import Calibration
from ..evaluation.case_report import CaseReport, Row
from ..evaluation.case_table import read_cases
from ..files import write_atomically


def pool(tables: Sequence[Path], folder: Path, name: str, called: Callable[[str], str] = str) -> Path:
    """Write the evaluation of all cases of several tables, with what lies beside each of them.

    Args:
        tables: of cases, ``<run>/evaluation/test/model.csv``, no case in two of them.
        folder: where the files go.
        name: of the files.
        called: gives a case its name in what is written.

    Returns:
        The pooled table of cases; summary, published form and slices lie beside it.

    Raises:
        ValueError: no table; a case in two.
    """
    summaries = [json.loads(path.with_suffix(".json").read_text(encoding="utf-8")) for path in tables]
    report = CaseReport(list(summaries[0]["classes"]))
    report.rows = [row for path in tables for row in read_cases(path)]
    report.compat_rows = [row for path in tables for row in _compat(path.with_suffix(".compat.csv"))]
    if len({row["case"] for row in report.rows}) < len(report.rows):
        raise ValueError(f"a case is in two of {', '.join(map(str, tables))}: every case is judged once")
    for row in [*report.rows, *report.compat_rows]:
        row["case"] = called(row["case"])
    report.calibration = Calibration.of(summary.get("calibration") for summary in summaries)
    report.write(folder, name, summaries[0]["unit"])
    _pool_slices([path.with_suffix(".slices.npz") for path in tables], folder / f"{name}.slices.npz", called)
    return folder / f"{name}.csv"


def _compat(path: Path) -> list[Row]:
    with path.open(newline="", encoding="utf-8") as file:
        return [
            {
                key: value if key in ("case", "patient") else float(value) if value else math.nan
                for key, value in row.items()
            }
            for row in csv.DictReader(file)
        ]


def _pool_slices(files: Sequence[Path], out: Path, called: Callable[[str], str]) -> None:
    cases: list[str] = []
    arrays: dict[str, Any] = {}
    for path in files:
        if not path.is_file():
            continue
        with np.load(path, allow_pickle=False) as found:
            for i, case in enumerate(found["cases"]):
                for kind in ("image", "label", "pred", "spacing"):
                    arrays[f"{kind}_{len(cases)}"] = found[f"{kind}_{i}"]
                cases.append(called(str(case)))
    write_atomically(out, partial(np.savez_compressed, cases=np.array(cases, dtype=str), **arrays))
