"""What ``make demo`` says: numbers of its own cohort, and a meaning for each column and row that it prints."""

from __future__ import annotations

import re
from typing import Any

from benchmarks import demo

COUNTS = {"labelled": 4, "unlabelled": 40, "validation": 10, "test": 8}
MODELS = ("supervised", "supervised, not averaged", "mean teacher", "mean teacher, not averaged")


def cases(dice: float) -> list[dict[str, Any]]:
    row = {"dice_left": dice, "dice_mean": dice, "hd95_mm_mean": 5.0, "asd_mm_mean": 1.0, "missed_left": 0, "missed": 0,
           "false_alarms_left": 0, "false_alarms": 0}  # fmt: skip
    return [{"case": f"c{i}", "patient": f"p{i}", **row} for i in range(8)]


def test_every_column_and_row_of_the_table_is_explained() -> None:
    text = demo.result({name: cases(0.5) for name in MODELS}, ["left"], COUNTS)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    explained = demo.MEANING.splitlines()
    for name in [
        *(cell.split()[0] if cell.startswith("Dice") else cell for cell in head[1:]),
        *(row[0] for row in rows),
    ]:
        assert any(re.match(rf"  {re.escape(name)}  +\w", line) for line in explained), name
    assert [row[0] for row in rows] == list(MODELS)


def test_both_verdicts_are_of_mean_teacher() -> None:
    dice = dict(zip(MODELS, (0.5, 0.7, 0.6, 0.6), strict=True))
    text = demo.result({name: cases(value) for name, value in dice.items()}, ["left"], COUNTS)
    assert "As they serve: mean teacher is better than supervised by 10.0 Dice points" in text
    assert "Both without averaging: mean teacher is worse than supervised by 10.0 Dice points" in text


def test_the_plan_names_the_cohort_and_fits_a_terminal() -> None:
    text = demo.PLAN.format(classes="left", **COUNTS)
    assert "4 scans come with their outline" in text
    assert "40 without" in text
    printed = "\n".join([text, demo.MEANING, demo.INTERVAL.format(**COUNTS)])
    assert max(map(len, printed.splitlines())) <= 108
