"""A table of cases that an evaluation wrote, read back."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .case_report import COUNTS, GROUP, LABEL, Row
from .earlier import TOGETHER, rows_of_today

_NAMES_SHOWN = 10


def read_cases(csv_path: Path | str) -> list[Row]:
    """Read a per-case table that :meth:`.case_report.CaseReport.write` wrote.

    Returns:
        A dict a case: ``case``, ``patient``, ``label_sha256`` and every ``group_...`` strings, the counts (``missed``,
        ``false_alarms``, and those of each class) ints, every other column a float (an empty cell is NaN).

    Raises:
        ValueError: not such a table, a cell that is not a number, no case, or a case twice; the text names the file.
        earlier.EarlierScores: the table is of an earlier version, and its figures are not those of today.
    """
    with open(csv_path, newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        columns = list(reader.fieldnames or ())
        ends = ["", *(f"_{name}" for name in classes_of([dict.fromkeys(columns)]))]
        counts = [] if TOGETHER in columns else [f"{column}{end}" for column in COUNTS for end in ends]
        missing = [name for name in ("case", "patient", "dice_mean", *counts) if name not in columns]
        if missing:
            raise ValueError(f"{csv_path} is not a table of cases: it lacks the columns {', '.join(missing)}")
        rows = [_read_row(raw, f"{csv_path}, line {reader.line_num}") for raw in reader]
    if not rows:
        raise ValueError(f"{csv_path} holds no case")
    by_case(rows, str(csv_path))
    rows = rows_of_today(rows, _beside(csv_path), str(csv_path))
    return [{key: int(value) if _is_count(key) else value for key, value in row.items()} for row in rows]


def distance_unit(csv_paths: Sequence[Path | str]) -> str:
    """Return the unit of distances of tables of cases, by the ``.json`` beside each; ``mm`` where there is none.

    Raises:
        ValueError: the units differ.
    """
    units = {str(path): str((_beside(path) or {}).get("unit", "mm")) for path in csv_paths}
    if len(set(units.values())) > 1:
        found = ", ".join(f"{path}: {unit}" for path, unit in units.items())
        raise ValueError(f"distances have different units ({found}): score both on the same files")
    return next(iter(units.values()))


def classes_of(rows: Sequence[Row]) -> list[str]:
    """Return the classes of a table of cases."""
    return [key.removeprefix("dice_") for key in rows[0] if key.startswith("dice_") and key != "dice_mean"]


def by_case(rows: Sequence[Row], where: str) -> dict[str, Row]:
    """Return the rows by the names of their cases; raise ValueError where one is there twice."""
    cases = {row["case"]: row for row in rows}
    if len(cases) != len(rows):
        names = [row["case"] for row in rows]
        raise ValueError(f"{where}: twice in the table: {names_text(sorted({n for n in names if names.count(n) > 1}))}")
    return cases


def names_text(names: Sequence[str]) -> str:
    """Return names for a sentence: the first ten, and how many more."""
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _beside(csv_path: Path | str) -> dict[str, Any] | None:
    """The summary that an evaluation wrote beside a table of cases; None where there is none."""
    try:
        content = json.loads(Path(csv_path).with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _read_row(raw: dict[str, str], where: str) -> Row:
    row: Row = {}
    for column, cell in raw.items():
        if column is None or cell is None:
            raise ValueError(f"{where}: the number of cells differs from the header's")
        text = column in ("case", "patient", LABEL) or column.startswith(GROUP)
        row[column] = cell if text else _number(cell, column, where)
    for column in filter(_is_count, row):
        if not (row[column] >= 0 and row[column] == int(row[column])):
            raise ValueError(f"{where}: {column} is {raw[column]!r}, not a count")
    return row


def _is_count(column: str) -> bool:
    return column.startswith(tuple(COUNTS)) or column == TOGETHER


def _number(cell: str, column: str, where: str) -> float:
    try:
        return float(cell) if cell else math.nan
    except ValueError:
        raise ValueError(f"{where}: {column} is {cell!r}, not a number") from None
