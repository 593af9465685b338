import base64
import csv
import importlib
import io
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import custom
from custom.errors import UserError
from custom.evaluation.case_report import CaseReport
from custom.evaluation.slices import ShownSlices
from custom.files import FileError
from custom.report import ReportError, charts, compare_report, write_report
from custom.report.__main__ import main
from custom.report.inputs import ShownSlice
from custom.report.page import Cell, Column, interval, number, table
from custom.report.plots import COLOURS, case_panels

ABSENT = "neither label nor prediction has it"
INVENTED = "the prediction alone has it"


class Page(HTMLParser):
    """What a browser would make of a page; raises where a tag is not closed in order."""

    VOID = ("meta", "img")

    def __init__(self, path):
        super().__init__()
        self.path, self.source = Path(path), Path(path).read_text(encoding="utf-8")
        self.tags, self.open, self.tables, self.headings, self._text = [], [], {}, [], []
        self.feed(self.source)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag in self.VOID:
            return
        self.open.append(tag)
        if tag == "table":
            self._caption, self._rows = "", []
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append(("", dict(attributes)))
        elif tag in ("h1", "h2", "h3"):
            self.headings.append("")

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag == "table":
            self.tables[self._caption] = self._rows

    def handle_data(self, data):
        self._text.append(data)
        if {"td", "th"} & set(self.open):
            text, attributes = self._rows[-1][-1]
            self._rows[-1][-1] = (text + data, attributes)
        elif "caption" in self.open:
            self._caption += data
        elif {"h1", "h2", "h3"} & set(self.open):
            self.headings[-1] += data

    @property
    def text(self):
        return " ".join(" ".join(self._text).split())

    def cells(self, caption):
        """Rows of texts and attributes of the table whose caption begins so."""
        (rows,) = [rows for name, rows in self.tables.items() if name.startswith(caption)]
        return rows

    def rows(self, caption):
        return [[text for text, _ in row] for row in self.cells(caption)]


def evaluate(folder, cases, classes=("A", "B"), name="model", attributes=None, pictures=True, patients=None):
    """Writes what an evaluation does. Each class is a line of ten voxels of 2 mm, which the prediction shifts by so
    many voxels: its Dice is 1 - shift / 10. A shift of None is an empty prediction."""
    report, slices = CaseReport(list(classes)), ShownSlices()
    for i, (case, shifts) in enumerate(cases.items()):
        label, pred = np.zeros((24, 3 + 3 * len(classes)), np.uint8), np.zeros((24, 3 + 3 * len(classes)), np.uint8)
        for value, shift in enumerate(shifts, start=1):
            if shift == INVENTED:
                pred[2:12, 3 * value] = value
            elif shift != ABSENT:
                label[2:12, 3 * value] = value
                if shift is not None:
                    pred[2 + shift : 12 + shift, 3 * value] = value
        image = np.random.default_rng(i).normal(0, 1, (1, *label.shape)) + label
        patient = patients[i] if patients else f"p{i}"
        report.add(case, patient, pred, label, (2.0, 2.0), attributes[i] if attributes else None)
        slices.add(case, image, label, pred, (2.0, 2.0), "LPS")
    report.write(folder, name)
    if pictures:
        slices.write(folder / f"{name}.slices.npz")
    summary = folder / "summary.json"
    known = json.loads(summary.read_text(encoding="utf-8")) if summary.exists() else {}
    summary.write_text(json.dumps({**known, name: report.summary()["metrics"]["dice_mean"]["mean"]}))
    return folder / f"{name}.csv"


def change(folder, name="model", **values):
    path = folder / f"{name}.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}))


