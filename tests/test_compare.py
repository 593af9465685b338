import math
from pathlib import Path

import pytest
from saying import raises, says

from custom.evaluation.case_table import read_cases
from custom.evaluation.compare import Difference, comparison, model_table, paired_difference, verdict
from custom.report.__main__ import main

ROOT = Path(__file__).parents[1]


def rows(dices, patients=None, distances=None, missed=0, false_alarms=0):
    """One class A; case i is c<i>, of patient p<i> unless given. A case without a Dice has no A in its label."""
    patients = patients or [f"p{i}" for i in range(len(dices))]
    distances = distances or [1.0] * len(dices)
    return [
        {"case": f"c{i}", "patient": p, "group_sex": "F", "dice_A": d, "dice_mean": d, "hd95_mm_A": h, "hd95_mm_mean": h,
         "asd_mm_mean": h / 2, "missed_A": missed, "missed": missed, "false_alarms_A": false_alarms,
         "false_alarms": false_alarms}
        for i, (d, p, h) in enumerate(zip(dices, patients, distances, strict=True))
    ]  # fmt: skip


def write_csv(path, table_rows):
    lines = [",".join(table_rows[0])] + [",".join(str(cell) for cell in row.values()) for row in table_rows]
    path.write_text("\n".join(lines).replace("nan", "") + "\n")
    return path


@pytest.mark.parametrize(
    ("mean", "low", "high", "patients", "sentence"),
    [
        (0.021, 0.008, 0.034, 60,
         "B is better than A by 2.1 Dice points (95 % interval 0.8 to 3.4, 60 patients)."),
        (0.003, -0.009, 0.014, 60,
         "No evidence either way: the difference is 0.3 Dice points (95 % interval -0.9 to 1.4, 60 patients)."),
        (-0.012, -0.021, -0.003, 60,
         "B is worse than A by 1.2 Dice points (95 % interval 0.3 to 2.1, 60 patients)."),
        (-0.004, -0.010, 0.002, 20,
         "No evidence either way: the difference is -0.4 Dice points (95 % interval -1.0 to 0.2, 20 patients)."),
        (0.010, 0.0, 0.020, 20,  # touches 0
         "No evidence either way: the difference is 1.0 Dice points (95 % interval 0.0 to 2.0, 20 patients)."),
        (0.010, 0.0004, 0.020, 20,  # touches 0 as it is printed
         "No evidence either way: the difference is 1.0 Dice points (95 % interval 0.0 to 2.0, 20 patients)."),
        (-0.010, -0.020, -0.0004, 20,
         "No evidence either way: the difference is -1.0 Dice points (95 % interval -2.0 to 0.0, 20 patients)."),
        (0.021, 0.008, 0.034, 6,  # all of six the same sign: p = 2 / 2^6 = 0.031
         "B is better than A by 2.1 Dice points (95 % interval 0.8 to 3.4, 6 patients)."),
        (0.021, 0.008, 0.034, 5,  # all of five: 2 / 2^5 = 0.062
         "No evidence either way: the difference is 2.1 Dice points (95 % interval 0.8 to 3.4, 5 patients: too few "
         "patients to tell)."),
        (-0.021, -0.034, -0.008, 5,
         "No evidence either way: the difference is -2.1 Dice points (95 % interval -3.4 to -0.8, 5 patients: too few "
         "patients to tell)."),
        (0.100, math.nan, math.nan, 1,
         "No evidence either way: the difference is 10.0 Dice points (no interval, 1 patient: too few patients to "
         "tell)."),
    ],
)  # fmt: skip
def test_verdict_is_one_of_three_sentences(mean, low, high, patients, sentence):
    assert verdict(Difference(mean, low, high, 2 * patients, patients), ("A", "B")) == sentence


def test_where_nothing_else_differs_the_unlabelled_scans_are_named():
    for mean, low, high, word in ((0.1, 0.05, 0.15, "helped"), (-0.1, -0.15, -0.05, "harmed")):
        text = verdict(Difference(mean, low, high, 20, 20), ("A", "B"), unlabelled=True)
        assert text.endswith(f", 20 patients). The runs differ in the unlabelled scans alone: these {word}.")
    even = verdict(Difference(0.1, -0.05, 0.15, 20, 20), ("A", "B"), unlabelled=True)
    assert "unlabelled" not in even


