"""The page of a study, ``verdict.html``: did the unlabelled scans help, what would more labels bring, which scans next."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from ..cohort.facts import Facts, Record
from ..cohort.names import first_file, stem
from ..cohort.split import FoundScan
from ..evaluation.case_table import read_cases
from ..evaluation.compare import Difference, beside_dice, judgement, paired_difference
from ..files import write_text
from ..inference.confidence import FILE as CONFIDENCE
from ..report import charts, page, pair
from ..report.inputs import read_evaluated
from ..report.palette import GRID, LINE_COLOURS
from ..report.tables import Cell, Column, Table, number, texts
from ..report.unlabelled import notes
from . import labels_worth, preview, quality
from .budget import ENOUGH
from .jobs import MAPS, SCORES
from .label_maps import map_of, read_map
from .parts import Part
from .pooled import pool
from .settings import Settings, StudyError
from .trainings import RECORD, RUNS, WORK, Trainings, final_name, fold_name
from .unlike import unlike

PAGE = "verdict.html"
SCORED = "work/scores"
MORE = (5, 10, 20)  # further labelled patients that the page speaks of
HISTORY = "work/history.json"
SHOWN = 24  # scans on the contact sheet


@dataclass
class Told:
    """What a study has found so far."""

    folder: Path
    settings: Settings
    task: Mapping[str, Any]
    trainings: Trainings
    failed: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def runs(self) -> Path:
        return self.folder / RUNS

    @property
    def names(self) -> tuple[str, str]:
        """What the two are called: by the use that they make of the unlabelled scans."""
        return "without", "with"

    @cached_property
    def scan_names(self) -> dict[str, str]:
        """Of every image file, of several modalities the first, the name of its scan."""
        return {_first(scan): scan.name for scan in self.trainings.scans}

    def image_of(self, name: str) -> str:
        """The image of a scan; of several modalities the first."""
        return next(_first(scan) for scan in self.trainings.scans if scan.name == name)

    def table(self, part: Part, bundle: str, kind: str = "") -> Path:
        return self.runs / fold_name(part, bundle, kind) / SCORES / "model.csv"

    def judged(self, *kinds: tuple[str, str]) -> list[Part]:
        """The parts in which all of these, each a bundle and a kind, are scored."""
        return [part for part in self.trainings.parts if all(self.table(part, *kind).is_file() for kind in kinds)]


def _first(scan: FoundScan) -> str:
    return str(next(iter(scan.image.values())) if isinstance(scan.image, Mapping) else scan.image)


def write(told: Told) -> Path:
    """Write the page and what lies beside it: ``scores.csv``, ``predictions/`` with previews, ``compare.html``.

    Raises:
        StudyError: no fold is done with both bundles: there is nothing to tell yet.
    """
    baseline, method = told.settings.baseline, told.settings.method
    parts = told.judged((baseline, ""), (method, ""))
    if not parts:
        raise StudyError(
            f"{told.folder}: no fold is done with {baseline} and {method}, there is nothing to tell yet. Go on with "
            f"python -m custom.study run {told.folder}"
        )
    tables = {
        bundle: pool([told.table(part, bundle) for part in parts], told.folder / SCORED, bundle)
        for bundle in (baseline, method)
    }
    both = pair.Pair(*(read_evaluated(tables[b], n) for b, n in zip(tables, told.names, strict=True)))
    pair.compare_report(tables[baseline], tables[method], told.names, told.folder / "compare.html")
    serving = method if both.dice.mean >= 0 else baseline
    scans = _unlabelled(told, parts, both, serving)
    _write_scores(told, both, scans)
    sheet = _hand_over(told, scans, serving)
    scored, balance = both.scored(), pair.balance_text(both)
    several = {name: both.difference(f"dice_{name}") for name in both.classes} if len(both.classes) > 1 else {}
    text = page.render(
        "study.html",
        Path(__file__).parent,
        title="Did the unlabelled scans help?",
        told=told,
        counts=_counts(told),
        parts=parts,
        pair=both,
        dice=both.dice,
        means=both.means("dice_mean"),
        sentence=_sentence(both),
        needed=_needed(both.dice, both),
        before=_before(told, both),
        beside=beside_dice(both.baseline, both.ours, told.names, both.dice, both.unit),
        warnings=_warnings(told, parts),
        equal_time=_equal_time(told),
        bars=pair.bars_chart(both, scored, balance),
        lanes=pair.lanes_chart(several, "class") if several else None,
        metrics=pair.metrics_table(both),
        worth=_worth(told, parts),
        scans=scans,
        sheet=sheet,
        pictures=pair.three_cases(both),
        cases=pair.cases_table(both),
        calibration=_calibration(tables, serving),
        curves=_curves(told),
        serving=serving,
        failed=told.failed,
    )
    write_text(told.folder / PAGE, text)
    return told.folder / PAGE


# the verdict


def _counts(told: Told) -> dict[str, int]:
    part = told.trainings.parts[0]
    return {"labelled": len(part.train) + len(part.judges), "unlabelled": len(told.trainings.unlabelled)}


def _sentence(both: pair.Pair) -> str:
    """The verdict of :func:`..evaluation.compare.verdict`, of runs that differ in nothing but the unlabelled scans."""
    sign, amount, basis = judgement(both.dice)
    without, with_ = (number(mean, 3).text for mean in both.means("dice_mean"))
    if sign:
        how = "helped" if sign > 0 else "harmed"
        return f"The unlabelled scans {how}: Dice {with_} with them, {without} without, a difference of {amount} ({basis})."
    return f"No evidence either way: Dice {with_} with the unlabelled scans, {without} without, {amount} ({basis})."


def _needed(dice: Difference, both: pair.Pair) -> str:
    """What it would take to know, where the interval holds 0 or there are too few patients for one."""
    if dice.low > 0 or dice.high < 0:
        return ""
    by_patient: dict[str, list[float]] = {}
    for scored in both.scored():
        by_patient.setdefault(scored.base["patient"], []).append(scored.difference)
    means = [math.fsum(values) / len(values) for values in by_patient.values()]
    if len(means) < 3:
        return "Too few patients judge to say how many it would take to know."
    width = max(abs(100 * dice.mean), 1.0)
    count = labels_worth.patients_needed(means, width)
    return (
        f"To tell a difference of {width:.1f} points from none, some {count} labelled patients would have to judge; "
        f"{len(means)} do."
    )


def _before(told: Told, both: pair.Pair) -> list[str]:
    """What earlier pages of this study said with fewer labels, and keep what this one says."""
    path = told.folder / HISTORY
    history = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    without, with_ = (round(mean, 4) for mean in both.means("dice_mean"))
    now = {"labelled": _counts(told)["labelled"], "steps": told.settings.steps, "without": without, "with": with_}
    earlier = [row for row in history if row["labelled"] != now["labelled"]]
    write_text(path, json.dumps([*earlier, now], indent=1) + "\n")
    return [
        f"Before, with {row['labelled']} labelled patients ({row['steps']} steps): Dice {row['with']:.3f} with the unlabelled "
        f"scans, {row['without']:.3f} without. Other patients judged too, so the two are not compared patient by patient."
        for row in earlier
    ]


def _warnings(told: Told, parts: Sequence[Part]) -> list[str]:
    """What must be read before any figure: unlabelled scans that hardly took part, trainings too short to tell."""
    found = [text for part in parts for text in notes(told.table(part, told.settings.method), part.name)]
    if told.settings.steps < ENOUGH:
        found.append(
            f"These are short trainings, of {told.settings.steps} steps: networks learn on for thousands, and unlabelled scans "
            f"help late. For a verdict that lasts allow a longer BUDGET, for some {ENOUGH} steps and more."
        )
    return found


def _equal_time(told: Told) -> Difference | None:
    """The method against the baseline trained as long in time, where that was run in all of its folds."""
    baseline, method = told.settings.baseline, told.settings.method
    if not told.settings.steps_at_equal_time:
        return None
    parts = told.judged((baseline, "equal_time"), (method, ""))
    if not parts:
        return None
    ours = [row for part in parts for row in read_cases(told.table(part, method))]
    theirs = [row for part in parts for row in read_cases(told.table(part, baseline, "equal_time"))]
    return paired_difference(ours, theirs)


# more labels


@dataclass(frozen=True)
class Worth:
    """What more labels would bring: a line a gain, the figure, and how it was computed; or why nothing is said."""

    lines: list[str] = field(default_factory=list)
    svg: Markup | None = None
    reason: str = ""


def _worth(told: Told, parts: Sequence[Part]) -> Worth:
    baseline, method = told.settings.baseline, told.settings.method
    if not told.settings.half:
        return Worth(reason="This was left out: it takes trainings with half of the labels (half: true in study.yaml).")
    curves = {}
    for bundle, name in ((baseline, told.names[0]), (method, told.names[1])):
        points = [
            labels_worth.Point(len(patients), row["patient"], row["dice_mean"])
            for part in parts
            for kind, patients in (("", part.train), ("half", part.half))
            if told.table(part, bundle, kind).is_file()
            for row in read_cases(told.table(part, bundle, kind))
        ]
        found = labels_worth.fit(points)
        if isinstance(found, labels_worth.NoCurve):
            return Worth(reason=f"Nothing can be said: {found.reason}.")
        curves[name] = (found, points)
    (before, _), (ours, points) = curves[told.names[0]], curves[told.names[1]]
    now = max(point.labelled for point in points)
    lines = []
    for more in MORE:
        gain = ours.gain(more)
        lines.append(f"{more} more labelled patients, and the unlabelled scans: {_points(gain)}{_guess(gain)}.")
    value = labels_worth.worth(ours, before, now)
    if math.isfinite(value.value):
        lines.append(
            f"In labels' worth: {now} labelled patients with the unlabelled scans do as well as {value.value:.0f} without "
            f"(95 % interval {_count(value.low)} to {_count(value.high)}){_guess(value)}."
        )
    return Worth(lines, _curve_chart(curves, now + MORE[-1]))


def _points(amount: labels_worth.Amount) -> str:
    return f"{amount.value:+.1f} Dice points (95 % interval {amount.low:.1f} to {amount.high:.1f})"


def _count(number: float) -> str:
    return f"{number:.0f}" if math.isfinite(number) else "more than were tried"


def _guess(amount: labels_worth.Amount) -> str:
    return f" ({amount.warning})" if amount.warning else ""


def _curve_chart(curves: Mapping[str, Any], most: int) -> Markup:
    """Mean Dice of held-out patients at the numbers that were trained, and the curves, dashed where they go beyond."""

    def make() -> Any:
        figure = charts.new_figure(5.4, 3.4)
        axis = figure.subplots()
        for colour, (name, (curve, points)) in zip(LINE_COLOURS, curves.items(), strict=False):
            sizes = sorted({point.labelled for point in points})
            known = {n: [p.dice for p in points if p.labelled == n and math.isfinite(p.dice)] for n in sizes}
            axis.plot(
                sizes,
                [sum(v) / len(v) for v in known.values()],
                "o",
                color=colour,
                label=f"{name} the unlabelled scans",
            )
            for places, style in (
                (np.linspace(sizes[0], sizes[-1], 20), "-"),
                (np.linspace(sizes[-1], most, 40), "--"),
            ):
                found = [curve.at(n) for n in places]
                axis.plot(places, [a.value for a in found], style, color=colour, linewidth=1.3)
                axis.fill_between(
                    places, [a.low for a in found], [a.high for a in found], color=colour, alpha=0.12, linewidth=0
                )
        axis.set(
            xlabel="labelled patients that train; dashed: beyond what was tried", ylabel="Dice of patients held out"
        )
        axis.grid(color=GRID, linewidth=0.6)
        axis.set_axisbelow(True)
        figure.legend(loc="outside upper left", frameon=False, fontsize=8, ncols=2)
        return figure

    spoken = "; ".join(
        f"{name} {curve.at(curve.largest).value:.3f} with {curve.largest}" for name, (curve, _) in curves.items()
    )
    return charts.svg(make, f"Dice against the number of labelled patients: {spoken}")


# scans without a label


@dataclass(frozen=True)
class Later:
    """An unlabelled scan as the page lists it."""

    name: str
    predicted: float
    agreement: float
    confidence: float
    marks: tuple[str, ...]


@dataclass(frozen=True)
class Scans:
    """The unlabelled scans, those to correct first at the top, and how far the prediction of their quality can be trusted."""

    order: list[Later] = field(default_factory=list)
    table: Table | None = None
    quality: quality.Quality | None = None
    unlike: int = 0


def _unlabelled(told: Told, parts: Sequence[Part], both: pair.Pair, serving: str) -> Scans:
    held = _held_out(told, parts, both, serving)
    later = _later(told)
    if not later:
        return Scans()
    found = quality.predict(held, later)
    marks = unlike(*_facts(told))
    of = {scan.name: scan for scan in later}
    order = [
        Later(name, found.predicted.get(name, math.nan) if found.useful else math.nan, of[name].agreement, of[name].confidence,
              (*(("nothing found",) if name in found.nothing_found else ()), *marks.get(name, ())))
        for name in found.first
    ]  # fmt: skip
    predicted = (
        [Column("predicted Dice", lambda scan: number(scan.predicted, 2), ascending=True)] if found.useful else []
    )
    columns = [
        texts("scan", attrgetter("name")),
        *predicted,
        Column("the networks agree", lambda scan: number(scan.agreement, 2)),
        Column("confidence", lambda scan: number(scan.confidence, 2)),
        texts("unlike the labelled scans", lambda scan: Cell("; ".join(scan.marks), bad=bool(scan.marks))),
    ]
    table = Table(f"{len(order)} unlabelled scans, the one to look at first on top; a click on a head sorts.", columns,
                  order, sortable=True)  # fmt: skip
    return Scans(order, table, found, sum(bool(marks.get(name)) for name in of))


def _features(told: Told, runs: tuple[str, str], name: str, serving: int) -> tuple[float, float]:
    """Agreement of the two networks on a scan, and the confidence of that which serves."""
    folders = [told.runs / run / MAPS for run in runs]
    files = [map_of(folder, name) for folder in folders]
    values = told.task["label_values"]
    maps = [read_map(file, values) for file in files if file]
    sure = json.loads((folders[serving] / CONFIDENCE).read_text(encoding="utf-8")).get(name)
    return quality.agreement(maps, len(values)), math.nan if sure is None else float(sure)


def _mapped(told: Told, runs: tuple[str, str], name: str) -> bool:
    """Whether both networks have segmented a scan: what one of them lacks, as its training failed, is not "nothing found"."""
    return all(map_of(told.runs / run / MAPS, name) for run in runs)


def _held_out(told: Told, parts: Sequence[Part], both: pair.Pair, serving: str) -> list[quality.Scan]:
    bundles = (told.settings.baseline, told.settings.method)
    rows = both.ours if serving == told.settings.method else both.baseline
    dice = {row["case"]: row for row in rows}
    found = []
    for part in parts:
        runs = (fold_name(part, bundles[0]), fold_name(part, bundles[1]))
        for name in _segmented(told.runs / runs[0] / MAPS):
            row = next((row for case, row in dice.items() if case == name or case.endswith(f"_{name}")), None)
            if row is None or not _mapped(told, runs, name):
                continue
            agreement, sure = _features(told, runs, name, bundles.index(serving))
            found.append(quality.Scan(name, agreement, sure, row["patient"], row["dice_mean"]))
    return found


def _later(told: Told) -> list[quality.Scan]:
    bundles = (told.settings.baseline, told.settings.method)
    runs = (final_name(bundles[0]), final_name(bundles[1]))
    names = [scan.name for scan in told.trainings.unlabelled if _mapped(told, runs, scan.name)]
    return [quality.Scan(name, *_features(told, runs, name, 1)) for name in names]


def _segmented(folder: Path) -> list[str]:
    return (
        sorted(json.loads((folder / CONFIDENCE).read_text(encoding="utf-8"))) if (folder / CONFIDENCE).is_file() else []
    )


def _facts(told: Told) -> tuple[dict[str, Facts], dict[str, Facts], dict[str, str]]:
    """What the files of labelled and of unlabelled scans hold, by the name of the scan (of several modalities, the first); and
    the patients of the labelled ones."""
    final = json.loads((told.folder / WORK / "final.json").read_text(encoding="utf-8"))
    record = Record(told.folder / RECORD)
    found = []
    for part in ("labelled", "unlabelled"):
        facts = record.facts([first_file(entry) for entry in final[part]])
        found.append({_name(told, file): fact for file, fact in facts.items() if isinstance(fact, Facts)})
    patients = {_name(told, first_file(entry)): str(entry["patient"]) for entry in final["labelled"]}
    return found[0], found[1], patients


def _name(told: Told, file: str) -> str:
    """The scan's name: that of its file, without the channel that nnU-Net writes behind it."""
    return told.scan_names.get(file, stem(file))