def write_run(root):
    """Five cases of which one fails in B and one lacks B in label and prediction; a second network; test part."""
    folder = root / "eval" / "evaluation" / "test"
    cases = {"good": (1, 1), "bad": (5, 9), "failing": (0, None), "lacking": (2, ABSENT), "fair": (3, 3)}
    evaluate(folder, cases)
    evaluate(folder, dict.fromkeys(cases, (4, 4)), name="student")
    return folder


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Of :func:`write_run`, with learning curves."""
    folder = write_run(tmp_path_factory.mktemp("run"))
    write_report(folder, "My run", write_metrics(folder / "metrics.csv"))
    return Page(folder / "report.html")


def summary(folder):
    return json.loads((folder / "model.json").read_text(encoding="utf-8"))


def write_metrics(path):
    path.write_text("epoch,learning_rate,term/supervised,val/model/dice_mean\n1,0.01,0.7,0.4\n2,0.005,0.5,0.6\n")
    return path


def give_contrast(csv_path, values):
    """Writes the contrast of each case into its table, as an evaluation with pictures does."""
    with csv_path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    with csv_path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, "contrast": value} for row, value in zip(rows, values, strict=True))


# ------------------------------------------------------------------------------------------------------- page of a run
def test_page_is_one_whole_file_that_fetches_nothing(page):
    addresses = [a for _, attributes in page.tags for k, a in attributes.items() if k in ("src", "href", "xlink:href")]
    assert addresses
    assert all(a.startswith(("data:image/", "#")) for a in addresses)
    assert not {"link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert "url(http" not in page.source
    assert "@import" not in page.source
    policy = next(a["content"] for tag, a in page.tags if "http-equiv" in a)
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_page_names_every_table_head_and_figure_for_those_who_do_not_see_it(page):
    count = sum(tag == "table" for tag, _ in page.tags)
    assert len(page.tables) == count == sum(tag == "caption" for tag, _ in page.tags)
    assert all(page.tables)
    assert all(a["scope"] in ("col", "colgroup", "row") for tag, a in page.tags if tag == "th")
    assert all(a["role"] == "img" and a["aria-label"] for tag, a in page.tags if tag == "svg")
    assert all(a["alt"] for tag, a in page.tags if tag == "img")
    assert next(a for tag, a in page.tags if tag == "html")["lang"] == "en"


def test_ids_are_unique_and_references_lead_somewhere(page):
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert all(a[key][1:] in ids for _, a in page.tags for key in ("href", "xlink:href") if key in a)


def test_figures_follow_the_ink_of_the_page(page):
    source = page.source
    figures = source[source.index("<svg") : source.rindex("</svg>")]
    assert "currentColor" in figures
    assert "#000000" not in figures
    assert "#ffffff" not in figures
    assert "prefers-color-scheme: dark" in source
    assert "@media print" in source


def test_the_same_files_make_the_same_page(page):
    again = write_report(page.path.parent, "My run", page.path.parent / "metrics.csv")
    assert again == page.path
    assert again.read_text(encoding="utf-8") == page.source


def test_headline_is_the_serving_networks(page):
    dices = [0.9, 0.3, 0.5, 0.8, 0.7]  # the mean of (1.0, 0) is 0.5: a failure counts
    found = summary(page.path.parent)["metrics"]["dice_mean"]
    assert found["mean"] == pytest.approx(np.mean(dices))
    low, high = found["low"], found["high"]
    assert f"Dice, mean 0.640 95 % interval {low:.3f} to {high:.3f}" in page.text
    assert (
        "; 1 failure has none Failures 1 of 9 scored classes of cases" in page.text
    )  # five cases, two classes, one of them in neither
    assert "Cases 5 of 5 patients" in page.text
    assert "Part: test. 5 cases of 5 patients. Serving network: model." in page.text
    assert page.headings[0] == "My run"


def test_networks_stand_in_the_order_of_the_summary(page):
    rows = page.rows("Every network of the run")
    assert [row[:1] + row[1:2] + row[3:5] for row in rows[2:]] == [
        ["model", "0.640", "0.780", "0.425"],
        ["student", "0.600", "0.600", "0.600"],
    ]


def test_classes_have_mean_spread_interval_cases_and_failures(page):
    rows = page.rows("model: mean over cases")
    found = summary(page.path.parent)["metrics"]["dice_B"]
    b = next(row for row in rows if row[0] == "B")
    sd = np.std([0.9, 0.1, 0.0, 0.7], ddof=1)
    assert b[1:5] == ["0.425", f"{sd:.3f}", f"{found['low']:.3f} to {found['high']:.3f}", "4"]
    assert b[-2:] == ["1", "1"]
    assert rows[-1][0] == "mean of the classes"
    assert rows[-1][1] == "0.640"


def test_cases_come_worst_first_and_failures_are_marked(page):
    rows = page.cells("model: 5 cases, worst first")
    body = {row[0][0]: row for row in rows[2:]}
    assert list(body) == ["bad", "failing", "fair", "lacking", "good"]
    assert [text for text, _ in body["failing"][2:5]] == ["0.500", "1.000", "0.000"]
    assert [(text, a.get("class")) for text, a in body["failing"][5:7]] == [("0.0", None), ("failed", "bad")]
    assert body["failing"][-1][0] == "1"
    assert [text for text, _ in body["lacking"][2:7:2]] == ["0.800", "\N{EN DASH}", "\N{EN DASH}"]
    assert page.source.count('<tr class="bad">') == 1
    assert '<tr class="bad"><th scope="row" class="text">failing</th>' in page.source


def test_a_case_without_any_dice_comes_last(tmp_path):
    evaluate(tmp_path, {"none": (ABSENT, ABSENT), "good": (1, 1), "bad": (9, 9)})
    rows = Page(write_report(tmp_path, "My run")).rows("model: 3 cases, worst first")
    assert [row[0] for row in rows[2:]] == ["bad", "good", "none"]


def test_heads_point_to_their_column_and_numbers_carry_their_value(page):
    """What the script sorts by: under heads of two rows the place of a head is not that of its column."""
    rows = page.cells("model: 5 cases, worst first")
    heads = {int(a["data-column"]): text for row in rows[:2] for text, a in row if "data-column" in a}
    assert [heads[i] for i in sorted(heads)] == [
        *("case", "patient", "mean", *["A", "B"] * 3),
        *("boundary Dice", "contrast", "failures"),
    ]
    assert [a.get("aria-sort") for row in rows[:2] for _, a in row].count("ascending") == 1
    bad, failing = rows[2], rows[3]
    assert [float(a["data-value"]) for _, a in bad[2:5]] == pytest.approx([0.3, 0.5, 0.1])
    assert [i for i, (_, a) in enumerate(failing) if "data-value" in a] == [
        2,
        3,
        4,
        5,
        7,
        9,
        11,
    ]  # not the failed distances, and no contrast without a picture
    assert all("data-value" not in a for _, a in bad[:2])


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


def test_a_case_without_a_dice_is_not_the_worst(tmp_path):
    evaluate(tmp_path, {"none": (ABSENT, ABSENT), "bad": (9, 9), "good": (1, 1)})
    page = Page(write_report(tmp_path, "My run"))
    assert [h for h in page.headings if "none" in h] == []
    assert "Worst: bad" in page.headings


def test_parts_that_were_not_written_are_left_out(run):
    (run / "model.slices.npz").unlink()
    change(run, calibration=None, compat=None, groups=None)
    page = Page(write_report(run, "My run"))
    assert page.headings == ["My run", "Networks", "Classes", "Cases by class", "Every case", "What the numbers mean"]
    assert "ECE" not in page.text


def test_pictures_show_the_outlines_of_reference_and_prediction(tmp_path):
    from matplotlib.colors import to_rgb
    from PIL import Image

    evaluate(tmp_path, {"c": (0, None)})
    page = Page(write_report(tmp_path, "My run"))
    pictures = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(a["src"].split(",")[1]))))
        for tag, a in page.tags
        if tag == "img"
    ]
    drawn = [
        [(np.abs(picture / 255 - np.array(to_rgb(colour))).max(axis=-1) < 0.12).sum() > 50 for colour in COLOURS[:2]]
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


def test_no_distance_at_all_is_said_not_drawn(tmp_path):
    evaluate(tmp_path, {"c0": (None, None), "c1": (None, None)}, pictures=False)
    page = Page(write_report(tmp_path, "My run"))
    assert "No case has an HD95" in page.text
    assert "HD95, mm \N{EN DASH} no interval; 4 failures have none" in page.text


def test_groups_have_a_table_and_a_figure(tmp_path):
    cases = {"c0": (1, 1), "c1": (3, 3), "c2": (5, None), "c3": (2, 2)}
    attributes = [{"scanner": "x"}, {"scanner": "x"}, {"scanner": "y"}, {}]
    evaluate(tmp_path, cases, attributes=attributes, pictures=False)
    page = Page(write_report(tmp_path, "My run"))
    rows = {row[0]: row for row in page.rows("By scanner, model")[2:]}
    assert list(rows) == ["x", "y", "not given"]
    assert rows["x"][1:5] == ["2", "2", "0", "0.800"]
    assert rows["y"][1:6] == ["1", "1", "1", "0.250", "\N{EN DASH}"]  # one patient: no interval
    alt = "Mean Dice by scanner: x (2 cases) 0.800; y (1 case) 0.250; not given (1 case) 0.800"
    assert alt in [a["aria-label"] for tag, a in page.tags if tag == "svg"]
    assert "not given" in [row[2] for row in page.rows("model: 4 cases")[2:]]


def write_ages(folder, values, name="model"):
    ages = [{"age": str(20 + i)} for i in range(values)]
    return evaluate(folder, {f"c{i}": (1, 1) for i in range(values + 1)}, attributes=[*ages, {}], pictures=False)


def test_an_attribute_of_more_than_12_values_is_left_out_in_a_sentence(tmp_path):
    twelve, thirteen = (write_ages(tmp_path / str(n), n) for n in (12, 13))
    says = "Not grouped by age: it has 13 values, and more than 12 make groups too small to read."
    for page, name in (
        (Page(write_report(thirteen.parent, "My run")), "By age"),
        (compared((thirteen, thirteen), tmp_path), "Difference of mean Dice by age"),
    ):
        assert says in page.text
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
    assert {row[0] for row in page.rows("Means of each")} >= {"HD95, pixels", "HD95, A, pixels", "ASD, pixels"}
    assert " mm" not in page.text


def test_calibration_has_a_diagram_and_its_counts(run):
    bins = [
        {"low": 0.0, "high": 0.5, "count": 0, "confidence": None, "accuracy": None},
        {"low": 0.5, "high": 0.75, "count": 30, "confidence": 0.7, "accuracy": 0.5},
        {"low": 0.75, "high": 1.0, "count": 70, "confidence": 0.9, "accuracy": 0.95},
    ]
    change(run, calibration={"ece": 0.3 * 0.2 + 0.7 * 0.05, "over": "foreground voxels", "bins": bins})
    page = Page(write_report(run, "My run"))
    assert "Calibration error (ECE) 0.095" in page.text
    assert page.rows("Calibration, ECE 0.095")[1:] == [
        ["0.50 to 0.75", "30", "0.700", "0.500", "-0.200"],
        ["0.75 to 1.00", "70", "0.900", "0.950", "+0.050"],
    ]
    assert "Over: foreground voxels." in page.text
    assert any(a["aria-label"].startswith("Reliability diagram") for tag, a in page.tags if tag == "svg")


def test_table_of_published_rules_is_folded_and_states_its_rule(page):
    rule = summary(page.path.parent)["compat"]["rule"]
    assert f"Rule: {rule}" in page.text
    rows = {row[0]: row for row in page.rows("model, by the rule of published tables")[2:]}
    assert rows["B"][1] == f"{(0.9 + 0.1 + 0 + 0 + 0.7) / 5:.3f}"  # the empty ones count as 0
    folded = page.source[page.source.index("<details><summary>Show the table") :]
    assert "by the rule of published tables" in folded[: folded.index("</details>")]


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ("test", "The run chose nothing on these cases, neither weights nor epoch."),
        ("validation", "The weights that serve were chosen on validation cases"),
    ],
)
def test_page_says_what_was_chosen_on_its_part(tmp_path, part, says):
    evaluate(tmp_path / part, {"c": (1, 1)}, pictures=False)
    text = Page(write_report(tmp_path / part, "My run")).text
    assert says in text
    assert "10000 draws of whole patients" in text
    assert "A failure: one of prediction and label holds the class and the other does not." in text


def test_learning_curves_are_drawn_where_there_are_any(page, run, tmp_path):
    assert "Learning curves" in page.headings
    assert "term: supervised" in page.text  # text stays text in a figure
    (tmp_path / "metrics.csv").write_text("epoch,seconds\n1,2\n")
    assert "has nothing to draw" in Page(write_report(run, "My run", tmp_path / "metrics.csv")).text
    assert "Learning curves" not in Page(write_report(run, "My run", tmp_path / "none.csv")).headings


NASTY = ["<script>alert(1)</script>", "a \"b\" & 'c' $x^$", "_x"]


def test_names_are_data(tmp_path):
    case = "\"><img src=x onerror=alert(1)> 'q' <!--body-->"
    attributes = [{"<b>site</b>": "</td><i>"}, {"<b>site</b>": "$\\frac$"}]
    evaluate(tmp_path, {case: (1, 2, 3), "c1": (3, 3, None)}, NASTY, attributes=attributes)
    page = Page(write_report(tmp_path, "<script>title</script>"))
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert not {"b", "i"} & {tag for tag, a in page.tags if a.get("class") is None and "style" not in a}
    assert all("onerror" not in a for _, a in page.tags)
    assert page.headings[0] == "<script>title</script>"
    assert [row[0] for row in page.rows("model: mean over cases")[2:5]] == NASTY
    assert case in [row[0] for row in page.rows("model: 2 cases")[2:]]
    svg = page.source[page.source.index("<svg") : page.source.index("</svg>")]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in svg
    assert "$x^$" in svg  # no formula


def test_of_a_single_class_the_mean_is_not_repeated(tmp_path):
    evaluate(tmp_path, {"c0": (1,), "c1": (3,)}, ["A"])
    page = Page(write_report(tmp_path, "My run"))
    assert [row[0] for row in page.rows("model: mean over cases")[2:]] == ["A"]
    assert page.rows("Every network")[1] == ["mean", "95 % interval"]
    assert "model: Dice 0.900" in page.text
    assert "(A 0.90)" not in page.text


def test_two_hundred_cases_of_five_classes_stay_a_small_page(tmp_path):
    cases = {f"case_{i:03d}": [i % 9, 3, None, 1, 2] for i in range(200)}
    evaluate(tmp_path, cases, [f"class {i}" for i in range(5)], patients=["p"] * 200, pictures=False)
    path = write_report(tmp_path, "My run")
    assert path.stat().st_size < 2e6
    assert len(Page(path).rows("model: 200 cases")) == 202


def test_a_page_that_cannot_be_written_leaves_the_earlier_one(run, monkeypatch):
    earlier = write_report(run, "Earlier").read_text(encoding="utf-8")
    before = sorted(run.iterdir())

    def refuse(*_):
        raise OSError("no")

    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(FileError):
        write_report(run, "Later")
    assert (run / "report.html").read_text(encoding="utf-8") == earlier
    assert sorted(run.iterdir()) == before


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (
            lambda f: (f / "summary.json").unlink(),
            r"summary\.json is not there: no finished evaluation. Evaluate first",
        ),
        (lambda f: (f / "summary.json").write_text("{}"), r"summary\.json names no network"),
        (lambda f: (f / "summary.json").write_text("[]"), r"summary\.json is no summary of an evaluation"),
        (lambda f: (f / "model.json").write_text("{"), r"model\.json cannot be read"),
        (
            lambda f: (f / "model.json").write_text("{}"),
            r"model\.json is no summary of an evaluation: it lacks classes",
        ),
        (lambda f: (f / "model.csv").write_text("case\n"), r"model\.csv is no table of cases"),
        (lambda f: (f / "model.csv").unlink(), r"No such file .*model\.csv"),
    ],
)
def test_files_that_are_missing_or_wrong_are_named(run, spoil, says):
    spoil(run)
    with pytest.raises(ReportError, match=says) as caught:
        write_report(run, "My run")
    assert isinstance(caught.value, UserError)
    assert not (run / "report.html").exists()


# --------------------------------------------------------------------------------------------------------------- blocks
@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (number(0.12345, 3), Cell("0.123", 0.12345)),
        (number(-0.04, 1), Cell("0.0", -0.04)),  # never -0.0
        (number(2.0, 1, sign=True), Cell("+2.0", 2.0)),
        (number(0.0, 1, sign=True), Cell("0.0", 0.0)),
        (number(None, 1), Cell("\N{EN DASH}")),
        (number(float("nan"), 1), Cell("\N{EN DASH}")),
        (number(float("inf"), 1), Cell("\N{EN DASH}")),
        (interval(0.1, 0.25, 2), Cell("0.10 to 0.25", 0.1)),
        (interval(-0.1, 0.25, 2, sign=True), Cell("-0.10 to +0.25", -0.1)),
        (interval(0.1, None, 2), Cell("\N{EN DASH}")),
    ],
)
def test_what_was_not_measured_has_no_value(cell, expected):
    assert cell == expected


def test_heads_of_one_group_share_a_head(tmp_path):
    columns = [Column("case"), Column("A", "Dice"), Column("B", "Dice"), Column("failures")]
    (tmp_path / "t.html").write_text(table("t", columns, [[Cell("c"), Cell("1", 1.0), Cell("2", 2.0), Cell("0", 0)]]))
    rows = Page(tmp_path / "t.html").cells("t")
    spans = [[(text, a.get("colspan"), a.get("rowspan")) for text, a in row] for row in rows[:2]]
    assert spans == [
        [("case", None, "2"), ("Dice", "2", None), ("failures", None, "2")],
        [("A", None, None), ("B", None, None)],
    ]


# --------------------------------------------------------------------------------------------------------- page of two
def write_two(root):
    """Ours is 10, 20, 30, 40 points better in c0 to c3 and 50 worse in c4; c5 has no Dice."""
    base = {"c0": (3, 3), "c1": (4, 4), "c2": (5, 5), "c3": (6, 6), "c4": (1, 1), "c5": (ABSENT, ABSENT)}
    ours = {**dict.fromkeys(base, (2, 2)), "c4": (6, 6), "c5": (ABSENT, ABSENT)}
    attributes = [{"scanner": "x"}] * 3 + [{"scanner": "y"}] * 3
    a = evaluate(root / "base", base, attributes=attributes)
    return a, evaluate(root / "ours", ours, attributes=attributes)


@pytest.fixture
def two(tmp_path):
    return write_two(tmp_path)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The page of :func:`write_two`."""
    root = tmp_path_factory.mktemp("two")
    return compared(write_two(root), root)


