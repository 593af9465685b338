"""What a verdict must not hide: that the unlabelled scans hardly took part in a run."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from ..training.unlabelled import empty_teacher, weak_terms


def notes(csv_path: Path, name: str) -> list[str]:
    """Return what the run behind a table of cases says of its unlabelled scans, each sentence with the network's name.

    Args:
        csv_path: ``<output_dir>/evaluation/<part>/<network>.csv``. Where no run's ``metrics.csv`` and ``bundle/run.json`` lie
            above it nothing is known, and nothing said.
        name: what the network is called.
    """
    parents = Path(csv_path).resolve().parents
    run = parents[min(2, len(parents) - 1)]
    rows, terms = _rows(run / "metrics.csv"), _terms(run / "bundle" / "run.json")
    if not rows or not terms:
        return []
    found = (weak_terms(rows, terms), empty_teacher(rows, len(rows), terms))
    return [f"{name}: {text}" for text in found if text]


def _rows(path: Path) -> list[dict[str, float]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
    except (OSError, ValueError, TypeError):
        return []


def _terms(path: Path) -> list[str]:
    try:
        return list(json.loads(path.read_text(encoding="utf-8"))["terms that read unlabelled scans"])
    except (OSError, ValueError, KeyError, TypeError):  # an earlier version did not write them
        return []
