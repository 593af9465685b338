"""The page that compares two evaluated runs, case by case: its figures; the words stand in ``templates/pair.html``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from ..evaluation.case_report import BOUNDARY, BY_CONTRAST, FAULTS, GROUP, NOT_GIVEN, Row
from ..evaluation.compare import Difference, beside_dice, case_difference, paired_difference, verdict
from ..evaluation.hardness import lowest_quartile
from ..files import write_text
from . import charts, page
from .inputs import Evaluated, ReportError, read_evaluated
from .parts import Group, Panels, attribute_columns, group_of, image_and_reference, prediction, three_of
from .tables import Cell, Column, Table, counted, fault_cell, faults, figures, interval, number, texts
from .unlabelled import notes

POINTS = "difference, Dice points"


def compare_report(
    baseline_csv: Path, ours_csv: Path, names: tuple[str, str], out: Path, warnings: Sequence[str] = ()
) -> Path:
    """Write the page that sets two networks side by side, whole or not at all.

    Args:
        baseline_csv, ours_csv: their tables of cases; the other files of each evaluation lie beside its table.
        names: how the page calls the two, the baseline first.
        out: the page; its folder exists.
        warnings: what must be read before any figure, and cannot be seen from the two tables.

    Returns:
        ``out``.

    Raises:
        ReportError: a file is missing or not what an evaluation writes, the classes differ, or the names do not.
        ValueError: the cases differ, or none has a Dice in both (see :func:`.evaluation.compare.paired_difference`).
        ImportError: matplotlib is not installed.
    """
    from ..evaluation.same_settings import only_unlabelled_differs  # brings MONAI, which importing the report does not

    if names[0] == names[1]:
        raise ReportError(f"both networks are called {names[0]!r}: give two different names")
    pair = Pair(read_evaluated(Path(baseline_csv), names[0]), read_evaluated(Path(ours_csv), names[1]))
    scored, balance = pair.scored(), balance_text(pair)
    of_classes = {name: pair.difference(f"dice_{name}") for name in pair.classes}
    text = page.render(
        "pair.html",
        title=f"{names[1]} against {names[0]}",
        baseline=names[0],
        ours=names[1],
        warnings=warnings,
        dice=pair.dice,
        verdict=verdict(pair.dice, names, only_unlabelled_differs(Path(baseline_csv), Path(ours_csv))),
        beside=[
            *beside_dice(pair.baseline, pair.ours, names, pair.dice, pair.unit),
            *(note for path, name in zip((baseline_csv, ours_csv), names, strict=True) for note in notes(path, name)),
        ],
        metrics=metrics_table(pair),
        balance=balance,
        dots=dots_chart(pair, scored, balance),
        bars=bars_chart(pair, scored, balance),
        classes=lanes_chart(of_classes, "class"),
        class_names=pair.classes,
        groups=_groups(pair),
        pictures=three_cases(pair),
        cases=cases_table(pair),
        interval_text=pair.both[1].summary["interval"],
        unit=pair.unit,
    )
    write_text(Path(out), text)
    return Path(out)


class Scored(NamedTuple):
    """Ours minus the baseline, in Dice, and the rows of a case."""

    difference: float
    base: Row
    mine: Row


class Pair:
    """Two networks on the same cases, rows in the order of the baseline's.

    Args:
        baseline, ours: their scores.

    Raises:
        ReportError: the classes or the units of distances differ.
        ValueError: the cases differ, or none has a Dice in both.
    """

    def __init__(self, baseline: Evaluated, ours: Evaluated) -> None:
        if baseline.classes != ours.classes:
            raise ReportError(
                f"{baseline.name} has the classes {', '.join(baseline.classes)}, {ours.name} has "
                f"{', '.join(ours.classes)}. Compare networks of one task"
            )
        if baseline.unit != ours.unit:
            raise ReportError(
                f"distances of {baseline.name} are in {baseline.unit}, those of {ours.name} in {ours.unit}. Score both on "
                "the same files"
            )
        self.both, self.classes = (baseline, ours), ours.classes
        self.dice = paired_difference(ours.rows, baseline.rows)  # says what does not fit
        by_case = {row["case"]: row for row in ours.rows}
        self.baseline, self.ours = baseline.rows, [by_case[row["case"]] for row in baseline.rows]
        self.attributes = [name for name in baseline.attributes if name in ours.attributes]

    @property
    def unit(self) -> str:
        """The unit of distances."""
        return self.both[1].unit

    def difference(self, metric: str, cases: set[str] | None = None) -> Difference | None:
        """Return the difference of a metric over some cases or all; None where no case has one."""
        ours, baseline = (
            [row for row in rows if cases is None or row["case"] in cases] for rows in (self.ours, self.baseline)
        )
        known = (math.isfinite(_minus(base, mine, metric)) for base, mine in zip(baseline, ours, strict=True))
        return paired_difference(ours, baseline, metric) if any(known) else None

    def means(self, metric: str) -> tuple[float, float]:
        """Return the mean of the baseline and of ours over the cases with a difference; NaN where there is none."""
        pairs = zip(self.baseline, self.ours, strict=True)
        known = [(base[metric], mine[metric]) for base, mine in pairs if math.isfinite(_minus(base, mine, metric))]
        base, mine = (
            (math.fsum(values) / len(known) for values in zip(*known, strict=True)) if known else (math.nan,) * 2
        )
        return base, mine

    def cases(self) -> list[Scored]:
        """Every case, from the largest loss on; those without a difference of Dice last."""
        rows = zip(self.baseline, self.ours, strict=True)
        found = [Scored(_minus(base, mine, "dice_mean"), base, mine) for base, mine in rows]
        return sorted(found, key=lambda case: (math.isnan(case.difference), case.difference))

    def scored(self) -> list[Scored]:
        """The cases with a difference of Dice."""
        return [case for case in self.cases() if math.isfinite(case.difference)]


def _minus(base: Row, mine: Row, metric: str) -> float:
    return case_difference(mine, base, metric) if metric in base and metric in mine else math.nan


# tables


class Measure(NamedTuple):
    """A row of the table of metrics: its name, its column of the cases, decimals of a mean, and those of a difference,
    which is shown ``scale`` times as large."""

    label: str
    metric: str
    digits: int
    scale: float = 1.0
    difference_digits: int = 1


def metrics_table(pair: Pair) -> Table:
    """A row a measure: both means, and their paired difference with its interval."""
    several = pair.both[0].several
    overlaps = [("Dice, mean", "dice_mean"), *((f"Dice, {name}", f"dice_{name}") for name in several)]
    overlaps.append(("boundary Dice", BOUNDARY))
    measures = [
        *(Measure(f"{label} (difference in points)", metric, 3, 100.0) for label, metric in overlaps),
        Measure(f"HD95, {pair.unit}", "hd95_mm_mean", 1),
        *(Measure(f"HD95, {name}, {pair.unit}", f"hd95_mm_{name}", 1) for name in several),
        Measure(f"ASD, {pair.unit}", "asd_mm_mean", 2, difference_digits=2),
    ]
    rows = [_metric(pair, measure) for measure in measures]
    rows += [_faults(pair, kind, name) for kind in FAULTS for name in ("", *several)]
    heads = [("metric", ""), *((network.name, "") for network in pair.both)]
    heads += [(name, "difference, paired") for name in ("mean", "95 % interval", "cases", "patients", "p")]
    columns = [Column(name, itemgetter(i), group, words=i == 0) for i, (name, group) in enumerate(heads)]
    return Table("Means over the cases that have a number in both, and their differences", columns, rows)


def _metric(pair: Pair, measure: Measure) -> list[Cell | str]:
    found = pair.difference(measure.metric)
    means = [number(mean, measure.digits) for mean in pair.means(measure.metric)]
    cells = _difference(found, measure.scale, measure.difference_digits)
    p = math.nan if found is None else found.p
    return [measure.label, *means, *cells, Cell("< 0.001", p) if p < 0.001 else number(p, 3)]


def _faults(pair: Pair, kind: str, name: str) -> list[Cell | str]:
    """A row of missed structures or false alarms: of a class, or of all."""
    places = len(pair.ours) * (1 if name else len(pair.classes))
    base, mine = counts = [network.summary["classes"][name] if name else network.summary for network in pair.both]
    cells = [fault_cell(of, places, kind) for of in counts]
    title = FAULTS[kind].lower()
    return [f"{title}, {name}" if name else title, *cells, number(mine[kind] - base[kind], 0, sign=True), *_unknown(4)]


def _difference(found: Difference | None, scale: float, digits: int) -> list[Cell]:
    """Mean, interval, cases, patients."""
    if found is None:
        return _unknown(4)
    return [
        number(scale * found.mean, digits, sign=True),
        interval(scale * found.low, scale * found.high, digits, sign=True),
        number(found.cases, 0),
        number(found.patients, 0),
    ]


def _unknown(count: int) -> list[Cell]:
    return [number(None, 0)] * count


def cases_table(pair: Pair) -> Table:
    """A row a case; its item is a :class:`Scored`."""
    (one, other), several = (network.name for network in pair.both), pair.both[0].several
    hd95 = f"HD95, {pair.unit}"

    def both(metric: str, digits: int, group: str) -> list[Column]:
        return [
            figures(one, lambda case: case.base.get(metric), digits, group),
            figures(other, lambda case: case.mine.get(metric), digits, group),
        ]

    def points(head: str, metric: str, ascending: bool = False) -> Column:
        return figures(
            head, lambda case: 100 * _minus(case.base, case.mine, metric), 1, POINTS, sign=True, ascending=ascending
        )

    about = [
        texts("case", itemgetter("case")),
        texts("patient", itemgetter("patient")),
        *attribute_columns(pair.attributes),
    ]
    columns = [
        *(replace(column, cell=_of_base(column.cell)) for column in about),
        *both("dice_mean", 3, "Dice, mean"),
        points("mean", "dice_mean", ascending=True),
        *(points(name, f"dice_{name}") for name in several),
        *both("hd95_mm_mean", 1, hd95),
        figures("difference", lambda case: _minus(case.base, case.mine, "hd95_mm_mean"), 1, hd95, sign=True),
        *(column for kind, title in FAULTS.items() for column in _two_counts(kind, title.lower(), (one, other))),
    ]
    caption = f"{counted(len(pair.baseline), 'case')}, the largest loss first; a click on a head sorts."
    return Table(caption, columns, pair.cases(), sortable=True,
                 bad=lambda case: any(row[kind] for kind in FAULTS for row in (case.base, case.mine)))  # fmt: skip


def _two_counts(kind: str, title: str, names: Sequence[str]) -> list[Column]:
    """How often a case has one kind of fault in the baseline and in ours."""
    one, other = names
    return [faults(one, lambda case: case.base[kind], title), faults(other, lambda case: case.mine[kind], title)]


def _of_base(cell: Callable[[Row], Cell | str]) -> Callable[[Scored], Cell | str]:
    return lambda case: cell(case.base)


def _groups(pair: Pair) -> list[Group]:
    quartile = lowest_quartile(pair.baseline)
    attributes = {BY_CONTRAST: quartile} if quartile else {}
    for attribute in pair.attributes:
        values = sorted({row[GROUP + attribute] for row in pair.baseline})
        attributes[attribute] = {v: [row for row in pair.baseline if row[GROUP + attribute] == v] for v in values}
    return [_group(pair, attribute, members) for attribute, members in attributes.items()]


def _group(pair: Pair, attribute: str, members: Mapping[str, Sequence[Row]]) -> Group:
    group = group_of(attribute, members)
    if group.too_many:
        return group
    found = {}
    for value, rows in members.items():
        difference = pair.difference("dice_mean", {row["case"] for row in rows})
        if difference is not None:
            found[value or NOT_GIVEN] = difference
    heads = ("mean", "95 % interval", "cases", "patients")
    columns = [
        texts(attribute, itemgetter(0)),
        *(Column(head, itemgetter(i), POINTS) for i, head in enumerate(heads, 1)),
    ]
    table = Table(
        f"Difference of mean Dice by {attribute}",
        columns,
        [(value, *_difference(d, 100.0, 1)) for value, d in found.items()],
    )
    return replace(group, table=table, svg=lanes_chart(found, attribute))


# figures


def balance_text(pair: Pair) -> str:
    """The number of cases in which ours is better, and in which it is worse."""
    scored = pair.scored()
    gains, losses = (sum(sign * case.difference > 0 for case in scored) for sign in (1, -1))
    return f"{pair.both[1].name} is better in {gains} of {len(scored)} cases and worse in {losses}."


def dots_chart(pair: Pair, scored: Sequence[Scored], balance: str) -> Markup:
    """A dot a case, the Dice of both; ``balance`` is said to a reader who does not see it."""
    baseline, ours = names = (pair.both[0].name, pair.both[1].name)
    alt = f"Dice of {ours} against {baseline}. {balance}"
    before, after = (
        [row["dice_mean"] for row in rows] for rows in zip(*((c.base, c.mine) for c in scored), strict=True)
    )
    return charts.scatter(before, after, names, alt)


def bars_chart(pair: Pair, scored: Sequence[Scored], balance: str) -> Markup:
    """A bar a case, its difference in Dice points, with the mean and its interval."""
    points = [100 * case.difference for case in scored]
    return charts.differences(points, _in_points(pair.dice), f"Differences of Dice by case, sorted. {balance}")


def lanes_chart(found: Mapping[str, Difference | None], by: str) -> Markup | None:
    """The mean difference of each class or group with its interval; None where none has one."""
    drawn = {f"{name} ({counted(of.cases, 'case')})": _in_points(of) for name, of in found.items() if of is not None}
    if not drawn:
        return None
    spoken = "; ".join(f"{name} {lane.mean:+.1f}" for name, lane in drawn.items())
    return charts.intervals(drawn, POINTS, 0.0, "no difference", f"Differences in points by {by}: {spoken}")


def _in_points(of: Difference) -> charts.Mean:
    return charts.Mean(100 * of.mean, 100 * of.low, 100 * of.high)


def three_cases(pair: Pair, others: Mapping[str, str] | None = None) -> list[Panels]:
    """The cases with the largest loss, the median and the largest gain, of those that have pictures.

    Args:
        others: further cases, each with what its heading begins with, shown after those three unless it is one of them.
    """
    shown = pair.both[0].cases_with_pictures() & pair.both[1].cases_with_pictures()
    scored = [case for case in pair.scored() if case.base["case"] in shown]
    ranks = three_of(len(scored), "Largest loss", "Median", "Largest gain")
    titles = {scored[index].base["case"]: rank for index, rank in ranks.items()}
    titles |= {name: title for name, title in (others or {}).items() if name in shown - titles.keys()}
    by_name = {case.base["case"]: case for case in pair.cases()}
    return [_side_by_side(pair, by_name[name], title) for name, title in titles.items()]


def _side_by_side(pair: Pair, case: Scored, rank: str) -> Panels:
    """Return the panels of a case; none where the two evaluations kept different slices."""
    name = case.base["case"]
    heading = f"{rank}: {name}"
    if math.isfinite(case.difference):
        heading += f", {number(100 * case.difference, 1, sign=True).text} Dice points"
    theirs, ours = (network.slice_of(name) for network in pair.both)
    if not (np.array_equal(theirs.image, ours.image) and np.array_equal(theirs.label, ours.label)):
        return Panels(heading, [])
    image, reference, *drawn = charts.case(ours, [theirs.pred, ours.pred], pair.classes, pair.unit)
    pictures = image_and_reference(name, image, reference)
    for network, row, address in zip(pair.both, (case.base, case.mine), drawn, strict=True):
        pictures.append(prediction(name, network.name, address, row, pair.classes))
    return Panels(heading, pictures)