def compared(two, tmp_path, names=("sup", "semi")):
    return Page(compare_report(*two, names, tmp_path / "page.html"))


def test_two_runs_are_judged_in_a_sentence(pair):
    assert pair.headings[0] == "semi against sup"
    assert "No evidence either way: the difference is 10.0 Dice points (95 % interval" in pair.text
    assert "Paired over 5 cases of 5 patients. Every difference is semi minus sup" in pair.text
    assert "Left out, without a number in both: c5." in pair.text


def test_table_of_two_has_the_paired_difference_of_every_metric(pair):
    rows = {row[0]: row for row in pair.rows("Means of each")[2:]}
    assert rows["Dice, mean (difference in points)"][1:4] == ["0.620", "0.720", "+10.0"]
    assert rows["Dice, mean (difference in points)"][5:7] == ["5", "5"]
    assert rows["Dice, A (difference in points)"][3] == "+10.0"
    assert rows["failures"][1:4] == ["0", "0", "0"]
    assert set(rows) >= {"HD95, mm", "HD95, A, mm", "ASD, mm"}


def test_cases_of_two_come_from_the_largest_loss_on(pair):
    rows = pair.cells("6 cases, the largest loss first")
    heads = {int(a["data-column"]): text for row in rows[:2] for text, a in row if "data-column" in a}
    names = ["case", "patient", "scanner", "sup", "semi", "mean", "A", "B", "sup", "semi", "difference", "sup", "semi"]
    assert [heads[i] for i in sorted(heads)] == names
    assert [row[0][0] for row in rows[2:]] == ["c4", "c0", "c1", "c2", "c3", "c5"]
    assert [text for text, _ in rows[2][3:8]] == ["0.900", "0.400", "-50.0", "-50.0", "-50.0"]
    assert float(rows[2][5][1]["data-value"]) == pytest.approx(-50.0)
    assert [text for text, _ in rows[-1][3:6]] == ["\N{EN DASH}"] * 3


