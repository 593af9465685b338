"""The rows as one page that fetches nothing: tables, differences with their intervals, validation curves, time.

The words stand in ``page.html``, style and blocks are those of the reports.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any

from markupsafe import Markup

from custom.evaluation.case_report import BOUNDARY, FAULTS
from custom.evaluation.hardness import REACH
from custom.report import charts
from custom.report.page import render
from custom.report.palette import GRID, LINE_COLOURS
from custom.report.tables import NOTHING, Cell, Column, Table, fault_cell, figures, interval, number, texts

from .results import BASELINE, SERVED, Change, Entry, Family, RunRow, hard_cases, mean_and_sd
from .wording import MEANING, dice_text, network_name, p_text

_DASHES = ("-", "--", ":", "-.")


def html(found: Sequence[Family]) -> str:
    """The whole page; every row is on it."""
    return render(
        "page.html",
        Path(__file__).parent,
        title="Methods against supervised training",
        runs=sum(len(entry.rows) for family in found for entry in family.entries),
        overview=_overview(found),
        families=[_content(family) for family in found],
        every_run=_runs(found),
        meaning=MEANING,
        reach=REACH,
    )


def _content(family: Family) -> dict[str, Any]:
    return {
        "title": family.title,
        "main": _main(family),
        "notes": [f"{entry.name}: {note}." for entry in family.entries for note in entry.notes],
        "differences": _differences(family),
        "curves": _curves(family),
        "times": _times(family),
        "hard": _hard(family),
        "networks": _networks(family),
    }


# columns, of entries


METHOD = texts("method", attrgetter("name"))


def _dice(entry: Entry, file: str) -> Cell:
    if not entry.rows:
        return Cell(entry.absence, bad=entry.fits)
    return Cell(dice_text(entry, file), mean_and_sd(entry.means(file))[0])


def _mean(entry: Entry, file: str, metric: str, digits: int) -> Cell:
    return number(mean_and_sd(entry.means(file, metric))[0], digits)


def _seeds(entry: Entry) -> Cell:
    return Cell(f"{len(entry.rows)} ({', '.join(map(str, entry.seeds))})" if entry.rows else "0", len(entry.rows))


def _points(change: Change | None) -> Cell:
    return number(100 * change.mean.mean if change else None, 1, sign=True)


def _p(p: float) -> Cell:
    return Cell(p_text(p), p) if math.isfinite(p) else Cell(NOTHING)


def _change(of: Callable[[Any], Change | None], head: str, p: str) -> list[Column]:
    """Mean, interval and p of a difference, in points."""

    def ends(change: Change | None) -> Cell:
        return interval(100 * change.mean.low, 100 * change.mean.high, 1, sign=True) if change else Cell(NOTHING)

    def significance(change: Change | None) -> Cell:
        return _p(change.mean.p) if change else Cell(NOTHING)

    return [
        Column("mean" if p else "difference", lambda item: _points(of(item)), head),
        Column("95 % interval", lambda item: ends(of(item)), head),
        Column(p or "p", lambda item: significance(of(item)), head),
    ]


def _faults(of: Callable[[Any], tuple[Entry, str]]) -> list[Column]:
    """Missed structures and false alarms of an entry's file of weights, all seeds together."""

    def cell(item: Any, kind: str) -> Cell:
        entry, file = of(item)
        counts = entry.faults(file)
        return fault_cell(counts, counts["places"], kind) if entry.rows else Cell(NOTHING)

    return [Column(title.lower(), partial(cell, kind=kind)) for kind, title in FAULTS.items()]


# tables


def _overview(found: Sequence[Family]) -> Table:
    names = list(dict.fromkeys(entry.name for family in found for entry in family.entries))
    columns = [texts("method", str)]
    for family in found:
        columns += _of_family(family)
    return Table("Test Dice, final weights; difference in points to the baseline of each method", columns, names)


def _of_family(family: Family) -> list[Column]:
    """Columns of items that are names of methods."""
    entry_of, final = family.entry, SERVED["final"]
    return [
        Column("Dice", lambda name: _dice(entry_of(name), final), family.title),
        Column("difference", lambda name: _points(entry_of(name).changes.get(final)), family.title),
        Column("seeds", lambda name: _seeds(entry_of(name)), family.title),
    ]


