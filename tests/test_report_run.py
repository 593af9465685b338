"""The page of one evaluated run."""

import base64
import io

import numpy as np
import pytest
from PIL import Image
from report_fixtures import (
    ABSENT,
    Page,
    assert_golden,
    change,
    compared,
    evaluate,
    write_ages,
    write_metrics,
    write_run,
)
from saying import says

from custom.errors import UserError
from custom.report import ReportError, charts, write_report
from custom.report.inputs import ShownSlice
from custom.report.palette import CLASS_COLOURS
from custom.report.plots import case_panels


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of :func:`write_run`, with learning curves."""
    folder = write_run(tmp_path_factory.mktemp("run"))
    write_report(folder, "My <run>", write_metrics(folder / "metrics.csv"))
    return Page(folder / "report.html")


def test_page_of_a_run_is_the_golden_one(page):
    assert_golden(page.source, "run")


def test_numbers_of_the_page_in_closed_form(page):
    dices = [0.9, 0.3, 0.5, 0.8, 0.7]  # the mean of (1.0, 0) is 0.5: what was missed counts
    assert f"Dice, mean {np.mean(dices):.3f} 95 % interval" in page.text
    says(page.text, "Missed 1 of 9 structures", "False alarms 0 of 1 classes")  # five cases
    b = next(row for row in page.rows("model: mean over cases") if row[0] == "B")
    assert b[1:3] == ["0.500", f"{np.std([0.9, 0.1, 0.0, 0.8, 0.7], ddof=1):.3f}"]
    rows = {row[0]: row for row in page.rows("model, by the rule of published tables")[2:]}
    assert rows["A"][1] == f"{(0.9 + 0.5 + 1 + 0 + 0.7) / 5:.3f}"  # the empty ones count as 0


def test_cases_come_worst_first_and_faults_are_marked(page):
    body = {row[0][0]: row for row in page.cells("model: 5 cases, worst first")[2:]}
    assert list(body) == ["bad", "failing", "fair", "lacking", "good"]
    assert [(text, a.get("class")) for text, a in body["failing"][6:8]] == [("0.0", None), ("missed", "bad")]
    assert page.source.count('<tr class="bad">') == 1
    assert '<tr class="bad"><th scope="row" class="text">failing</th>' in page.source


@pytest.mark.usefixtures("undrawn")
def test_a_case_without_any_dice_comes_last(tmp_path):
    evaluate(tmp_path, {"none": (ABSENT, ABSENT), "good": (1, 1), "bad": (9, 9)})
    rows = Page(write_report(tmp_path, "My run")).rows("model: 3 cases, worst first")
    assert [row[0] for row in rows[2:]] == ["bad", "good", "none"]


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("count", "headings"),
    [
        (1, ["The only case: c0"]),
        (2, ["Worst: c1", "Best: c0"]),
        (3, ["Worst: c2", "Median: c1", "Best: c0"]),
        (6, ["Worst: c5", "Median: c3", "Best: c0"]),
    ],
)
def test_worst_median_and_best_case_are_shown(tmp_path, count, headings):
    evaluate(tmp_path, {f"c{i}": (i, i) for i in range(count)})
    page = Page(write_report(tmp_path, "My run"))
    assert [h for h in page.headings if ": c" in h] == headings
    assert sum(tag == "img" for tag, _ in page.tags) == 3 * count if count < 3 else 9
    assert "model: Dice 1.000 (A 1.00, B 1.00)" in page.text


@pytest.mark.usefixtures("undrawn")
def test_a_case_without_a_dice_is_not_the_worst(tmp_path):
    evaluate(tmp_path, {"none": (ABSENT, ABSENT), "bad": (9, 9), "good": (1, 1)})
    page = Page(write_report(tmp_path, "My run"))
    assert [h for h in page.headings if "none" in h] == []
    assert "Worst: bad" in page.headings


@pytest.mark.usefixtures("undrawn")
def test_parts_that_were_not_written_are_left_out(run):
    (run / "model.slices.npz").unlink()
    change(run, calibration=None, compat=None, groups=None)
    page = Page(write_report(run, "My run"))
    assert page.headings == ["My run", "Networks", "Classes", "Cases by class", "Every case", "What the numbers mean"]
    assert "ECE" not in page.text


def test_pictures_show_the_outlines_of_reference_and_prediction(tmp_path):
    from matplotlib.colors import to_rgb

    evaluate(tmp_path, {"c": (0, None)})
    page = Page(write_report(tmp_path, "My run"))
    pictures = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(a["src"].split(",")[1]))))
        for tag, a in page.tags
        if tag == "img"
    ]
    drawn = [
        [
            (np.abs(picture / 255 - np.array(to_rgb(colour))).max(axis=-1) < 0.12).sum() > 50
            for colour in CLASS_COLOURS[:2]
        ]
        for picture in pictures
    ]
    assert drawn == [[False, False], [True, True], [True, False]]  # the image, the reference, a prediction without B


def test_panels_of_a_case_share_the_box_and_have_no_words():
    label = np.zeros((40, 20), np.uint8)
    label[10:14, 5:9] = 1
    image, reference, pred = case_panels(label * 50, label, [np.roll(label, 1, 0)], ["A"], (1.0, 2.0), 3.0)
    assert image.axes[0].get_xlim() == (-0.5, 39.5)
    for panel in (reference, pred):  # 12 by 6 voxels, 0.3 of each side, round what is drawn at 10..14, 5..8
        assert [*panel.axes[0].get_xlim(), *panel.axes[0].get_ylim()] == pytest.approx([6.0, 18.0, 9.5, 3.5])
    assert not pred.axes[0].texts
    assert tuple(pred.get_size_inches()) == (3.0, 3.0)  # 20 of 2 mm are as long as 40 of 1 mm


def test_a_picture_in_colour_or_grey_has_no_scale_bar(monkeypatch):
    drawn = []
    monkeypatch.setattr(charts, "_address", lambda figure: drawn.append(len(figure.axes[0].texts)))
    label = np.zeros((20, 20), np.uint8)
    label[5:9, 5:9] = 1
    for image in (label, np.stack([label] * 3)):
        charts.case(ShownSlice(image, label, label, (1.0, 1.0)), [label], ["A"], "mm")
    charts.case(ShownSlice(label, label, label, (1.0, 1.0)), [label], ["A"], "pixels")
    assert drawn == [0, 1, 0, *[0] * 6]  # the bar and its length are on the reference


def test_a_picture_that_is_all_noise_is_drawn():
    noise = np.random.default_rng(0).integers(0, 255, (3, 400, 400), np.uint8)  # more than a byte a pixel as JPEG
    label = np.ones((400, 400), np.uint8)
    image, *_ = charts.case(ShownSlice(noise, label, label, (1.0, 1.0)), [label], ["A"], "pixels")
    with Image.open(io.BytesIO(base64.b64decode(image.partition(",")[2]))) as picture:
        assert np.asarray(picture).std() > 30


def test_no_distance_at_all_is_said_not_drawn(tmp_path):
    evaluate(tmp_path, {"c0": (None, None), "c1": (None, None)}, pictures=False)
    page = Page(write_report(tmp_path, "My run"))
    assert "No case has an HD95" in page.text
    assert "HD95, mm \N{EN DASH} no interval; 4 missed have none" in page.text


@pytest.mark.usefixtures("undrawn")
def test_a_group_of_one_patient_has_no_interval(tmp_path):
    cases = {"c0": (1, 1), "c1": (3, 3), "c2": (5, None)}
    evaluate(tmp_path, cases, attributes=[{"scanner": "x"}, {"scanner": "x"}, {"scanner": "y"}], pictures=False)
    rows = {row[0]: row for row in Page(write_report(tmp_path, "My run")).rows("By scanner, model")[2:]}
    assert rows["x"][1:6] == ["2", "2", "0 of 4", "0 of 0", "0.800"]
    assert rows["y"][1:7] == ["1", "1", "1 of 2", "0 of 0", "0.250", "\N{EN DASH}"]


@pytest.mark.usefixtures("undrawn")
def test_an_attribute_of_more_than_12_values_is_left_out_in_a_sentence(tmp_path):
    twelve, thirteen = (write_ages(tmp_path / str(n), n) for n in (12, 13))
    for page, name in (
        (Page(write_report(thirteen.parent, "My run")), "By age"),
        (compared((thirteen, thirteen), tmp_path), "Difference of mean Dice by age"),
    ):
        says(page.text, "Not grouped by age", "13 values", "more than 12")
        assert not [caption for caption in page.tables if caption.startswith(name)]
    page = Page(write_report(twelve.parent, "My run"))
    assert "Not grouped" not in page.text
    assert len(page.rows("By age")) == 2 + 13  # with those that have none
    assert len(compared((twelve, twelve), tmp_path).rows("Difference of mean Dice by age")) == 2 + 13


def test_distances_of_pictures_are_in_pixels(tmp_path):
    files = [evaluate(tmp_path / name, {"c0": (1, 1), "c1": (2, 3)}) for name in "ab"]
    for file in files:
        assert "HD95, mm" in Page(write_report(file.parent, "My run")).text
        change(file.parent, unit="pixels")
        page = Page(write_report(file.parent, "My run"))
        assert "HD95, pixels 3.5" in page.text  # the tile: of 2 and (4 + 6) / 2
        assert " mm" not in f"{page.text} {[a['aria-label'] for tag, a in page.tags if tag == 'svg']}"
    page = compared(files, tmp_path)
    assert {row[0] for row in page.rows("Means over the cases")} >= {"HD95, pixels", "HD95, A, pixels", "ASD, pixels"}
    assert " mm" not in page.text


@pytest.mark.usefixtures("undrawn")
def test_page_of_the_validation_part_says_that_weights_were_chosen_on_it(tmp_path):
    evaluate(tmp_path / "validation", {"c": (1, 1)}, pictures=False)
    text = Page(write_report(tmp_path / "validation", "My run")).text
    assert "The weights that serve were chosen on validation cases" in text
    assert "The run chose nothing on these cases" not in text


def test_learning_curves_are_drawn_where_there_are_any(page, run, tmp_path):
    assert "Learning curves" in page.headings
    assert "term: supervised" in page.text  # text stays text in a figure
    (tmp_path / "metrics.csv").write_text("epoch,seconds\n1,2\n")
    assert "has nothing to draw" in Page(write_report(run, "My run", tmp_path / "metrics.csv")).text
    assert "Learning curves" not in Page(write_report(run, "My run", tmp_path / "none.csv")).headings


@pytest.mark.usefixtures("undrawn")
def test_of_a_single_class_the_mean_is_not_repeated(tmp_path):
    evaluate(tmp_path, {"c0": (1,), "c1": (3,)}, ["A"])
    page = Page(write_report(tmp_path, "My run"))
    assert [row[0] for row in page.rows("model: mean over cases")[2:]] == ["A"]
    assert page.rows("Every network")[1] == ["mean", "95 % interval"]
    assert "model: Dice 0.900" in page.text
    assert "(A 0.90)" not in page.text


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (
            lambda f: (f / "summary.json").unlink(),
            r"summary\.json is not there: no finished evaluation. Evaluate first",
        ),
        (lambda f: (f / "summary.json").write_text("{}"), r"summary\.json names no network"),
        (lambda f: (f / "summary.json").write_text("[]"), r"summary\.json is not a summary of an evaluation"),
        (lambda f: (f / "model.json").write_text("{"), r"model\.json cannot be read"),
        (
            lambda f: (f / "model.json").write_text("{}"),
            r"model\.json is not a summary of an evaluation: it lacks classes",
        ),
        (lambda f: (f / "model.csv").write_text("case\n"), r"model\.csv is not a table of cases"),
        (lambda f: (f / "model.csv").unlink(), r"No such file .*model\.csv"),
    ],
)
def test_files_that_are_missing_or_wrong_are_named(run, spoil, says):
    spoil(run)
    with pytest.raises(ReportError, match=says) as caught:
        write_report(run, "My run")
    assert isinstance(caught.value, UserError)
    assert not (run / "report.html").exists()


@pytest.mark.usefixtures("undrawn")
def test_networks_with_the_same_weights_are_named_together(tmp_path):
    for name in ("model", "model_final"):
        evaluate(tmp_path, {"c0": (1, 1)}, name=name)
    change(tmp_path, name="model_final", same_as="model")
    page = Page(write_report(tmp_path, "My run"))
    assert [row[0] for row in page.rows("Every network of the run")[2:]] == ["model", "model_final = model"]
    assert "Names joined by = have the same weights, scored once." in page.text
