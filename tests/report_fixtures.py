"""Evaluations as files, small enough to be known by heart, and pages as a browser sees them."""

import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from markupsafe import Markup

from custom.evaluation.case_report import CaseReport
from custom.evaluation.slices import ShownSlices
from custom.report import charts, compare_report

ABSENT = "neither label nor prediction has it"
INVENTED = "the prediction alone has it"
PATIENTS = ["p0", "p1", "p2", "p3", "p0"]
GOLDEN = Path(__file__).with_name("golden")


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


@pytest.fixture
def undrawn(monkeypatch):
    """Figures of a page are put together as ever, and not laid out and written: for pages whose tables are looked at."""

    def svg(make, alt):
        with matplotlib.rc_context(charts._STYLE):
            make()
        return Markup('<svg role="img" aria-label="{}"></svg>').format(alt)

    monkeypatch.setattr(charts, "svg", svg)


def assert_golden(page, name):
    """The page is the committed one, apart from style, script, the lines of figures and the dots of pictures, which are
    tested by what they show, and from digits of a value after the sixth."""
    text = re.sub(r"(?s)<(style|script)>.*?</\1>", r"<\1>...</\1>", page)
    text = re.sub(r'(?s)<svg [^>]*(aria-label="[^"]*")>.*?</svg>', r"<svg \1/>", text)
    text = re.sub(r"data:image/jpeg;base64,[^\"]*", "data:image/jpeg;base64,...", text)
    text = re.sub(r'data-value="([^"]*)"', lambda found: f'data-value="{float(found[1]):.6g}"', text)
    path = GOLDEN / f"{name}.html"
    if os.environ.get("RENEW_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), "if it is meant: RENEW_GOLDEN=1 pytest, and read the difference"


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
    """Five cases of two scanners, of which one fails in B and one lacks A in label and prediction; a second network; test
    part; a calibration of three bins, the first of them empty."""
    folder = root / "eval" / "evaluation" / "test"
    cases = {"good": (1, 1), "bad": (5, 9), "failing": (0, None), "lacking": (ABSENT, 2), "fair": (3, 3)}
    evaluate(
        folder,
        cases,
        attributes=[{"scanner": "x"}, {"scanner": "x"}, {"scanner": "y"}, {}, {"scanner": "y"}],
        patients=PATIENTS,
    )
    bins = [
        {"low": 0.0, "high": 0.5, "count": 0, "confidence": None, "accuracy": None},
        {"low": 0.5, "high": 0.75, "count": 30, "confidence": 0.7, "accuracy": 0.5},
        {"low": 0.75, "high": 1.0, "count": 70, "confidence": 0.9, "accuracy": 0.95},
    ]
    change(folder, calibration={"ece": 0.3 * 0.2 + 0.7 * 0.05, "over": "foreground voxels", "bins": bins})
    evaluate(folder, dict.fromkeys(cases, (4, 4)), name="student")
    return folder


def write_metrics(path):
    path.write_text("epoch,learning_rate,term/supervised,val/model/dice_mean\n1,0.01,0.7,0.4\n2,0.005,0.5,0.6\n")
    return path


def write_ages(folder, values, name="model"):
    ages = [{"age": str(20 + i)} for i in range(values)]
    return evaluate(folder, {f"c{i}": (1, 1) for i in range(values + 1)}, attributes=[*ages, {}], pictures=False)


def write_two(root):
    """Ours is 10, 20, 30, 40 points better in c0 to c3 and 50 worse in c4; c5 has no Dice."""
    base = {"c0": (3, 3), "c1": (4, 4), "c2": (5, 5), "c3": (6, 6), "c4": (1, 1), "c5": (ABSENT, ABSENT)}
    ours = {**dict.fromkeys(base, (2, 2)), "c4": (6, 6), "c5": (ABSENT, ABSENT)}
    attributes = [{"scanner": "x"}] * 3 + [{"scanner": "y"}] * 3
    a = evaluate(root / "base", base, attributes=attributes)
    return a, evaluate(root / "ours", ours, attributes=attributes)


def compared(two, tmp_path, names=("sup", "semi")):
    """The page of two tables of cases."""
    return Page(compare_report(*two, names, tmp_path / "page.html"))
