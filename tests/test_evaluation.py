import csv
import hashlib
import json
import math

import numpy as np
import pytest
import torch
from saying import raises, says

from custom.evaluation.bootstrap import bootstrap_interval
from custom.evaluation.case_report import NOT_GIVEN, CaseReport, CaseTextError, faults_of, label_digest
from custom.evaluation.case_table import read_cases
from custom.evaluation.metrics import COMPAT_RULE

LABEL = np.array([[1, 1, 2, 0]])


def small_report():
    """Two patients, three cases: Dice of A is 1, 2/3, 0; of B is 1, 1, not counted (both empty). Columns of 2 mm."""
    report = CaseReport(["A", "B"])
    report.add("p1_ED", "p1", LABEL, LABEL, (1.0, 2.0))
    report.add("p1_ES", "p1", np.array([[1, 0, 2, 0]]), LABEL, (1.0, 2.0))
    report.add("p2_ED", "p2", np.array([[0, 0, 0, 0]]), np.array([[1, 0, 0, 0]]), (1.0, 2.0))
    return report


def grouped_report():
    """Three patients on two scanners; of one of them the scanner is not known."""
    report = CaseReport(["A"])
    wrong = np.array([[0, 1]])
    for patient, pred, attributes in (
        ("p1", [[1, 0]], {"scanner": "z", "sex": "F"}),
        ("p2", [[1, 1]], {"scanner": "a", "sex": "F"}),
        ("p3", wrong, {"sex": "F"}),
        ("p4", [[0, 0]], {"scanner": "z", "sex": "F"}),
    ):
        report.add(patient, patient, np.array(pred), np.array([[1, 0]]), (1.0, 1.0), attributes)
    return report


def read_json(folder, name="test"):
    return json.loads((folder / f"{name}.json").read_text())


def read_csv(path):
    with path.open(newline="") as stream:
        return list(csv.reader(stream))


def test_table_has_a_row_per_case_in_closed_form(tmp_path):
    small_report().write(tmp_path / "evaluation", "test")
    head, *rows = read_csv(tmp_path / "evaluation/test.csv")
    metrics = ["dice", "jaccard", "hd95_mm", "asd_mm"]
    hard = ["boundary_dice", "contrast"]
    counts = ["missed_A", "missed_B", "missed", "false_alarms_A", "false_alarms_B", "false_alarms"]
    assert head == [
        "case",
        "patient",
        *(f"{m}_{c}" for m in metrics for c in ("A", "B", "mean")),
        *hard,
        *counts,
        "label_sha256",
    ]
    assert rows[0][:-1] == ["p1_ED", "p1", *["1.0"] * 6, *["0.0"] * 6, "1.0", "", *"000000"]  # no picture: no contrast
    numbers = [2 / 3, 1, (2 / 3 + 1) / 2, 1 / 2, 1, 3 / 4, 1.8, 0, 0.9, 0, 0, 0]
    assert [float(cell) for cell in rows[1][2:14]] == pytest.approx(numbers)
    assert (float(rows[1][14]), rows[1][15:-1]) == (
        pytest.approx((2 / 3 + 1) / 2),
        ["", *"000000"],
    )  # all within the band
    assert rows[2][:-1] == [
        "p2_ED",
        "p2",
        *["0.0", "", "0.0"] * 2,
        *[""] * 6,
        "0.0",
        "",
        *"101000",
    ]  # A was missed: no distance, an empty cell


def test_a_label_has_one_digest_whatever_its_type_and_the_order_of_the_classes(tmp_path):
    small_report().write(tmp_path, "test")
    first, second, third = [row["label_sha256"] for row in read_cases(tmp_path / "test.csv")]
    assert first == second != third
    content = b"(1, 4)" + np.array([[1, 0, 2, 0]], dtype="<u2").tobytes()
    label = np.array([[1, 0, 2, 0]])
    assert label_digest(label, "AB") == hashlib.sha256(content).hexdigest()[:16]
    for same in (label.astype(np.uint8), np.asfortranarray(label), np.array([[1, 9, 0, 9, 2, 9, 0, 9]])[:, ::2]):
        assert label_digest(same, "AB") == label_digest(label, "AB")
    assert label_digest(np.array([[2, 0, 1, 0]]), "BA") == label_digest(label, "AB")
    assert label_digest(label.T, "AB") != label_digest(label, "AB")
    assert label_digest(np.array([[True, False]]), "A") == label_digest(np.array([[1, 0]]), "A")


