import csv
import json
import math

import numpy as np
import pytest

from custom.compare import read_cases
from custom.evaluation import CaseReport, bootstrap_interval

LABEL = np.array([[1, 1, 2, 0]])


def small_report():
    """Two patients, three cases: Dice of A is 1, 2/3, 0; of B is 1, 1, not counted (both empty)."""
    report = CaseReport(["A", "B"])
    report.add("p1_ED", "p1", LABEL, LABEL, (1.0, 1.0))
    report.add("p1_ES", "p1", np.array([[1, 0, 2, 0]]), LABEL, (1.0, 1.0))
    report.add("p2_ED", "p2", np.array([[0, 0, 0, 0]]), np.array([[1, 0, 0, 0]]), (1.0, 1.0))
    return report


def test_table_has_a_row_per_case_in_closed_form(tmp_path):
    table, _ = small_report().write(tmp_path / "evaluation", "test")
    with open(table, newline="") as stream:
        head, *rows = list(csv.reader(stream))
    assert head == ["case", "patient", "dice_A", "dice_B", "dice_mean", "hd95_mm_A", "hd95_mm_B", "failures"]
    assert rows[0] == ["p1_ED", "p1", "1.0", "1.0", "1.0", "0.0", "0.0", "0"]
    assert [float(cell) for cell in rows[1][2:]] == pytest.approx([2 / 3, 1, (2 / 3 + 1) / 2, 0.9, 0, 0])
    assert rows[2] == ["p2_ED", "p2", "0.0", "", "0.0", "", "", "1"]  # a failure: no distance, an empty cell


def test_summary_in_closed_form(tmp_path):
    _, path = small_report().write(tmp_path, "test")
    summary = json.loads(path.read_text())
    assert (summary["cases"], summary["patients"], summary["failures"], summary["empty_labels"]) == (3, 2, 1, 1)
    assert summary["classes"] == {"A": {"failures": 1, "empty_labels": 0}, "B": {"failures": 0, "empty_labels": 1}}
    a = summary["metrics"]["dice_A"]
    assert a["mean"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert a["sd"] == pytest.approx(np.std([1, 2 / 3, 0], ddof=1))
    assert (a["low"], a["high"]) == (0.0, pytest.approx(5 / 6))  # of (p2, p2), (p1, p2), (p1, p1)
    assert (a["cases"], a["patients"]) == (3, 2)


def test_summary_counts_only_what_has_a_number_and_gives_no_interval_of_one_patient(tmp_path):
    summary = json.loads(small_report().write(tmp_path, "test")[1].read_text())
    distance = summary["metrics"]["hd95_mm_A"]
    assert (distance["cases"], distance["patients"]) == (2, 1)
    assert distance["mean"] == pytest.approx(0.45)
    assert distance["low"] is None
    assert distance["high"] is None


def test_files_are_replaced_whole_and_leave_no_litter(tmp_path):
    for _ in range(2):
        small_report().write(tmp_path, "test")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["test.csv", "test.json"]


def test_table_reads_back_as_the_rows_that_were_added(tmp_path):
    report = small_report()
    np.testing.assert_equal(read_cases(report.write(tmp_path, "test")[0]), report.rows)


def test_case_names_with_commas_and_quotes_read_back(tmp_path):
    report = CaseReport(["A"])
    report.add('left, "old"', "Ångström", np.array([[1]]), np.array([[1]]), (1.0, 1.0))
    row = read_cases(report.write(tmp_path, "test")[0])[0]
    assert (row["case"], row["patient"]) == ('left, "old"', "Ångström")


def test_a_case_is_scored_once():
    report = small_report()
    with pytest.raises(ValueError, match="case p1_ED is in the report already"):
        report.add("p1_ED", "p1", LABEL, LABEL, (1.0, 1.0))


def test_an_error_names_the_case_and_keeps_no_row():
    report = small_report()
    with pytest.raises(ValueError, match=r"case p3: label has the values 7, the classes \['A', 'B'\] allow 0\.\.2"):
        report.add("p3", "p3", LABEL, np.array([[7, 1, 2, 0]]), (1.0, 1.0))
    assert len(report) == 3


@pytest.mark.parametrize("classes", [[], ["A", "A"], ["mean"]])
def test_classes_that_would_collide_are_refused(classes):
    with pytest.raises(ValueError, match="classes needs one or more different names, none of them 'mean'"):
        CaseReport(classes)


def test_a_report_without_cases_is_not_written(tmp_path):
    with pytest.raises(ValueError, match=r"nothing to write to test\.csv: no case was added"):
        CaseReport(["A"]).write(tmp_path, "test")
    assert not list(tmp_path.iterdir())


def test_bootstrap_of_two_groups_in_closed_form():
    # Of two groups with 0 and 1 the mean is 0, 1/2 or 1 with probabilities 1/4, 1/2, 1/4.
    assert bootstrap_interval([0.0, 1.0], ["a", "b"]) == (0.0, 1.0)
    assert bootstrap_interval([0.0, 1.0], ["a", "b"], level=0.4) == (0.5, 0.5)


def test_bootstrap_means_are_over_cases_not_over_patients():
    # a twice 0, b once 3: the middle resampling holds both, (0 + 0 + 3) / 3 = 1; of patients' means it would be 3/2.
    assert bootstrap_interval([0.0, 0.0, 3.0], ["a", "a", "b"], level=0.4) == (1.0, 1.0)


def test_bootstrap_is_the_same_for_the_same_seed_and_another_for_another():
    values, groups = np.random.default_rng(0).normal(size=30), list(range(30))
    first = bootstrap_interval(values, groups, seed=1)
    assert first == bootstrap_interval(values, groups, seed=1)
    assert first != bootstrap_interval(values, groups, seed=2)


def test_bootstrap_covers_the_true_mean_about_95_times_in_100():
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        low, high = bootstrap_interval(random.normal(5.0, 2.0, size=40), range(40), draws=1000)
        hits += low <= 5.0 <= high
    assert 0.90 <= hits / 400 <= 0.98


def test_bootstrap_width_is_that_of_the_standard_error():
    values = np.random.default_rng(0).normal(size=400)
    low, high = bootstrap_interval(values, range(400))
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.05)