def test_verdict_is_of_dice_only():
    with pytest.raises(ValueError, match="the verdict is in Dice points, this difference is of hd95_mm_A"):
        verdict(Difference(-1.0, -2.0, -0.5, 10, 10, metric="hd95_mm_A"), ("A", "B"))


def test_difference_is_ours_minus_the_baseline_paired_by_name():
    baseline = rows([0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
    ours = list(reversed(rows([0.5, 0.6, 0.7, 0.8, 0.9, 1.0])))  # each 0.1 better, in another order
    difference = paired_difference(ours, baseline)
    assert (difference.mean, difference.low, difference.high) == pytest.approx((0.1, 0.1, 0.1))
    assert (difference.cases, difference.patients) == (6, 6)
    assert verdict(difference, ("A", "B")).startswith("B is better than A by 10.0 Dice points")
    assert verdict(paired_difference(baseline, ours), ("A", "B")).startswith("B is worse than A by 10.0 Dice points")


def test_interval_is_over_patients_not_over_cases():
    dices, patients = [0.5] * 4 + [0.9] * 4, ["p"] * 4 + ["q"] * 4
    difference = paired_difference(rows(dices, patients), rows([0.5] * 8, patients))
    assert (difference.cases, difference.patients) == (8, 2)
    widened = 0.2 * math.sqrt(2) * 12.7062 / 1.95996  # (p, p) and (q, q), 1/4 of the draws each: 0.2 -+ 0.2
    assert (difference.low, difference.high) == pytest.approx((0.2 - widened, 0.2 + widened), rel=1e-4)


def test_p_is_of_the_patients_signed_ranks_in_closed_form():
    # Six patients, all better: of the 2^6 patterns of signs only this one and its opposite are as far out.
    assert paired_difference(rows([0.6, 0.7, 0.8, 0.9, 0.7, 0.8]), rows([0.5] * 6)).p == pytest.approx(2 / 2**6)
    # Differences 1, 2, 3 and -4 points: ranks 1 + 2 + 3 = 6 against 4, of 10 the sums 4, 5, 6 leave 14 of 16 further in
    ours = rows([0.51, 0.52, 0.53, 0.46])
    assert paired_difference(ours, rows([0.5] * 4)).p == pytest.approx(14 / 16)


def test_p_counts_a_patient_once_and_leaves_out_those_without_a_difference():
    dices, patients = [0.6, 0.6, 0.7, 0.5, 0.6, 0.4], ["p", "p", "q", "r", "s", "s"]  # r: no difference; s: +0.1 - 0.1
    assert paired_difference(rows(dices, patients), rows([0.5] * 6, patients)).p == pytest.approx(2 / 2**2)
    assert math.isnan(paired_difference(rows([0.5] * 3), rows([0.5] * 3)).p)


def test_p_is_of_the_mean_of_each_patient():
    # Patients of 1, 2 and 3 cases: means -3, +1, +2 points. Ranks 1 + 2 against 3: no pattern of signs is further in.
    # Sums (-3, +2, +6) would leave 4 against 2, p = 6/8; first cases (-3, +4, +5) 5 against 1, p = 4/8.
    points, patients = [-3, 4, -2, 5, 3, -2], ["p", "q", "q", "r", "r", "r"]
    ours = rows([0.5 + point / 100 for point in points], patients)
    assert paired_difference(ours, rows([0.5] * 6, patients)).p == pytest.approx(1.0)


def test_cases_without_a_number_in_both_are_left_out_and_named():
    difference = paired_difference(rows([0.6, math.nan, 0.8]), rows([0.5, math.nan, 0.7]))
    assert (difference.mean, difference.cases, difference.patients) == (pytest.approx(0.1), 2, 2)
    assert difference.dropped == ("c1",)


def test_a_dice_in_one_table_alone_is_refused():
    with raises(ValueError, "dice_mean", "only one of the two tables", "c1, c2:", "not scored"):
        paired_difference(rows([0.6, math.nan, 0.0]), rows([0.5, 0.0, math.nan]))


def test_other_labels_are_refused_and_named():
    """A label that was corrected between two evaluations gave a verdict: a network was better than itself."""
    old, new = ([{**row, "label_sha256": f"{kind}{i // 2}"} for i, row in enumerate(rows([0.5] * 4))] for kind in "ab")
    found = ("labels", "two tables", "c2, c3:", "Evaluate both again", "on the same list")
    with raises(ValueError, *found):
        paired_difference([*old[:2], *new[2:]], old)
    with raises(ValueError, *found):
        comparison(old, [*old[:2], *new[2:]], ["A", "B"], "hd95_mm_mean")
    assert paired_difference(old, old).mean == 0
    for absent in (rows([0.4] * 4), [{**row, "label_sha256": ""} for row in old]):
        assert paired_difference(absent, new).cases == paired_difference(new, absent).cases == 4, "an earlier version"
    fewer = [{**row, "dice_B": 0.5} for row in new]
    assert paired_difference(old, fewer, "dice_A").cases == 4, "of a task with other classes"


def test_a_distance_that_one_lacks_is_left_out():
    ours, baseline = rows([0.5] * 2, distances=[3.0, math.nan]), rows([0.5] * 2, distances=[4.0, 7.0])
    difference = paired_difference(ours, baseline, "hd95_mm_A")
    assert (difference.mean, difference.dropped) == (-1.0, ("c1",))


def test_another_metric_can_be_compared():
    ours, baseline = rows([0.5] * 2, distances=[3.0, 5.0]), rows([0.5] * 2, distances=[4.0, 7.0])
    difference = paired_difference(ours, baseline, metric="hd95_mm_A")
    assert (difference.mean, difference.metric) == (-1.5, "hd95_mm_A")


def test_different_cases_are_refused_by_name():
    with pytest.raises(ValueError, match="different cases: only ours has c2; only the baseline has c9"):
        paired_difference(rows([0.5] * 3), [*rows([0.5] * 2), {**rows([0.5])[0], "case": "c9"}])


def test_many_different_cases_are_counted_after_the_first_ten():
    with raises(ValueError, "only the baseline has", "c1, c10, c11, c2, c3, c4, c5, c6, c7, c8 and 1 more"):
        paired_difference(rows([0.5]), rows([0.5] * 12))


def test_a_case_of_two_patients_is_refused():
    with pytest.raises(ValueError, match="different patients to c1"):
        paired_difference(rows([0.5, 0.5], ["p", "q"]), rows([0.5, 0.5], ["p", "r"]))


def test_a_case_twice_is_refused():
    with pytest.raises(ValueError, match="ours: twice in the table: c0"):
        paired_difference(rows([0.5]) * 2, rows([0.5]))


def test_an_unknown_metric_is_refused():
    with pytest.raises(
        ValueError, match=r"ours: no column dice_B, the table has dice_A, dice_mean, hd95_mm_A, .*asd_mm_mean$"
    ):
        paired_difference(rows([0.5]), rows([0.5]), metric="dice_B")


def test_nothing_to_compare_is_refused():
    with pytest.raises(ValueError, match="no case has a dice_mean in both tables"):
        paired_difference(rows([math.nan]), rows([math.nan]))


def test_table_in_closed_form():
    results = {
        "supervised": rows([0.5, 0.7, math.nan], distances=[4.0, math.nan, math.nan], missed=1),
        "mean teacher": rows([0.8, 0.4, math.nan], distances=[3.0, 6.0, math.nan], false_alarms=1),
    }
    assert model_table(results, ["A"]) == "\n".join(
        [
            "| Model        | Dice A | Dice mean | HD95, mm | ASD, mm | Missed | False alarms | Cases |",
            "| ------------ | -----: | --------: | -------: | ------: | -----: | -----------: | ----: |",
            "| supervised   |   60.0 |      60.0 |      4.0 |     2.0 | 3 of 2 |       0 of 1 |     3 |",
            "| mean teacher |   60.0 |      60.0 |      3.0 |     1.5 | 0 of 2 |       3 of 1 |     3 |",
        ]
    )


def test_means_of_the_table_differ_by_the_difference_in_the_sentence_of_every_measure():
    baseline, ours = rows([0.5, 0.7], distances=[4.0, math.nan]), rows([0.8, 0.4], distances=[3.0, 9.0])
    lines = [
        [c.strip() for c in line.split("|")] for line in model_table({"a": baseline, "b": ours}, ["A"]).splitlines()
    ]
    for column, metric, scale in ((3, "dice_mean", 100), (4, "hd95_mm_mean", 1), (5, "asd_mm_mean", 1)):
        found = float(lines[3][column]) - float(lines[2][column])
        assert found == pytest.approx(scale * paired_difference(ours, baseline, metric).mean)


def test_table_names_the_unit_of_its_distances():
    assert "| HD95, pixels | ASD, pixels |" in model_table({"model": rows([0.5])}, ["A"], "pixels")


def test_table_refuses_models_of_other_cases():
    with pytest.raises(ValueError, match="different cases: only ours has c1"):
        model_table({"a": rows([0.5]), "b": rows([0.5, 0.6])}, ["A"])


def test_table_takes_the_distance_of_a_case_from_its_mean():
    # Case c0 has two classes (2 and 4 mm: 3), case c1 one (9 mm): 6 over cases, not (2 + 4 + 9) / 3 = 5 over all.
    distances = [(2.0, 4.0, 3.0), (9.0, math.nan, 9.0)]
    table_rows = [
        {
            **row,
            "dice_B": 0.5,
            "missed_B": 0,
            "false_alarms_B": 0,
            "hd95_mm_A": a,
            "hd95_mm_B": b,
            "hd95_mm_mean": mean,
            "asd_mm_mean": mean / 3,
        }
        for row, (a, b, mean) in zip(rows([0.5] * 2), distances, strict=True)
    ]
    cells = [cell.strip() for cell in model_table({"model": table_rows}, ["A", "B"]).splitlines()[2].split("|")]
    assert cells[5:7] == ["6.0", "2.0"]


def test_table_refuses_a_class_that_a_model_lacks():
    with pytest.raises(ValueError, match="mean teacher: no column dice_B"):
        model_table({"mean teacher": rows([0.5])}, ["B"])


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("case,patient\n", "is not a table of cases: it lacks the columns dice_mean, missed, false_alarms"),
        ("", "is not a table of cases: it lacks the columns case, patient, dice_mean, missed, false_alarms"),
        ("case,patient,dice_mean,dice_A,missed,false_alarms\n", "it lacks the columns missed_A, false_alarms_A"),
        ("case,patient,dice_mean,missed,false_alarms\n", "holds no case"),
        ("case,patient,dice_mean,missed,false_alarms\na,p,good,0,0\n", "line 2: dice_mean is 'good', not a number"),
        ("case,patient,dice_mean,missed,false_alarms\na,p,0.5,0\n", "line 2: the number of cells differs"),
        ("case,patient,dice_mean,missed,false_alarms\na,p,0.5,,0\n", "line 2: missed is '', not a count"),
        ("case,patient,dice_mean,missed,false_alarms\na,p,0.5,0,1.5\n", "line 2: false_alarms is '1.5', not a count"),
        ("case,patient,dice_mean,failures\na,p,0.5,-1\n", "line 2: failures is '-1', not a count"),
        ("case,patient,dice_mean,missed,false_alarms\na,p,0.5,0,0\na,p,0.6,0,0\n", "twice in the table: a"),
    ],
)
def test_a_file_that_is_no_table_of_cases_is_refused(tmp_path, text, fault):
    path = tmp_path / "cases.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=fault) as caught:
        read_cases(path)
    assert str(path) in str(caught.value)


