"""The page that compares two evaluated runs, case by case."""

import csv
import re

import numpy as np
import pytest
from report_fixtures import ABSENT, INVENTED, Page, assert_golden, change, compared, evaluate, write_two
from saying import raises, says

from custom.report import ReportError, charts, compare_report
from custom.report.__main__ import main


@pytest.fixture
def two(tmp_path):
    return write_two(tmp_path)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The page of :func:`write_two`."""
    root = tmp_path_factory.mktemp("two")
    return compared(write_two(root), root)


def test_page_of_two_runs_is_the_golden_one(pair):
    assert_golden(pair.source, "pair")


def test_differences_of_the_page_in_closed_form(pair):
    assert "No evidence either way: the difference is 10.0 Dice points (95 % interval" in pair.text
    rows = {row[0]: row for row in pair.rows("Means over the cases")[2:]}
    assert rows["Dice, mean (difference in points)"][1:4] == ["0.620", "0.720", "+10.0"]  # (10 + 20 + 30 + 40 - 50) / 5
    rows = {row[0]: row[1] for row in pair.rows("Difference of mean Dice by scanner")[2:]}
    assert rows == {"x": "+20.0", "y": "-5.0"}


def test_cases_of_two_come_from_the_largest_loss_on_and_those_without_a_difference_last(pair):
    rows = pair.rows("6 cases, the largest loss first")[2:]
    assert [row[0] for row in rows] == ["c4", "c0", "c1", "c2", "c3", "c5"]
    assert [row[5] for row in rows] == ["-50.0", "+10.0", "+20.0", "+30.0", "+40.0", "\N{EN DASH}"]
    shown = [h for h in pair.headings if "Dice points" in h]
    assert [h.split(",")[0] for h in shown] == ["Largest loss: c4", "Median: c1", "Largest gain: c3"]


@pytest.mark.usefixtures("undrawn")
def test_slices_that_differ_are_not_set_side_by_side(two, tmp_path):
    slices = dict(np.load(two[0].with_suffix(".slices.npz")))
    slices["image_4"] = 255 - slices["image_4"]
    np.savez_compressed(two[0].with_suffix(".slices.npz"), **slices)
    page = compared(two, tmp_path)
    assert "The two evaluations kept different slices of this case." in page.text
    assert sum(tag == "img" for tag, _ in page.tags) == 2 * 4


def test_what_one_invents_counts_as_a_false_alarm_and_moves_no_difference(tmp_path):
    a = evaluate(tmp_path / "a", {"c0": (1, 1), "c1": (INVENTED, INVENTED)})
    b = evaluate(tmp_path / "b", {"c0": (1, 1), "c1": (ABSENT, ABSENT)})
    page = compared((a, b), tmp_path)
    assert "Left out, whose label has no structure: c1." in page.text
    rows = {row[0]: row for row in page.rows("Means over the cases")[2:]}
    assert rows["Dice, mean (difference in points)"][3:6] == ["0.0", "\N{EN DASH}", "1"]
    assert rows["false alarms"][1:4] == ["2 of 2", "0 of 2", "-2"]
    assert rows["false alarms, A"][1:4] == ["1 of 1", "0 of 1", "-1"]
    assert rows["missed"][1:4] == ["0 of 2", "0 of 2", "0"]
    says(page.text, "sup: missed 0 of 2, false alarms 2 of 2", "semi: missed 0 of 2, false alarms 0 of 2")
    body = {row[0]: row for row in page.rows("2 cases, the largest loss first")[2:]}
    assert body["c1"][-4:] == ["0", "0", "2", "0"]
    assert page.source.count('<tr class="bad">') == 1


@pytest.mark.usefixtures("undrawn")
def test_means_of_two_are_over_the_cases_that_have_a_number_in_both(tmp_path):
    a = evaluate(tmp_path / "a", {"c0": (1, 1), "c1": (1, 1)})
    b = evaluate(tmp_path / "b", {"c0": (2, 2), "c1": (None, 2)})
    rows = {row[0]: row for row in compared((a, b), tmp_path).rows("Means over the cases")[2:]}
    assert rows["HD95, A, mm"][1:4] == ["2.0", "4.0", "+2.0"]
    assert rows["HD95, A, mm"][5] == "1"  # case
    assert (rows["HD95, B, mm"][1:4], rows["HD95, B, mm"][5]) == (["2.0", "4.0", "+2.0"], "2")
    assert rows["HD95, mm"][5] == rows["ASD, mm"][5] == "1"
    assert rows["Dice, A (difference in points)"][2] == "0.400"
    assert rows["Dice, B (difference in points)"][1:4] == ["0.900", "0.800", "-10.0"]
    assert rows["missed"][1:4] == ["0 of 4", "1 of 4", "+1"]
    assert rows["missed, A"][1:4] == ["0 of 2", "1 of 2", "+1"]
    assert rows["missed, B"][1:4] == ["0 of 2", "0 of 2", "0"]


@pytest.mark.usefixtures("undrawn")
def test_the_headline_of_two_says_that_it_judges_dice_alone(two, tmp_path):
    text = compared(two, tmp_path).text
    says(text, "by Dice alone", "5 of 6 cases whose label has a structure")
    assert "Not judged, semi minus sup: boundary Dice +10.0 points (95 % interval" in text
    assert "; HD95 -2.00 mm (95 % interval" in text


@pytest.mark.usefixtures("undrawn")
def test_distances_in_two_units_are_refused(two, tmp_path):
    change(two[1].parent, unit="pixels")
    with raises(ReportError, "distances", "sup are in mm", "semi in pixels", "Score both on the same files"):
        compared(two, tmp_path)


def test_equal_cases_are_neither_gains_nor_losses():
    svg = charts.scatter([0.5, 0.5, 0.5], [0.6, 0.4, 0.5], ("a", "b"), "alt")
    assert re.findall(r"<use [^>]*fill: ([^;]*);[^>]*fill-opacity", svg) == ["var(--blue)", "#d55e00", "#888888"]


@pytest.mark.usefixtures("undrawn")
def test_a_group_without_a_dice_in_both_is_left_out(two, tmp_path):
    for path in two:
        path.write_text(path.read_text(encoding="utf-8").replace("c5,p5,y,", "c5,p5,z,"))
    rows = {row[0]: row for row in compared(two, tmp_path).rows("Difference of mean Dice by scanner")[2:]}
    assert list(rows) == ["x", "y"]


def test_order_of_the_second_table_does_not_matter(two, tmp_path):
    page = compared(two, tmp_path).source
    head, *rows = two[1].read_text(encoding="utf-8").splitlines()
    two[1].write_text("\n".join([head, *reversed(rows)]) + "\n")
    assert compared(two, tmp_path).source == page


def test_one_case_without_pictures_or_distances_is_compared(tmp_path):
    a, b = (evaluate(tmp_path / n, {"c": (None,)}, ["A"], pictures=False) for n in "ab")
    page = Page(compare_report(a, b, ("a", "b"), tmp_path / "page.html"))
    rows = {row[0]: row for row in page.rows("Means over the cases")[2:]}
    assert rows["HD95, mm"][1:] == ["\N{EN DASH}"] * 7
    assert rows["missed"][1:4] == ["1 of 1", "1 of 1", "0"]
    assert "(no interval, 1 patient: too few patients to tell)" in page.text
    assert "Largest loss, median, largest gain" not in page.headings


@pytest.mark.usefixtures("undrawn")
def test_networks_that_cannot_be_compared_are_refused(two, tmp_path):
    with pytest.raises(ReportError, match="both networks are called 'a': give two different names"):
        compared(two, tmp_path, ("a", "a"))
    other = evaluate(tmp_path / "other", {"c0": (1, 1)}, ["A", "C"])
    with raises(ReportError, "sup has the classes A, B,", "semi has A, C.", "networks of one task"):
        compared((two[0], other), tmp_path)
    fewer = evaluate(tmp_path / "fewer", {"c0": (1, 1)})
    with pytest.raises(ValueError, match="the two tables hold different cases"):
        compared((two[0], fewer), tmp_path)


def give_contrast(csv_path, values):
    """Writes the contrast of each case into its table, as an evaluation with pictures does."""
    with csv_path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    with csv_path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, "contrast": value} for row, value in zip(rows, values, strict=True))


@pytest.mark.usefixtures("undrawn")
def test_two_networks_are_compared_on_the_quarter_of_the_cases_with_the_least_contrast(tmp_path):
    shifts = {"a": [5] * 8, "b": [4, 4, 1, 4, 4, 4, 1, 4]}
    paths = [evaluate(tmp_path / n, {f"c{i}": (shift, shift) for i, shift in enumerate(shifts[n])}) for n in shifts]
    for path in paths:
        give_contrast(path, [0.5, 0.6, 0.1, 0.7, 0.8, 0.4, 0.2, 0.9])
    rows = Page(compare_report(*paths, ("a", "b"), tmp_path / "page.html")).rows(
        "Difference of mean Dice by contrast to the surroundings"
    )
    assert [(row[0], row[1], row[3]) for row in rows[2:]] == [
        ("lowest quartile", "+40.0", "2"),
        ("the rest", "+10.0", "6"),
    ]


@pytest.mark.usefixtures("undrawn")
def test_boundary_dice_of_two_networks_is_compared_in_points(tmp_path):
    paths = [evaluate(tmp_path / n, {f"c{i}": (shift, shift) for i in range(6)}) for n, shift in (("a", 2), ("b", 0))]
    rows = Page(compare_report(*paths, ("a", "b"), tmp_path / "page.html")).rows("Means over the cases")
    (found,) = [row for row in rows if row[0] == "boundary Dice (difference in points)"]
    assert found[1:4] == ["0.800", "1.000", "+20.0"]  # lines of ten voxels that are all within the band


def as_a_run(csv_path, term):
    """Lays the table of cases into a run whose unlabelled term is so large; the supervised one is 1."""
    run = csv_path.parent / "run"
    folder = run / "evaluation" / "test"
    folder.mkdir(parents=True)
    for path in csv_path.parent.glob(f"{csv_path.stem}.*"):
        path.rename(folder / path.name)
    (run / "metrics.csv").write_text(
        "epoch,term/supervised,weight/supervised,term/consistency,weight/consistency,watch/teacher_foreground\n"
        f"1,1.0,1.0,,0.0,\n2,1.0,1.0,{term},1.0,0.0\n"
    )
    (run / "bundle").mkdir()
    (run / "bundle" / "run.json").write_text('{"terms that read unlabelled scans": ["consistency"]}')
    return folder / csv_path.name


@pytest.mark.usefixtures("undrawn")
def test_the_verdict_says_that_the_unlabelled_scans_hardly_took_part(two, tmp_path, capsys):
    paths = two[0], as_a_run(two[1], 0.004)
    text = compared(paths, tmp_path).text
    main([str(path) for path in paths] + ["--names", "sup", "semi"])
    terms, teacher = said = capsys.readouterr().out.splitlines()[-2:]
    assert all(sentence in text for sentence in said)
    says(terms, "semi", "(consistency)", "0.4 % of the loss", "(2 to 2)", "Raise", "weights::consistency")
    found = (
        "semi: The teacher was empty in 1 of 1 epochs",
        "(teacher_foreground below 1e-05 of the unlabelled voxels)",
    )
    says(teacher, *found, "later (`from`)", "longer", "label more")


@pytest.mark.usefixtures("undrawn")
def test_the_verdict_is_silent_of_a_run_without_its_files(two, tmp_path):
    path = as_a_run(two[1], 0.004)
    (path.parents[2] / "bundle" / "run.json").unlink()
    assert "unlabelled" not in compared((two[0], path), tmp_path).text.partition("Both networks")[0]