def test_two_identical_volumes_a_patient_count_as_one_observation():
    values = np.random.default_rng(0).normal(size=50)
    twice, patients = np.repeat(values, 2), np.repeat(np.arange(50), 2).tolist()
    width = np.diff(bootstrap_interval(values, range(50)))
    assert np.diff(bootstrap_interval(twice, patients)) == pytest.approx(width)  # a copy adds nothing
    as_if_independent = np.diff(bootstrap_interval(twice, range(100)))
    assert width / as_if_independent == pytest.approx(math.sqrt(2), rel=0.1)


def test_bootstrap_ignores_nan_and_the_groups_that_have_nothing_else():
    values, groups = [0.2, 0.4, math.nan, 0.9, math.nan], ["a", "b", "b", "c", "d"]
    assert bootstrap_interval(values, groups) == bootstrap_interval([0.2, 0.4, 0.9], ["a", "b", "c"])


@pytest.mark.parametrize(("values", "groups"), [([], []), ([0.5, 0.7], ["a", "a"]), ([0.5, math.nan], ["a", "b"])])
def test_fewer_than_two_groups_have_no_interval(values, groups):
    assert all(math.isnan(bound) for bound in bootstrap_interval(values, groups))


def test_bootstrap_of_many_patients_keeps_to_its_memory(monkeypatch):
    values = np.random.default_rng(0).normal(size=100)
    monkeypatch.setattr("custom.evaluation._INDICES_AT_ONCE", 1000)  # ten draws at once
    low, high = bootstrap_interval(values, range(100), draws=1005)
    assert low < values.mean() < high


def test_bootstrap_refuses_what_it_cannot_use():
    with pytest.raises(ValueError, match="one group a value is needed, got 1 groups and values"):
        bootstrap_interval([1.0, 2.0], ["a"])
    with pytest.raises(ValueError, match=r"level must lie in \(0, 1\) and draws be at least 1, got 95 and 10000"):
        bootstrap_interval([1.0, 2.0], ["a", "b"], level=95)