def test_command_prints_table_difference_sentence_and_what_it_does_not_judge(tmp_path, capsys):
    baseline = write_csv(tmp_path / "baseline.csv", rows([0.5] * 6, distances=[2.0] * 6))
    ours = write_csv(tmp_path / "ours.csv", rows([0.51, 0.52, 0.53, 0.51, 0.52, 0.53], distances=[3.0] * 6))
    main([str(baseline), str(ours)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| Model ")
    says(lines[-5], "the second minus the first", "6 cases: +2.0 Dice points (95 % interval", "6 patients", "p = 0.031")
    says(lines[-4], "the second is better than the first", "2.0 Dice points (95 % interval 1.", "6 patients")
    says(lines[-3], "by Dice alone", "6 of 6 cases", "the structure (A)")
    none = "missed 0 of 6, false alarms 0 of 0"
    says(lines[-2], f"the first: {none}", f"the second: {none}")
    hd95 = "HD95 +1.00 mm (95 % interval 1.00 to 1.00, p = 0.031, 6 cases)"
    asd = "ASD +0.50 mm (95 % interval 0.50 to 0.50, p = 0.031, 6 cases)"
    says(lines[-1], "Not judged", "the second minus the first", hd95, asd)


def lesions_and_normals(missed, false_alarms, dice):
    """44 cases with A, of which so many are missed, and 16 without it."""
    return [
        {**row, "case": f"c{i}", "patient": f"p{i}"}
        for i, row in enumerate([
            *rows([dice] * (44 - missed)), *rows([0.0] * missed, distances=[math.nan] * missed, missed=1),
            *rows([math.nan] * false_alarms, distances=[math.nan] * false_alarms, false_alarms=1),
            *rows([math.nan] * (16 - false_alarms), distances=[math.nan] * (16 - false_alarms)),
        ])
    ]  # fmt: skip


def test_missed_structures_and_false_alarms_are_named_beside_a_dice_that_false_alarms_do_not_move():
    baseline, ours = lesions_and_normals(7, 6, 0.7), lesions_and_normals(3, 9, 0.7)
    difference = paired_difference(ours, baseline)
    assert (difference.cases, difference.mean) == (44, pytest.approx(4 * 0.7 / 44))
    table, text = model_table({"a": baseline, "b": ours}, ["A"]).splitlines(), comparison(baseline, ours, ("a", "B c"))
    assert [line.split("|")[-4:-1] for line in table[2:]] == [
        [" 7 of 44 ", "      6 of 16 ", "    60 "],
        [" 3 of 44 ", "      9 of 16 ", "    60 "],
    ]
    says(text, "by Dice alone", "44 of 60 cases", "the structure (A)")
    says(text, "a: missed 7 of 44, false alarms 6 of 16", "B c: missed 3 of 44, false alarms 9 of 16")
    assert "Left out, whose label lacks the structure: c44" in text


def test_missed_structures_and_false_alarms_of_several_classes_are_named_by_class():
    two = [
        {**row, "dice_B": math.nan, "missed_B": 0, "false_alarms_B": 1, "false_alarms": 1} for row in rows([0.5] * 2)
    ]
    lines = comparison(two, two, ("a", "b")).splitlines()
    says("\n".join(lines), "by Dice alone", "2 of 2 cases", "a structure")
    both, of_a, of_b = (line for line in lines if "a: missed" in line)
    for line, counts in ((both, "missed 0 of 2, false alarms 2 of 2"), (of_a, "missed 0 of 2, false alarms 0 of 0"),
                         (of_b, "missed 0 of 0, false alarms 2 of 2")):  # fmt: skip
        says(line, f"a: {counts}", f"b: {counts}")
    assert (of_a[:2], of_b[:2]) == ("A,", "B,")


def test_command_says_which_cases_were_left_out(tmp_path, capsys):
    baseline, ours = rows([0.5, 0.5, math.nan]), rows([0.5, 0.5, math.nan])
    main([str(write_csv(tmp_path / "a.csv", baseline)), str(write_csv(tmp_path / "b.csv", ours))])
    printed = capsys.readouterr().out
    says(printed, "+0.0 Dice points (95 % interval 0.0 to 0.0, 2 patients", "too few patients", "no patient")
    assert "Left out, whose label lacks the structure: c2." in printed


def test_command_names_the_unit_of_distances_and_refuses_two(tmp_path, capsys):
    paths = [str(write_csv(tmp_path / f"{name}.csv", rows([0.5] * 6))) for name in "ab"]
    (tmp_path / "a.json").write_text('{"unit": "pixels"}')
    with pytest.raises(SystemExit):
        main(paths)
    assert f"distances have different units ({paths[0]}: pixels, {paths[1]}: mm)" in capsys.readouterr().err
    (tmp_path / "b.json").write_text('{"unit": "pixels"}')
    main(paths)
    printed = capsys.readouterr().out
    assert "| HD95, pixels | ASD, pixels |" in printed
    assert "HD95 +0.00 pixels (95 % interval 0.00 to 0.00, no patient differs, 6 cases)" in printed


def test_command_refuses_different_cases_in_one_sentence(tmp_path, capsys):
    paths = [str(write_csv(tmp_path / f"{n}.csv", rows([0.5] * n))) for n in (2, 3)]
    with pytest.raises(SystemExit) as caught:
        main(paths)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("the two tables hold different cases: only ours has c2.")


def test_command_compares_another_metric_in_its_own_unit(tmp_path, capsys):
    tables = []
    for gain in (0.0, 0.25):
        table_rows = [{**row, "boundary_dice": 0.5 + gain} for row in rows([0.5] * 6)]
        tables.append(str(write_csv(tmp_path / f"{gain}.csv", table_rows)))
    main([*tables, "--metric", "boundary_dice"])
    *_, last = capsys.readouterr().out.strip().splitlines()
    gain = "boundary Dice +25.0 points (95 % interval 25.0 to 25.0, 6 patients)"
    says(last, "the second minus the first", "6 cases", gain, "p = 0.031")  # and no verdict, which is in Dice points


@pytest.mark.parametrize("unit", ["mm", "pixels"])
@pytest.mark.parametrize(("metric", "named", "gain"), [
    ("hd95_mm_mean", "HD95 +1.00 {unit} (95 % interval 1.00 to 1.00", 1.0),
    ("hd95_mm_A", "HD95, A +1.00 {unit} (95 % interval 1.00 to 1.00", 1.0),
    ("asd_mm_mean", "ASD +0.50 {unit} (95 % interval 0.50 to 0.50", 0.5),
    ("jaccard_mean", "Jaccard +0.125 (95 % interval 0.125 to 0.125", 0.125),
    ("contrast", "contrast +0.125 (95 % interval 0.125 to 0.125", 0.125),
])  # fmt: skip
def test_command_names_a_measure_and_its_unit_as_the_pages_do(tmp_path, capsys, unit, metric, named, gain):
    tables = []
    for name, more in (("a", 0.0), ("b", gain)):
        table_rows = [{**row, metric: 2.0 + more} for row in rows([0.5] * 6)]
        tables.append(str(write_csv(tmp_path / f"{name}.csv", table_rows)))
        (tmp_path / f"{name}.json").write_text(f'{{"unit": "{unit}"}}')
    main([*tables, "--metric", metric])
    *_, last = capsys.readouterr().out.strip().splitlines()
    assert last.startswith(f"the second minus the first, paired over 6 cases: {named.format(unit=unit)}, 6 patients); ")


def test_command_names_a_class_whose_dice_it_compares(tmp_path, capsys):
    tables = [str(write_csv(tmp_path / f"{d}.csv", rows([d] * 6))) for d in (0.5, 0.6)]
    main([*tables, "--metric", "dice_A"])
    printed = capsys.readouterr().out
    assert "+10.0 Dice points of A (95 % interval 10.0 to 10.0, 6 patients)" in printed
    says(printed, "\nthe second is better than the first", "10.0 Dice points (95 % interval 10.0 to 10.0, 6 patients)")


def test_command_names_the_columns_there_are(tmp_path, capsys):
    path = str(write_csv(tmp_path / "a.csv", rows([0.5] * 3)))
    with pytest.raises(SystemExit):
        main([path, path, "--metric", "dice_B"])
    assert "ours: no column dice_B, the table has dice_A, dice_mean, hd95_mm_A" in capsys.readouterr().err
