"""Evaluations that counted missed structures and false alarms together are read as today's, or refused."""

import json
import math

import numpy as np
import pytest
from saying import raises

from custom.evaluation.case_report import CaseReport
from custom.evaluation.case_table import read_cases
from custom.evaluation.earlier import EarlierScores, summary_of_today

LABEL = np.array([[1, 1, 2, 0]])


def written(folder, *preds, labels=None):
    """An evaluation of today: a case a prediction, of two classes and two sites."""
    report = CaseReport(["A", "B"])
    for i, (pred, label) in enumerate(zip(preds, labels or [LABEL] * len(preds), strict=True)):
        report.add(f"c{i}", f"p{i}", np.array([pred]), np.array(label), (1.0, 1.0), {"site": "xy"[i % 2]})
    report.write(folder, "model")
    return folder / "model.csv"


def together(counts):
    """What an earlier version wrote of these counts."""
    rest = {key: value for key, value in counts.items() if key not in ("missed", "false_alarms")}
    return {**rest, "failures": counts["missed"] + counts["false_alarms"]}


def made_earlier(path):
    """Turn an evaluation into one of an earlier version; where a label lacked a class, a false alarm had Dice 0."""
    now = json.loads(path.with_suffix(".json").read_text())
    rows = read_cases(path)
    for row in rows:
        row["failures"] = row.pop("missed") + row.pop("false_alarms")
        for name in "AB":
            if row.pop(f"false_alarms_{name}"):
                row[f"dice_{name}"] = 0.0
                now["metrics"][f"dice_{name}"]["cases"] += 1
            del row[f"missed_{name}"]
    lines = [",".join(rows[0]), *(",".join("" if v != v else str(v) for v in row.values()) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    groups = {"site": {}}
    for value, of in now["groups"]["site"].items():
        groups["site"][value] = together({k: v for k, v in of.items() if k != "empty_labels"})
    summary = {
        **together(now),
        "classes": {name: together(of) for name, of in now["classes"].items()},
        "groups": groups,
    }
    path.with_suffix(".json").write_text(json.dumps(summary))
    return summary


def test_without_a_false_alarm_table_and_summary_are_those_of_today(tmp_path):
    label_without_b = np.array([[1, 1, 0, 0]])
    path = written(
        tmp_path, [1, 1, 2, 0], [1, 0, 0, 0], [0, 0, 2, 0], [1, 1, 0, 0], labels=[LABEL, LABEL, LABEL, label_without_b]
    )
    rows, summary = read_cases(path), json.loads(path.with_suffix(".json").read_text())
    before = made_earlier(path)
    assert "missed" not in path.read_text()
    np.testing.assert_equal(read_cases(path), rows)
    assert summary_of_today(before, "x") == summary
    assert summary["classes"]["A"] == {"missed": 1, "false_alarms": 0, "empty_labels": 0}
    assert summary["groups"]["site"]["y"]["empty_labels"] == 1


def test_a_table_without_a_fault_needs_no_summary(tmp_path):
    path = written(tmp_path, [1, 1, 2, 0])
    rows = read_cases(path)
    made_earlier(path)
    path.with_suffix(".json").unlink()
    np.testing.assert_equal(read_cases(path), rows)


def test_a_false_alarm_that_counted_as_dice_0_is_refused(tmp_path):
    path = written(tmp_path, [1, 1, 2, 0], [1, 1, 2, 0], labels=[LABEL, np.array([[1, 1, 0, 0]])])
    made_earlier(path)
    found = (str(path), "earlier version", "false alarm as Dice 0", "1 of 1 failures of B")
    with raises(EarlierScores, *found, "evaluate again (configs/evaluate.yaml)"):
        read_cases(path)


@pytest.mark.parametrize("beside", [None, "{}", "no JSON", '{"failures": 1}'])
def test_failures_that_nothing_tells_apart_are_refused(beside, tmp_path):
    path = written(tmp_path, [1, 0, 0, 0])
    made_earlier(path)
    path.with_suffix(".json").unlink()
    if beside is not None:
        path.with_suffix(".json").write_text(beside)
    with raises(EarlierScores, "earlier version", "false alarm as Dice 0", "evaluate again"):
        read_cases(path)


def test_rows_of_before_count_a_class_as_missed_only_where_they_say_so(tmp_path):
    path = written(tmp_path, [0, 0, 2, 1])  # A is elsewhere: Dice 0 with a distance, and no fault
    rows = read_cases(path)
    made_earlier(path)
    (row,) = read_cases(path)
    assert (row["dice_A"], row["missed_A"], row["missed"]) == (0.0, 0, 0)
    assert math.isfinite(row["hd95_mm_A"])
    np.testing.assert_equal([row], rows)