def test_pictures_of_two_stand_side_by_side(pair):
    shown = [h for h in pair.headings if "Dice points" in h]
    assert shown == [
        "Largest loss: c4, -50.0 Dice points",
        "Median: c1, +20.0 Dice points",
        "Largest gain: c3, +40.0 Dice points",
    ]
    assert sum(tag == "img" for tag, _ in pair.tags) == 3 * 4
    assert "sup: Dice 0.900 (A 0.90, B 0.90)" in pair.text
    assert "semi: Dice 0.400 (A 0.40, B 0.40)" in pair.text


def test_slices_that_differ_are_not_set_side_by_side(two, tmp_path):
    slices = dict(np.load(two[0].with_suffix(".slices.npz")))
    slices["image_4"] = 255 - slices["image_4"]
    np.savez_compressed(two[0].with_suffix(".slices.npz"), **slices)
    page = compared(two, tmp_path)
    assert "The two evaluations kept different slices of this case." in page.text
    assert sum(tag == "img" for tag, _ in page.tags) == 2 * 4


def test_figures_of_two_say_who_is_better_where(pair):
    alts = [a["aria-label"] for tag, a in pair.tags if tag == "svg"]
    assert "Blue, above the line: better; orange: worse; grey: equal." in pair.text
    assert "Dice of semi against sup. semi is better in 4 of 5 cases and worse in 1." in alts
    assert "Differences in points by class: A (5 cases) +10.0; B (5 cases) +10.0" in alts
    assert "Differences in points by scanner: x (3 cases) +20.0; y (2 cases) -5.0" in alts
    rows = {row[0]: row[1] for row in pair.rows("Difference of mean Dice by scanner")[2:]}
    assert rows == {"x": "+20.0", "y": "-5.0"}


