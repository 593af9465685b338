"""The page that compares two evaluated runs, case by case."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..evaluation.case_report import BOUNDARY, BY_CONTRAST, GROUP, NOT_GIVEN, Row
from ..evaluation.compare import Difference, case_difference, paired_difference, verdict
from ..evaluation.hardness import lowest_quartile
from ..files import write_text
from . import charts, page
from .inputs import Evaluated, ReportError, read_evaluated
from .page import Cell, Column, interval, number, words
from .run import class_colours, dice_text, three_of, too_many_values, without_distance


def compare_report(baseline_csv: Path, ours_csv: Path, names: tuple[str, str], out: Path) -> Path:
    """Writes the page that sets two networks side by side, whole or not at all.

    Args:
        baseline_csv, ours_csv: their tables of cases; the other files of each evaluation lie beside its table.
        names: how the page calls the two, the baseline first.
        out: the page; its folder exists.

    Returns:
        ``out``.

    Raises:
        ReportError: a file is missing or not what an evaluation writes, the classes differ, or the names do not.
        ValueError: the cases differ, or none has a Dice in both (see :func:`.evaluation.compare.paired_difference`).
        ImportError: matplotlib is not installed.
    """
    if names[0] == names[1]:
        raise ReportError(f"both networks are called {names[0]!r}: give two different names")
    pair = Pair(read_evaluated(Path(baseline_csv), names[0]), read_evaluated(Path(ours_csv), names[1]))
    text = page.page(
        f"{names[1]} against {names[0]}",
        f"Paired over {pair.dice.cases} cases of {pair.dice.patients} patients. Every difference is {names[1]} minus "
        f"{names[0]}; a Dice point is 1/100.",
        page.paragraph(verdict(pair.dice), "verdict") + _filled(pair.dice) + _dropped(pair.dice),
        [
            ("Both networks", _table(pair)),
            ("Case by case", _charts(pair)),
            ("Classes", _classes(pair)),
            ("Groups", _groups(pair)),
            ("Largest loss, median, largest gain", _pictures(pair)),
            ("Every case", _cases(pair)),
            ("What the numbers mean", _meaning(pair)),
        ],
    )
    write_text(Path(out), text)
    return Path(out)


class Pair:
    """Two networks on the same cases, rows in the order of the baseline's.

    Args:
        baseline, ours: their scores.

    Raises:
        ReportError: the classes differ.
        ValueError: the cases differ, or none has a Dice in both.
    """

    def __init__(self, baseline: Evaluated, ours: Evaluated) -> None:
        if baseline.classes != ours.classes:
            raise ReportError(
                f"{baseline.name} has the classes {', '.join(baseline.classes)}, {ours.name} has "
                f"{', '.join(ours.classes)}. Compare networks of one task"
            )
        self.both, self.classes = (baseline, ours), ours.classes
        self.dice = paired_difference(ours.rows, baseline.rows)  # says what does not fit
        by_case = {row["case"]: row for row in ours.rows}
        self.baseline, self.ours = baseline.rows, [by_case[row["case"]] for row in baseline.rows]
        self.attributes = [name for name in baseline.attributes if name in ours.attributes]

    @property
    def unit(self) -> str:
        """Of distances."""
        return self.both[1].unit

    def difference(self, metric: str, cases: set[str] | None = None) -> Difference | None:
        """Of a metric, over some cases or all; None where no case has one."""
        ours, baseline = (
            [row for row in rows if cases is None or row["case"] in cases] for rows in (self.ours, self.baseline)
        )
        known = (math.isfinite(_minus(base, mine, metric)) for base, mine in zip(baseline, ours, strict=True))
        return paired_difference(ours, baseline, metric) if any(known) else None

    def scored(self) -> list[tuple[float, Row, Row]]:
        """Difference, baseline and ours of every case with a difference of Dice, from the largest loss on."""
        pairs = [(_minus(base, mine, "dice_mean"), base, mine)
                 for base, mine in zip(self.baseline, self.ours, strict=True)]  # fmt: skip
        return sorted((pair for pair in pairs if math.isfinite(pair[0])), key=lambda pair: pair[0])


def _filled(difference: Difference) -> str:
    if not difference.filled:
        return ""
    cases = f"{difference.filled} case{'' if difference.filled == 1 else 's'}"
    return page.paragraph(
        f"In {cases} one of the two rightly found nothing where the other found something: its Dice, which has no number, "
        "is taken as 1 in the differences.",
        "faint",
    )


def _dropped(difference: Difference) -> str:
    if not difference.dropped:
        return ""
    return page.paragraph(f"Left out, without a number in both: {', '.join(difference.dropped)}.", "faint")


def _table(pair: Pair) -> str:
    names, several = [network.name for network in pair.both], pair.both[0].several
    columns = [
        Column("metric", words=True),
        *(Column(name) for name in names),
        *(Column(name, "difference, paired") for name in ("mean", "95 % interval", "cases", "patients", "p")),
    ]
    metrics = [("Dice, mean (difference in points)", "dice_mean", 3, 100.0, 1)]
    metrics += [(f"Dice, {name} (difference in points)", f"dice_{name}", 3, 100.0, 1) for name in several]
    metrics += [("boundary Dice (difference in points)", BOUNDARY, 3, 100.0, 1)]
    metrics += [(f"HD95, {pair.unit}", "hd95_mm_mean", 1, 1.0, 1)]
    metrics += [(f"HD95, {name}, {pair.unit}", f"hd95_mm_{name}", 1, 1.0, 1) for name in several]
    metrics += [(f"ASD, {pair.unit}", "asd_mm_mean", 2, 1.0, 2)]
    rows = []
    for label, metric, digits, scale, places in metrics:
        means = [_mean(network, metric, digits) for network in pair.both]
        found = pair.difference(metric)
        rows.append([words(label), *means, *_difference_cells(found, scale, places), _significance(found)])
    counts = [network.summary["failures"] for network in pair.both]
    failures = [Cell(str(count), count, bad=count > 0) for count in counts]
    rows.append([words("failures"), *failures, number(counts[1] - counts[0], 0, sign=True), *[number(None, 0)] * 4])
    return page.table("Means of each over its own cases; differences over the cases that have one", columns, rows)


def _mean(network: Evaluated, metric: str, digits: int) -> Cell:
    """Of a distance with the failures that it leaves out."""
    cell = number(network.metric(metric).get("mean"), digits)
    if "_mm_" not in metric:
        return cell
    of_class = network.summary["classes"].get(metric.split("_mm_", 1)[1], network.summary)
    return replace(cell, text=cell.text + without_distance(of_class["failures"], "; "))


def _difference_cells(found: Difference | None, scale: float, digits: int) -> list[Cell]:
    """Mean, interval, cases, patients of a difference."""
    if found is None:
        return [number(None, 0)] * 4
    return [
        number(scale * found.mean, digits, sign=True),
        interval(scale * found.low, scale * found.high, digits, sign=True),
        number(found.cases, 0),
        number(found.patients, 0),
    ]


def _significance(found: Difference | None) -> Cell:
    p = math.nan if found is None else found.p
    return Cell("< 0.001", p) if p < 0.001 else number(p, 3)


def _charts(pair: Pair) -> str:
    names = (pair.both[0].name, pair.both[1].name)
    scored = pair.scored()
    gains, losses = (sum(sign * d > 0 for d, *_ in scored) for sign in (1, -1))
    said = f"{names[1]} is better in {gains} of {len(scored)} cases and worse in {losses}."
    dots = charts.scatter(
        [_dice(base) for _, base, _ in scored],
        [_dice(mine) for *_, mine in scored],
        names,
        f"Dice of {names[1]} against {names[0]}. {said}",
    )
    mean, low, high = (100 * value for value in (pair.dice.mean, pair.dice.low, pair.dice.high))
    bars = charts.differences(
        [100 * d for d, *_ in scored], mean, low, high, f"Differences of Dice by case, sorted. {said}"
    )
    return page.charts(
        [
            page.chart(
                dots, f"Mean Dice of each case. {said} Blue, above the line: better; orange: worse; grey: equal."
            ),
            page.chart(bars, "A bar a case. Dashed: the mean difference; band: its 95 % interval over patients."),
        ]
    )


def _classes(pair: Pair) -> str:
    found = {name: pair.difference(f"dice_{name}") for name in pair.classes}
    return _lanes({name: value for name, value in found.items() if value is not None}, "class", pair.both[1].name)


def _groups(pair: Pair) -> str:
    quartile = lowest_quartile(pair.baseline)
    groups = {BY_CONTRAST: quartile} if quartile else {}
    for attribute in pair.attributes:
        values = sorted({row[GROUP + attribute] for row in pair.baseline})
        groups[attribute] = {v: [row for row in pair.baseline if row[GROUP + attribute] == v] for v in values}
    content = []
    for attribute, members in groups.items():
        if told := too_many_values(attribute, members):
            content.append(told)
            continue
        found = {}
        for value, rows_of_value in members.items():
            difference = pair.difference("dice_mean", {row["case"] for row in rows_of_value})
            if difference is not None:
                found[value or NOT_GIVEN] = difference
        columns = [
            Column(attribute, words=True),
            *(Column(name, "difference, Dice points") for name in ("mean", "95 % interval", "cases", "patients")),
        ]
        rows = [[words(value), *_difference_cells(difference, 100.0, 1)] for value, difference in found.items()]
        content.append(
            page.table(f"Difference of mean Dice by {attribute}", columns, rows)
            + _lanes(found, attribute, pair.both[1].name)
        )
    return "\n".join(content)


def _lanes(found: dict[str, Difference], by: str, ours: str) -> str:
    drawn = {
        f"{name} ({d.cases} case{'' if d.cases == 1 else 's'})": (100 * d.mean, 100 * d.low, 100 * d.high)
        for name, d in found.items()
    }
    if not drawn:
        return ""
    spoken = "; ".join(f"{name} {mean:+.1f}" for name, (mean, *_) in drawn.items())
    svg = charts.intervals(
        drawn, "difference, Dice points", 0.0, "no difference", f"Differences in points by {by}: {spoken}"
    )
    caption = (
        f"Mean difference by {by}; to the right {ours} is better. 95 % intervals over patients, which say little where "
        "these are few."
    )
    return page.chart(svg, caption)


def _pictures(pair: Pair) -> str:
    shown = pair.both[0].cases_with_pictures() & pair.both[1].cases_with_pictures()
    scored = [found for found in pair.scored() if found[1]["case"] in shown]
    if not scored:
        return ""
    ranks = three_of(len(scored), "Largest loss", "Median", "Largest gain")
    blocks = [_side_by_side(pair, *scored[index], ranks[index]) for index in sorted(ranks)]
    note = "One slice of each case, that with most of the label. Dice is of the whole case."
    return page.paragraph(note, "faint") + page.key(class_colours(pair.classes)) + "".join(blocks)


def _side_by_side(pair: Pair, difference: float, base: Row, mine: Row, rank: str) -> str:
    case = base["case"]
    theirs, ours = (network.slice_of(case) for network in pair.both)
    heading = f"{rank}: {case}, {number(100 * difference, 1, sign=True).text} Dice points"
    if not (np.array_equal(theirs.image, ours.image) and np.array_equal(theirs.label, ours.label)):
        return page.panels(heading, []) + page.paragraph(
            "The two evaluations kept different slices of this case.", "faint"
        )
    image, reference, *predictions = charts.case(ours, [theirs.pred, ours.pred], pair.classes, pair.unit)
    pictures = [
        (image, f"image of {case}", "image; the box is what the others show"),
        (reference, f"{case}: outlines of the reference", "reference"),
    ]
    for network, row, picture in zip(pair.both, (base, mine), predictions, strict=True):
        alt = f"{case}: outlines of {network.name} over the reference"
        pictures.append((picture, alt, f"{network.name}: {dice_text(row, pair.classes)}"))
    return page.panels(heading, pictures)


def _cases(pair: Pair) -> str:
    """The largest loss first; cases without a difference of Dice last."""
    names = [network.name for network in pair.both]
    several = pair.both[0].several
    columns = [
        *(Column(name, words=True) for name in ("case", "patient", *pair.attributes)),
        *(Column(name, "Dice, mean") for name in names),
        Column("mean", "difference, Dice points", ascending=True),
        *(Column(name, "difference, Dice points") for name in several),
        *(Column(name, f"HD95, {pair.unit}") for name in (*names, "difference")),
        *(Column(name, "failures") for name in names),
    ]
    both = zip(pair.baseline, pair.ours, strict=True)
    rows = sorted(both, key=lambda row: _order(_minus(row[0], row[1], "dice_mean")))
    cells = [
        [
            *(words(base[key]) for key in ("case", "patient")),
            *(words(base[GROUP + name] or NOT_GIVEN) for name in pair.attributes),
            *(number(row["dice_mean"], 3) for row in (base, mine)),
            *(number(100 * _minus(base, mine, f"dice_{n}"), 1, sign=True) for n in ("mean", *several)),
            *(number(row.get("hd95_mm_mean"), 1) for row in (base, mine)),
            number(_minus(base, mine, "hd95_mm_mean"), 1, sign=True),
            *(Cell(str(row["failures"]), row["failures"], bad=row["failures"] > 0) for row in (base, mine)),
        ]
        for base, mine in rows
    ]
    caption = f"{len(rows)} case{'' if len(rows) == 1 else 's'}, the largest loss first; a click on a head sorts."
    marks = [base["failures"] + mine["failures"] > 0 for base, mine in rows]
    return page.table(caption, columns, cells, sortable=True, bad_rows=marks)


def _dice(row: Row) -> float:
    """Of a case that has a difference: without a number it was taken as 1."""
    return 1.0 if math.isnan(row["dice_mean"]) else row["dice_mean"]


def _minus(base: Row, mine: Row, metric: str) -> float:
    return case_difference(mine, base, metric) if metric in base and metric in mine else math.nan


def _order(difference: float) -> tuple[bool, float]:
    return math.isnan(difference), difference


def _meaning(pair: Pair) -> str:
    interval_text: Sequence[str] = [str(network.summary["interval"]) for network in pair.both]
    return page.bullets(
        [
            "A difference is taken case by case, so that what makes a case hard falls out of it.",
            f"Intervals: {interval_text[1]}. An interval that contains 0 is no evidence either way. It speaks of other "
            "patients like these, not of another training: repeat with several seeds before you rely on it.",
            "p: Wilcoxon's signed-rank test on the patients' mean differences, not corrected for how many rows there are. "
            "The sentence at the top goes by the interval.",
            f"HD95 and ASD in {pair.unit}, smaller is better; of a case the mean over the classes that prediction and "
            "label hold. A failure (one of them is empty) has no distance and its case no mean: read the failures beside it.",
            "The intervals of classes and groups are not corrected for how many there are: with many groups, one will "
            "exclude 0 by chance.",
        ]
    )