# files beside the page


def _write_scores(told: Told, both: pair.Pair, scans: Scans) -> None:
    """``scores.csv``: a line a scan, those that judged with their Dice, the others with what is predicted of it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["scan", "patient", "dice_without", "dice_with", "predicted_dice", "agreement", "confidence", "remarks"]
    )
    for base, mine in zip(both.baseline, both.ours, strict=True):
        writer.writerow(
            [base["case"], base["patient"], *map(_cell, (base["dice_mean"], mine["dice_mean"])), "", "", "", ""]
        )
    for scan in scans.order:
        figures = map(_cell, (scan.predicted, scan.agreement, scan.confidence))
        writer.writerow([scan.name, "", "", "", *figures, "; ".join(scan.marks)])
    write_text(told.folder / "scores.csv", text.getvalue())


def _cell(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else ""


def _hand_over(told: Told, scans: Scans, serving: str) -> str:
    """``bundle/``, and ``predictions/`` with a picture a scan; returns the sheet of those to look at first, as an address."""
    run = told.runs / final_name(serving)
    if (run / "bundle/run.json").is_file():
        shutil.rmtree(told.folder / "bundle", ignore_errors=True)
        shutil.copytree(run / "bundle", told.folder / "bundle")
    out = told.folder / "predictions"
    shutil.rmtree(out, ignore_errors=True)
    drawn: list[preview.Preview] = []
    for scan in scans.order:
        file = map_of(run / MAPS, scan.name)
        if file is None:
            continue
        (out / "pictures").mkdir(parents=True, exist_ok=True)
        shutil.copy(file, out)
        mask = read_map(file, told.task["label_values"])
        title = f"{scan.name}\n{number(scan.predicted, 2).text if math.isfinite(scan.predicted) else ''}".strip()
        one = preview.preview(Path(told.image_of(scan.name)), mask, title)
        preview.write(one, told.task["classes"][1:], out / "pictures" / f"{scan.name}.png")
        if len(drawn) < SHOWN:
            drawn.append(one)
    if not drawn:
        return ""
    preview.write_sheet(drawn, told.task["classes"][1:], out / "look_at_first.png")
    return _address(out / "look_at_first.png")


def _address(png: Path) -> str:
    """A picture as JPEG within the page, a fraction of its PNG."""
    from PIL import Image

    content = io.BytesIO()
    with Image.open(png) as picture:
        picture.convert("RGB").save(content, "jpeg", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"


# what stands at the end


def _calibration(tables: Mapping[str, Path], serving: str) -> dict[str, Any] | None:
    found = json.loads(tables[serving].with_suffix(".json").read_text(encoding="utf-8")).get("calibration")
    if not found:
        return None
    ece = number(found["ece"], 3).text
    return {"ece": ece, "svg": charts.reliability(found["bins"], f"Accuracy against confidence; mean gap {ece}")}


def _curves(told: Told) -> list[tuple[str, Markup]]:
    """The learning curves of the trainings with all labels."""
    found = []
    for bundle in (told.settings.baseline, told.settings.method):
        path = told.runs / final_name(bundle) / "metrics.csv"
        if path.is_file():
            found.append((bundle, charts.learning(path, f"Learning curves of {bundle} with all labels")))
    return found