def test_to_find_nothing_where_the_other_invents_something_is_a_gain(tmp_path):
    a = evaluate(tmp_path / "a", {"c0": (1, 1), "c1": (INVENTED, INVENTED)})
    b = evaluate(tmp_path / "b", {"c0": (1, 1), "c1": (ABSENT, ABSENT)})
    page = compared((a, b), tmp_path)
    assert "In 1 case one of the two rightly found nothing where the other found something" in page.text
    assert "Left out" not in page.text
    rows = {row[0]: row for row in page.rows("Means of each")[2:]}
    assert rows["Dice, mean (difference in points)"][3] == "+50.0"
    assert [row[:1] + row[4:5] for row in page.rows("2 cases, the largest loss first")[2:]] == [
        ["c0", "0.0"],
        ["c1", "+100.0"],
    ]
    assert "semi is better in 1 of 2 cases and worse in 0." in page.text
    dots = page.source[page.source.index('aria-label="Dice of semi') :]
    assert len(re.findall(r"<use [^>]*fill-opacity", dots[: dots.index("</svg>")])) == 2
    assert "Largest gain: c1, +100.0 Dice points" in page.headings


def test_a_mean_distance_of_two_says_what_it_leaves_out(tmp_path):
    a = evaluate(tmp_path / "a", {"c0": (1, 1), "c1": (1, 1)})
    b = evaluate(tmp_path / "b", {"c0": (2, 2), "c1": (None, 2)})
    rows = {row[0]: row for row in compared((a, b), tmp_path).rows("Means of each")[2:]}
    assert rows["HD95, A, mm"][1:3] == ["2.0", "4.0; 1 failure has none"]
    assert rows["HD95, B, mm"][1:3] == ["2.0", "4.0"]
    assert rows["HD95, mm"][1:3] == ["2.0", "4.0; 1 failure has none"]
    assert rows["ASD, mm"][2].endswith("; 1 failure has none")
    assert rows["Dice, A (difference in points)"][2] == "0.400"


