"""What ``make demo`` says: numbers of its own cohort, and a meaning for each column and row that it prints."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import demo
from custom.evaluation import same_settings

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
    assert "alone: these" not in text
    text = demo.result({name: cases(value) for name, value in dice.items()}, ["left"], COUNTS, unlabelled=True)
    assert "The runs differ in the unlabelled scans alone: these helped." in text


def test_the_cause_is_named_by_what_the_runs_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo decides it as ``python -m custom.report`` does, for the two networks that serve."""
    asked: list[tuple[Path, Path]] = []
    monkeypatch.setattr(same_settings, "only_unlabelled_differs", lambda *tables: not asked.append(tables))
    monkeypatch.setattr(demo, "train_and_evaluate", lambda name, out, dataset_dir: out)
    monkeypatch.setattr(demo, "scores", lambda run, network: cases(0.5 if run.name == "supervised" else 0.7))
    monkeypatch.setattr(demo, "draw_pictures", lambda *_: tmp_path)
    monkeypatch.setattr(demo, "classes_of", lambda run: ["left"])
    monkeypatch.setattr("custom.report.compare_report", lambda *_: tmp_path)
    monkeypatch.setattr("custom.phantom.ensure", lambda form, folder: folder)
    monkeypatch.setattr("custom.cohort.data_list.read", lambda data: {part: [] for part in COUNTS})
    demo.demo(tmp_path)
    assert asked == [tuple(tmp_path / name / "evaluation/test/model.csv" for name in ("supervised", "mean_teacher"))]
    assert "these helped" in (tmp_path / "result.md").read_text()


def test_the_plan_names_the_cohort_and_fits_a_terminal() -> None:
    text = demo.PLAN.format(classes="left", **COUNTS)
    assert "4 scans come with their outline" in text
    assert "40 without" in text
    printed = "\n".join([text, demo.MEANING, demo.INTERVAL.format(**COUNTS)])
    assert max(map(len, printed.splitlines())) <= 108