def _main(family: Family) -> Table:
    columns = [METHOD, texts("against", lambda entry: entry.baseline or NOTHING)]
    for which, file in SERVED.items():
        columns += _judged(file, f"Dice, {which} weights")
    final = SERVED["final"]
    columns += [
        Column("HD95", lambda entry: _mean(entry, final, "hd95_mm_mean", 1)),
        *_faults(lambda entry: (entry, final)),
        Column("seeds", _seeds),
        figures("minutes", lambda entry: entry.average("seconds") / 60, 1),
        figures("MB", lambda entry: entry.average("peak_mb"), 0),
    ]
    return Table(f"{family.title}: the network that serves", columns, family.entries)


def _judged(file: str, head: str) -> list[Column]:
    def there(entry: Entry) -> bool:
        return not entry.rows or entry.chosen or file != SERVED["best"]

    return [
        Column("mean", lambda entry: _dice(entry, file) if there(entry) else Cell(NOTHING), head),
        *_change(lambda entry: entry.changes.get(file) if there(entry) else None, head, ""),
        Column("p (Holm)", lambda entry: _p(entry.holm.get(file, math.nan) if there(entry) else math.nan), head),
    ]


def _networks(family: Family) -> Table:
    """All files of weights; those that the baseline has too with the difference. An item is an entry and a file."""

    def change(item: tuple[Entry, str]) -> Change | None:
        return item[0].changes.get(item[1])

    def by_seed(item: tuple[Entry, str]) -> str:
        found = change(item)
        return ", ".join(f"{s}: {100 * v:+.1f}" for s, v in found.by_seed.items()) if found else NOTHING

    points = "difference, points"
    columns = [
        texts("method", lambda item: item[0].name),
        texts("weights", itemgetter(1)),
        texts("network", lambda item: network_name(*item)),
        texts("against", lambda item: f"{item[0].baseline}, {item[1]}" if change(item) else NOTHING),
        Column("Dice", lambda item: _dice(*item)),
        *_change(change, points, "p, not corrected"),
        texts("by seed", by_seed, points),
        Column("boundary Dice", lambda item: _mean(item[0], item[1], BOUNDARY, 3)),
        Column("HD95", lambda item: _mean(item[0], item[1], "hd95_mm_mean", 1)),
        *_faults(lambda item: item),
        Column("seeds", lambda item: str(len(item[0].means(item[1])))),
    ]
    caption = (
        f"{family.title}: every file of weights, on the test part. A name that ends in _final is of the last step."
    )
    files = [(entry, file) for entry in family.entries for file in entry.files]
    return Table(caption, columns, files, sortable=True)


def _hard(family: Family) -> Table | None:
    """The quarter of the cases with the least contrast, and the border; None where no row knows them."""
    shown = [entry for entry in family.entries if entry.hard or (entry.baseline is None and entry.rows)]
    if not any(entry.hard for entry in shown):
        return None
    base = next((entry for entry in family.entries if entry.name == BASELINE), None)
    hard = hard_cases(base) if base else set()
    final, p = SERVED["final"], "p, not corrected"
    columns = [
        METHOD,
        figures("Dice, least contrast", lambda entry: _mean_over(entry, hard), 3),
        Column("boundary Dice", lambda entry: _mean(entry, final, BOUNDARY, 3)),
        *_change(lambda entry: entry.hard.get("dice_mean"), "difference on the cases with least contrast", p),
        *_change(lambda entry: entry.hard.get(BOUNDARY), "difference of boundary Dice", p),
    ]
    caption = f"{family.title}: hard cases ({len(hard)} with the least contrast) and the border; final weights, points"
    return Table(caption, columns, shown)


def _mean_over(entry: Entry, names: set[str]) -> float:
    cases = chain.from_iterable(row["cases"].get(SERVED["final"], []) for row in entry.rows)
    values = [case["dice_mean"] for case in cases if case["case"] in names and math.isfinite(case["dice_mean"])]
    return math.fsum(values) / len(values) if values else math.nan