def test_equal_cases_are_neither_gains_nor_losses():
    svg = charts.scatter([0.5, 0.5, 0.5], [0.6, 0.4, 0.5], ("a", "b"), "alt")
    assert re.findall(r"<use [^>]*fill: ([^;]*);[^>]*fill-opacity", svg) == ["var(--blue)", "#d55e00", "#888888"]


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
    rows = {row[0]: row for row in page.rows("Means of each")[2:]}
    assert rows["HD95, mm"][1:] == ["\N{EN DASH}; 1 failure has none"] * 2 + ["\N{EN DASH}"] * 5
    assert rows["failures"][1:4] == ["1", "1", "0"]
    assert "(no interval, 1 patient: too few patients to tell)" in page.text
    assert "Largest loss, median, largest gain" not in page.headings


def test_names_of_two_are_data(two, tmp_path):
    page = compared(two, tmp_path, ("<script>", "b & 'c' $x^$"))
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert page.headings[0] == "b & 'c' $x^$ against <script>"


def test_networks_that_cannot_be_compared_are_refused(two, tmp_path):
    with pytest.raises(ReportError, match="both networks are called 'a': give two different names"):
        compared(two, tmp_path, ("a", "a"))
    other = evaluate(tmp_path / "other", {"c0": (1, 1)}, ["A", "C"])
    with pytest.raises(ReportError, match=r"sup has the classes A, B, semi has A, C\. Compare networks of one task"):
        compared((two[0], other), tmp_path)
    fewer = evaluate(tmp_path / "fewer", {"c0": (1, 1)})
    with pytest.raises(ValueError, match="the two tables hold different cases"):
        compared((two[0], fewer), tmp_path)