def test_second_table_counts_as_published_tables_do(tmp_path):
    small_report().write(tmp_path, "test")
    head, *rows = read_csv(tmp_path / "test.compat.csv")
    metrics = ["dice", "jaccard", "hd95_voxels", "asd_voxels"]
    assert head == ["case", "patient", *(f"{m}_{c}" for m in metrics for c in ("A", "B", "mean"))]
    assert [float(cell) for cell in rows[1][8:11]] == pytest.approx([0.9, 0, 0.45])  # voxels, not mm
    assert rows[2][2:] == ["0.0"] * 12  # an empty class: zero, also where both lack it
    compat = read_json(tmp_path)["compat"]
    assert compat["rule"] == COMPAT_RULE
    assert compat["metrics"]["dice_B"]["mean"] == pytest.approx((1 + 1 + 0) / 3)
    assert compat["metrics"]["hd95_voxels_A"]["mean"] == pytest.approx((0 + 0.9 + 0) / 3)
    assert compat["metrics"]["hd95_voxels_A"]["cases"] == 3


def test_summary_in_closed_form(tmp_path):
    summary = small_report().write(tmp_path, "test")
    assert summary == read_json(tmp_path)
    assert (summary["cases"], summary["patients"], summary["unit"]) == (3, 2, "mm")
    assert [summary[key] for key in ("missed", "false_alarms", "empty_labels")] == [1, 0, 1]
    assert summary["classes"] == {
        "A": {"missed": 1, "false_alarms": 0, "empty_labels": 0},
        "B": {"missed": 0, "false_alarms": 0, "empty_labels": 1},
    }
    a = summary["metrics"]["dice_A"]
    assert a["mean"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert a["sd"] == pytest.approx(np.std([1, 2 / 3, 0], ddof=1))
    assert (a["low"], a["high"]) == (0, 1)  # of two patients: wider than the range, so it ends where Dice does
    assert (a["cases"], a["patients"]) == (3, 2)
    assert summary["metrics"]["jaccard_A"]["mean"] == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert summary["metrics"]["asd_mm_mean"]["mean"] == 0
    assert summary["groups"] == {}
    assert summary["calibration"] is None


def test_summary_counts_only_what_has_a_number_and_gives_no_interval_of_one_patient(tmp_path):
    distance = small_report().write(tmp_path, "test")["metrics"]["hd95_mm_A"]
    assert (distance["cases"], distance["patients"]) == (2, 1)
    assert distance["mean"] == pytest.approx(0.9)
    assert distance["low"] is None
    assert distance["high"] is None


def test_a_missed_class_does_not_improve_the_mean_distance_of_its_case(tmp_path):
    report = CaseReport(["A", "B", "C"])
    label = np.array([[1, 1, 2, 0]])  # no C
    report.add("all", "p", np.array([[1, 0, 2, 0]]), label, (1.0, 2.0))
    report.add("no B", "q", np.array([[1, 1, 0, 0]]), label, (1.0, 2.0))
    both, missed = report.rows
    assert (both["hd95_mm_mean"], both["asd_mm_mean"]) == (pytest.approx(0.9), 0)  # of A and B; C is in neither
    assert missed["hd95_mm_A"] == missed["asd_mm_A"] == 0
    assert math.isnan(missed["hd95_mm_mean"])
    assert math.isnan(missed["asd_mm_mean"])
    assert missed["dice_mean"] == pytest.approx(1 / 2)
    assert report.compat_rows[1]["hd95_voxels_mean"] == 0  # published tables do let it improve
    assert report.write(tmp_path, "test")["metrics"]["hd95_mm_mean"]["cases"] == 1
    assert "A case with a missed structure has no mean distance" in (tmp_path / "test.md").read_text()


def test_a_false_alarm_is_counted_and_changes_no_mean_of_its_case(tmp_path):
    report, label = CaseReport(["A", "B"]), np.array([[1, 1, 0, 0]])  # no B
    report.add("clean", "p", np.array([[1, 0, 0, 0]]), label, (1.0, 2.0))
    report.add("invented", "q", np.array([[1, 0, 0, 2]]), label, (1.0, 2.0))
    clean, invented = report.rows
    for metric in ("dice_mean", "jaccard_mean", "hd95_mm_mean", "asd_mm_mean", "boundary_dice"):
        assert invented[metric] == clean[metric]
    assert math.isnan(invented["dice_B"])
    assert [
        (row["missed"], row["false_alarms_A"], row["false_alarms_B"], row["false_alarms"]) for row in report.rows
    ] == [
        (0, 0, 0, 0),
        (0, 0, 1, 1),
    ]
    summary = report.write(tmp_path, "test")
    assert summary["classes"]["B"] == {"missed": 0, "false_alarms": 1, "empty_labels": 2}
    assert (summary["metrics"]["dice_A"]["cases"], summary["metrics"]["dice_B"]["cases"]) == (2, 0)
    assert faults_of(summary) == {"missed": "0 of 2", "false_alarms": "1 of 2"}
    assert faults_of(summary, "A") == {"missed": "0 of 2", "false_alarms": "0 of 0"}


@pytest.mark.parametrize("value", ["", None])
def test_an_empty_value_is_not_given(value, tmp_path):
    report = CaseReport(["A"])
    report.add("c", "p", np.array([[1]]), np.array([[1]]), (1.0, 1.0), {"scanner": value, "sex": "F"})
    report.add("d", "q", np.array([[1]]), np.array([[1]]), (1.0, 1.0), {"scanner": "None", "sex": "F"})
    groups = report.write(tmp_path, "test")["groups"]
    assert list(groups["scanner"]) == ["None", NOT_GIVEN]  # a scanner may be called so
    assert groups["scanner"][NOT_GIVEN]["cases"] == 1
    assert read_cases(tmp_path / "test.csv")[0]["group_scanner"] == ""


def test_groups_are_summed_up_apart(tmp_path):
    groups = grouped_report().write(tmp_path, "test")["groups"]
    assert list(groups) == ["scanner", "sex"]
    assert list(groups["scanner"]) == ["a", "z", "not given"]
    z = groups["scanner"]["z"]
    assert (z["cases"], z["patients"], z["missed"], z["false_alarms"], z["empty_labels"]) == (2, 2, 1, 0, 0)
    assert z["metrics"]["dice_A"]["mean"] == pytest.approx((1 + 0) / 2)
    assert groups["scanner"]["a"]["metrics"]["dice_mean"]["mean"] == pytest.approx(2 / 3)
    assert groups["scanner"]["not given"]["metrics"]["hd95_mm_A"]["mean"] == 1.0
    assert groups["sex"]["F"]["cases"] == 4


def test_group_columns_stand_beside_the_patient_and_are_empty_where_not_given(tmp_path):
    grouped_report().write(tmp_path, "test")
    head, *rows = read_csv(tmp_path / "test.csv")
    assert head[:4] == ["case", "patient", "group_scanner", "group_sex"]
    assert [row[2] for row in rows] == ["z", "a", "", "z"]
    assert read_cases(tmp_path / "test.csv")[2]["group_scanner"] == ""


def test_calibration_of_the_report_is_in_its_summary(tmp_path):
    report = small_report()
    report.calibration.add(torch.tensor([[0.0], [0.0]]), torch.tensor([1]))  # 1/2 sure, and wrong: argmax is class 0
    assert report.write(tmp_path, "test")["calibration"]["ece"] == pytest.approx(0.5)


def test_markdown_counts_the_missed_and_the_false_alarms_of_each_class(tmp_path):
    small_report().write(tmp_path, "test")
    lines = [line for line in (tmp_path / "test.md").read_text().splitlines() if line.startswith("| Dice")]
    found = [[cell.strip() for cell in line.split("|")[-3:-1]] for line in lines]
    assert found == [["1 of 3", "0 of 0"], ["0 of 2", "0 of 1"], ["1 of 5", "0 of 1"]]  # A, B, all


def test_markdown_names_the_unit_of_distances(tmp_path):
    grouped_report().write(tmp_path, "test", "pixels")
    text = (tmp_path / "test.md").read_text()
    assert "| HD95, pixels  | A " in text
    assert "| ASD, pixels " in text
    assert "mm" not in text
    assert read_json(tmp_path)["unit"] == "pixels"


def test_markdown_says_the_same_in_words_and_tables(tmp_path):
    report = grouped_report()
    report.calibration.add(torch.tensor([[0.0], [0.0]]), torch.tensor([1]))
    report.write(tmp_path, "test")
    text = (tmp_path / "test.md").read_text()
    lines = text.splitlines()
    assert lines[0] == "# Scores of test"
    says(text, "4 cases of 4 patients", "Missed: a structure of the label", "the prediction has nothing")
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert ["Metric", "Class", "Mean", "SD", "95 % interval", "Cases", "Missed", "False alarms"] in cells
    assert ["Dice", "A", "0.417", "0.500", "0.000 to 1.000", "4", "1 of 4", "0 of 0"] in cells  # (1 + 2/3 + 0 + 0) / 4
    hd95 = next(line for line in cells if line[:2] == ["HD95, mm", "A"])
    assert (hd95[2:4], hd95[5:]) == (["0.6", "0.6"], ["3", "1 of 4", "0 of 0"])  # (0 + 0.9 + 1) / 3
    assert hd95[4].startswith("0.0 to 1.")
    assert ["scanner", "a", "1", "1", "0.667", "-", "0.667", "0.9", "0 of 1", "0 of 0"] in cells
    assert [
        "Boundary Dice",
        "mean",
        "0.417",
        "0.500",
        "0.000 to 1.000",
        "4",
        "1 of 4",
        "0 of 0",
    ] in cells  # two pixels: all in the band
    assert ["A", "0.417", "0.375", "0.5", "0.4"] in cells  # as published tables count
    assert COMPAT_RULE in text
    says(text, "Expected calibration error 0.500 over 1 voxels", "foreground more than 5 %")


def hard_and_easy(folder, attributes=None):
    """Eight cases whose object, found in half, is 0.1 to 0.8 above its surroundings; the two faintest are not found."""
    report = CaseReport(["A"])
    label = np.zeros((20, 20), dtype=np.uint8)
    label[8:12, 8:12] = 1
    pred = label.copy()
    pred[:10] = 0  # Dice 2/3
    for i in range(8):
        picture = np.where(label, (i + 1) / 10, 0.0)
        picture[0, :3], picture[1, :3] = -1.0, 1.0  # the scale: 0.5 % of 400 pixels are two
        found = pred if i > 1 else np.zeros_like(pred)
        report.add(f"c{i}", f"p{i}", found, label, (1.0, 1.0), attributes, picture[None])
    return report.write(folder, "test")


def test_summary_sets_the_quarter_with_the_least_contrast_against_the_rest(tmp_path):
    groups = hard_and_easy(tmp_path)["groups"]["contrast to the surroundings"]
    assert [(name, group["cases"], group["missed"]) for name, group in groups.items()] == [
        ("lowest quartile", 2, 2),
        ("the rest", 6, 0),
    ]
    assert groups["lowest quartile"]["metrics"]["dice_mean"]["mean"] == 0
    for metric in ("dice_mean", "boundary_dice"):
        assert groups["the rest"]["metrics"][metric]["mean"] == pytest.approx(2 / 3)
    contrasts = [row["contrast"] for row in read_cases(tmp_path / "test.csv")]
    assert contrasts == pytest.approx([(i + 1) / 20 for i in range(8)], rel=1e-6)
    assert "| contrast to the surroundings | lowest quartile |" in (tmp_path / "test.md").read_text()


def test_the_quarter_with_the_least_contrast_stands_beside_attributes(tmp_path):
    groups = hard_and_easy(tmp_path, {"site": "X"})["groups"]
    assert list(groups) == ["contrast to the surroundings", "site"]


def test_a_picture_on_another_grid_names_the_case():
    with raises(ValueError, "case c", "picture (1, 2, 4)", "label (1, 4)", "one grid"):
        CaseReport(["A", "B"]).add("c", "p", LABEL, LABEL, (1.0, 1.0), picture=np.ones((1, 2, 4)))


def test_files_are_replaced_whole_and_leave_no_litter(tmp_path):
    for _ in range(2):
        small_report().write(tmp_path, "test")
    found = sorted(path.name for path in tmp_path.iterdir())
    assert found == ["test.compat.csv", "test.csv", "test.json", "test.md"]


def test_table_reads_back_as_the_rows_that_were_added(tmp_path):
    report = small_report()
    report.write(tmp_path, "test")
    np.testing.assert_equal(read_cases(tmp_path / "test.csv"), report.rows)


def test_case_names_with_commas_and_quotes_read_back(tmp_path):
    report = CaseReport(["A"])
    report.add('left, "old"', "Ångström", np.array([[1]]), np.array([[1]]), (1.0, 1.0), {"site": "a, b"})
    report.write(tmp_path, "test")
    row = read_cases(tmp_path / "test.csv")[0]
    assert (row["case"], row["patient"], row["group_site"]) == ('left, "old"', "Ångström", "a, b")


@pytest.mark.parametrize("mark", ["\r", "\n", "\r\n"])
@pytest.mark.parametrize("where", ["case", "patient", "attribute", "value"])
def test_a_line_break_that_no_row_can_hold_is_refused_by_name(mark, where):
    text = {"case": "c", "patient": "p", "attribute": "site", "value": "x"}
    text[where] += f"{mark}y"
    report = CaseReport(["A"])
    with pytest.raises(CaseTextError, match=r"^case 'c.*with a line break.*Take it out of the data list$") as caught:
        report.add(text["case"], text["patient"], LABEL, LABEL, (1.0, 1.0), {text["attribute"]: text["value"]})
    assert repr(mark)[1:-1] in str(caught.value)
    assert len(report) == 0


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
    # Of two groups with 0 and 1 the mean is 0, 1/2 or 1 with probabilities 1/4, 1/2, 1/4: 1/2 +- 1/2, widened.
    factor = math.sqrt(2) * 12.7062 / 1.95996  # t of one degree of freedom, from tables
    assert bootstrap_interval([0.0, 1.0], ["a", "b"]) == pytest.approx(
        (0.5 - 0.5 * factor, 0.5 + 0.5 * factor), rel=1e-5
    )
    assert bootstrap_interval([0.0, 1.0], ["a", "b"], level=0.4) == (0.5, 0.5)


def test_bootstrap_means_are_over_cases_not_over_patients():
    # a twice 0, b once 3: the middle resampling holds both, (0 + 0 + 3) / 3 = 1; of patients' means it would be 3/2.
    assert bootstrap_interval([0.0, 0.0, 3.0], ["a", "a", "b"], level=0.4) == (1.0, 1.0)


def test_bootstrap_is_the_same_for_the_same_seed_and_another_for_another():
    values, groups = np.random.default_rng(0).normal(size=30), list(range(30))
    first = bootstrap_interval(values, groups, seed=1)
    assert first == bootstrap_interval(values, groups, seed=1)
    assert first != bootstrap_interval(values, groups, seed=2)


@pytest.mark.parametrize(
    "patients", [6, pytest.param(10, marks=pytest.mark.slow), pytest.param(40, marks=pytest.mark.slow)]
)
def test_bootstrap_covers_the_true_mean_about_95_times_in_100(patients):
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(4000):
        low, high = bootstrap_interval(random.normal(5.0, 2.0, size=patients), range(patients), draws=1000)
        hits += low <= 5.0 <= high
    assert 0.93 <= hits / 4000 <= 0.96  # three standard errors are 0.01


@pytest.mark.parametrize(("patients", "t"), [(6, 2.5706), (10, 2.2622)])  # from tables, at 0.975
def test_interval_of_few_patients_is_widened_about_the_mean_over_cases(patients, t):
    random = np.random.default_rng(0)
    groups = [g for g in range(patients) for _ in range(1 + g % 3)]
    values = random.exponential(size=len(groups))
    sums, sizes = np.bincount(groups, weights=values), np.bincount(groups)
    drawn = np.random.default_rng(0).integers(patients, size=(10000, patients))
    plain = np.quantile(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1), [0.025, 0.975])
    factor = math.sqrt(patients / (patients - 1)) * t / 1.95996
    expected = values.mean() + factor * (plain - values.mean())
    assert bootstrap_interval(values, groups) == pytest.approx(expected, rel=1e-4)


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
    monkeypatch.setattr("custom.evaluation.bootstrap._INDICES_AT_ONCE", 1000)  # ten draws at once
    low, high = bootstrap_interval(values, range(100), draws=1005)
    assert low < values.mean() < high


def test_bootstrap_refuses_what_it_cannot_use():
    with pytest.raises(ValueError, match="one group a value is needed, got 1 groups and values"):
        bootstrap_interval([1.0, 2.0], ["a"])
    with raises(ValueError, "level", "in (0, 1)", "draws", "at least 1", "got 95 and 10000"):
        bootstrap_interval([1.0, 2.0], ["a", "b"], level=95)