def _runs(found: Sequence[Family]) -> Table:
    """An item is the title of a family and a row."""

    def words(head: str, of: Callable[[RunRow], Cell | str]) -> Column:
        return texts(head, lambda item: of(item[1]))

    def figure(head: str, of: Callable[[RunRow], float | None], digits: int, group: str = "") -> Column:
        return figures(head, lambda item: of(item[1]), digits, group)

    def dice(file: str) -> Callable[[RunRow], float | None]:
        return lambda row: (row["networks"].get(file) or {}).get("metrics", {}).get("dice_mean", {}).get("mean")

    columns = [
        texts("task", itemgetter(0)),
        words("method", itemgetter("name")),
        figure("seed", itemgetter("seed"), 0),
        figure("Dice, final", dice(SERVED["final"]), 3),
        figure("Dice, best", lambda row: dice(SERVED["best"])(row) if row.get("best_in_validation") else None, 3),
        figure("best in validation", lambda row: (row.get("best_in_validation") or {}).get("score"), 3),
        figure("steps", itemgetter("steps"), 0),
        figure("all", lambda row: row["seconds"] / 60, 1, "minutes"),
        figure("of it validation", lambda row: row["validation_seconds"] / 60, 1, "minutes"),
        figure("MB", itemgetter("peak_mb"), 0),
        words("machine", itemgetter("machine")),
        words("commit", lambda row: Cell(row["commit"] or NOTHING, bad="+" in row["commit"])),
        words("date", itemgetter("date")),
        words("versions", lambda row: ", ".join(f"{name} {version}" for name, version in row["versions"].items())),
    ]
    items = [(family.title, row) for family in found for entry in family.entries for row in entry.rows]
    return Table("Every run, a line a row file; + marks uncommitted changes", columns, items, sortable=True)


# figures


def _differences(family: Family) -> Markup | None:
    lanes = {
        f"{entry.name}, {which}": charts.Mean(*(100 * value for value in (found.mean, found.low, found.high)))
        for entry in family.compared
        for which, file in SERVED.items()
        if file in entry.changes and (entry.chosen or file != SERVED["best"])
        for found in [entry.changes[file].mean]
    }
    if not lanes:
        return None
    spoken = "; ".join(f"{name} {lane.mean:+.1f}" for name, lane in lanes.items())
    alt = f"{family.title}: difference in Dice points: {spoken}"
    return charts.intervals(lanes, "difference, Dice points", 0.0, "the baseline", alt)


def _curves(family: Family) -> Markup | None:
    """Validation Dice of the network that serves against the step, a line a seed."""
    drawn = {entry.name: [_curve(row) for row in entry.rows if len(_curve(row)[0])] for entry in family.entries}
    drawn = {name: curves for name, curves in drawn.items() if curves}
    if not drawn:
        return None

    def make() -> Any:
        figure = charts.new_figure(6.0, 3.6 + 0.12 * max(0, len(drawn) - 6))
        axis = figure.subplots()
        for i, (name, curves) in enumerate(drawn.items()):
            round_, colour = divmod(i, len(LINE_COLOURS))
            for k, (steps, dices) in enumerate(curves):
                axis.plot(steps, dices, _DASHES[round_ % len(_DASHES)], color=LINE_COLOURS[colour], marker="o",
                          markersize=2.5, linewidth=1.3, alpha=0.85, label=None if k else name)  # fmt: skip
        axis.set(xlabel="optimiser step", ylabel="validation Dice", ylim=(0, None))
        axis.grid(color=GRID, linewidth=0.6)
        axis.set_axisbelow(True)
        figure.legend(loc="outside right upper", frameon=False, fontsize=8)
        return figure

    last = "; ".join(f"{name} {curves[0][1][-1]:.3f}" for name, curves in drawn.items())
    return charts.svg(make, f"{family.title}: validation Dice by step, at the end: {last}")


def _curve(row: RunRow) -> tuple[list[int], list[float]]:
    key = f"{row['served_as'].get(SERVED['best'])}/dice_mean"
    known = [(point["step"], point[key]) for point in row["validation"] if key in point]
    return [step for step, _ in known], [dice for _, dice in known]


def _times(family: Family) -> Markup:
    entries = [entry for entry in family.entries if entry.rows]

    def make() -> Any:
        figure = charts.new_figure(5.4, 1.1 + 0.3 * len(entries))
        axis = figure.subplots()
        validation = [entry.average("validation_seconds") / 60 for entry in entries]
        training = [entry.average("seconds") / 60 - part for entry, part in zip(entries, validation, strict=True)]
        axis.barh(range(len(entries)), training, 0.6, color=LINE_COLOURS[0], label="training")
        axis.barh(range(len(entries)), validation, 0.6, left=training, color=LINE_COLOURS[4], label="validation")
        axis.set_yticks(range(len(entries)), [entry.name for entry in entries])
        axis.set_ylim(len(entries) - 0.5, -0.5)
        axis.set_xlabel("minutes a run")
        axis.grid(axis="x", color=GRID, linewidth=0.6)
        axis.set_axisbelow(True)
        figure.legend(loc="outside upper right", ncols=2, frameon=False, fontsize=8)
        return figure

    spoken = "; ".join(f"{entry.name} {entry.average('seconds') / 60:.1f}" for entry in entries)
    return charts.svg(make, f"{family.title}: minutes a run: {spoken}")