# ------------------------------------------------------------------------------------------------------------ commands
def test_command_writes_the_page_of_a_run_with_its_curves(run, capsys):
    write_metrics(run.parents[1] / "metrics.csv")
    main([str(run)])
    assert capsys.readouterr().out.strip() == str(run / "report.html")
    page = Page(run / "report.html")
    assert page.headings[0] == "eval, test"
    assert "Learning curves" in page.headings


def test_command_writes_the_page_of_two(two, tmp_path, capsys):
    out = tmp_path / "two.html"
    main([str(two[0]), str(two[1]), "--names", "a", "b", "--out", str(out)])
    assert capsys.readouterr().out.strip() == str(out)
    assert Page(out).headings[0] == "b against a"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["nowhere"], "summary.json is not there"), (["a", "b", "c"], "give one folder, or two tables of cases")],
)
def test_command_refuses_in_a_sentence(arguments, says, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert says in error
    assert "Traceback" not in error


def test_importing_the_report_does_not_import_what_draws(monkeypatch):
    for name in ("plots", "report"):
        monkeypatch.setattr(custom, name, getattr(custom, name))  # put back after the second import
    for name in [name for name in sys.modules if name.startswith(("custom.report.plots", "custom.report"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # an import of it fails
    importlib.import_module("custom.report")


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


def test_boundary_dice_of_two_networks_is_compared_in_points(tmp_path):
    paths = [evaluate(tmp_path / n, {f"c{i}": (shift, shift) for i in range(6)}) for n, shift in (("a", 2), ("b", 0))]
    rows = Page(compare_report(*paths, ("a", "b"), tmp_path / "page.html")).rows("Means of each over its own cases")
    (found,) = [row for row in rows if row[0] == "boundary Dice (difference in points)"]
    assert found[1:4] == ["0.800", "1.000", "+20.0"]  # lines of ten voxels that are all within the band
