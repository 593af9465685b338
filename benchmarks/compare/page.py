"""The rows as one page that fetches nothing: tables, differences with their intervals, validation curves, time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from custom.evaluation.case_report import BOUNDARY
from custom.evaluation.hardness import REACH
from custom.report import charts
from custom.report import page as blocks
from custom.report.page import NOTHING, Cell, Column, interval, words

from .results import BASELINE, SERVED, Change, Entry, Family, hard_cases, mean_and_sd
from .table import MEANING, dice_text, network_name, p_text

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito, that show on white
_DASHES = ("-", "--", ":", "-.")


def page(found: Sequence[Family]) -> str:
    """The whole page; every row is on it."""
    runs = sum(len(cell.rows) for family in found for cell in family.cells)
    sections = [(family.title, _family(family)) for family in found]
    return blocks.page(
        "Methods against supervised training",
        f"{runs} runs. Written by python -m benchmarks.compare --table from benchmarks/results/compare.",
        _overview(found),
        [*sections, ("Every run", _runs(found)), ("What the numbers mean", blocks.bullets([*MEANING, *_more()]))],
    )


def _overview(found: Sequence[Family]) -> str:
    names = list(dict.fromkeys(cell.name for family in found for cell in family.cells))
    columns = [Column("method", words=True)]
    columns += [Column(name, family.title) for family in found for name in ("Dice", "difference", "seeds")]
    rows = []
    for name in names:
        line = [words(name)]
        for family in found:
            cell = next(cell for cell in family.cells if cell.name == name)
            line += [_dice(cell, SERVED["final"]), _points(cell.changes.get(SERVED["final"])), _seeds(cell)]
        rows.append(line)
    return blocks.table("Test Dice, final weights; difference in points to the baseline of each method", columns, rows)


def _family(family: Family) -> str:
    figures = [_differences(family), _curves(family), _times(family)]
    notes = [f"{cell.name}: {note}." for cell in family.cells for note in cell.notes]
    return "\n".join(
        [
            _main_table(family),
            blocks.bullets(notes) if notes else "",
            blocks.charts([figure for figure in figures if figure]),
            _hard_table(family),
            blocks.folded("Every network that these runs served", _networks_table(family)),
        ]
    )


def _main_table(family: Family) -> str:
    columns = [Column("method", words=True), Column("against", words=True)]
    for which in SERVED:
        columns += [
            Column(name, f"Dice, {which} weights") for name in ("mean", "difference", "95 % interval", "p", "p (Holm)")
        ]
    columns += [
        *(Column(name) for name in ("HD95", "failures", "seeds", "minutes", "MB")),
    ]
    return blocks.table(f"{family.title}: the network that serves", columns, [_main_row(cell) for cell in family.cells])


def _main_row(cell: Entry) -> list[Cell]:
    line = [words(cell.name), words(cell.baseline or NOTHING)]
    for file in SERVED.values():
        line += [_dice(cell, file), *_change(cell.changes.get(file)), _p(cell, file)]
    hd95, _ = mean_and_sd(cell.means(SERVED["final"], "hd95_mm_mean"))
    failures = cell.failures(SERVED["final"])
    return [
        *line,
        blocks.number(hd95, 1),
        Cell(str(failures), failures, bad=failures > 0) if cell.rows else blocks.number(None, 0),
        _seeds(cell),
        blocks.number(cell.average("seconds") / 60, 1),
        blocks.number(cell.average("peak_mb"), 0),
    ]


def _networks_table(family: Family) -> str:
    """All files of weights; those that the baseline has too with the difference."""
    columns = [
        *(Column(name, words=True) for name in ("method", "weights", "network", "against")),
        Column("Dice"),
        *(Column(name, "difference, points") for name in ("mean", "95 % interval", "p, not corrected")),
        Column("by seed", "difference, points", words=True),
        *(Column(name) for name in ("boundary Dice", "HD95", "failures", "seeds")),
    ]
    rows = []
    for cell in family.cells:
        for file in cell.files:
            change = cell.changes.get(file)
            failures = cell.failures(file)
            rows.append(
                [
                    words(cell.name),
                    words(file),
                    words(network_name(cell, file)),
                    words(f"{cell.baseline}, {file}" if change else NOTHING),
                    _dice(cell, file),
                    *_change(change),
                    words(", ".join(f"{s}: {100 * v:+.1f}" for s, v in change.by_seed.items()) if change else NOTHING),
                    blocks.number(mean_and_sd(cell.means(file, BOUNDARY))[0], 3),
                    blocks.number(mean_and_sd(cell.means(file, "hd95_mm_mean"))[0], 1),
                    Cell(str(failures), failures, bad=failures > 0),
                    Cell(str(len(cell.means(file)))),
                ]
            )
    caption = (
        f"{family.title}: every file of weights, on the test part. A name that ends in _final is of the last step."
    )
    return blocks.table(caption, columns, rows, sortable=True)


def _hard_table(family: Family) -> str:
    """The quarter of the cases with the least contrast, and the border; empty where no row knows them."""
    shown = [cell for cell in family.cells if cell.hard or (cell.baseline is None and cell.rows)]
    if not any(cell.hard for cell in shown):
        return ""
    heads = {"dice_mean": "difference on the cases with least contrast", BOUNDARY: "difference of boundary Dice"}
    columns = [Column("method", words=True), Column("Dice, least contrast"), Column("boundary Dice")]
    columns += [Column(name, head) for head in heads.values() for name in ("mean", "95 % interval", "p, not corrected")]
    base = next((cell for cell in family.cells if cell.name == BASELINE), None)
    hard = hard_cases(base) if base else set()
    rows = [
        [
            words(cell.name),
            blocks.number(_mean_over(cell, hard), 3),
            blocks.number(mean_and_sd(cell.means(SERVED["final"], BOUNDARY))[0], 3),
            *(box for metric in heads for box in _change(cell.hard.get(metric))),
        ]
        for cell in shown
    ]
    caption = f"{family.title}: hard cases ({len(hard)} with the least contrast) and the border; final weights, points"
    return blocks.table(caption, columns, rows)


def _mean_over(cell: Entry, names: set[str]) -> float:
    values = [
        case["dice_mean"]
        for row in cell.rows
        for case in row["cases"].get(SERVED["final"], [])
        if case["case"] in names and math.isfinite(case["dice_mean"])
    ]
    return math.fsum(values) / len(values) if values else math.nan


def _runs(found: Sequence[Family]) -> str:
    columns = [
        *(Column(name, words=True) for name in ("task", "method")),
        *(Column(name) for name in ("seed", "Dice, final", "Dice, best", "best in validation", "steps")),
        *(Column(name, "minutes") for name in ("all", "of it validation")),
        Column("MB"),
        *(Column(name, words=True) for name in ("machine", "commit", "date", "versions")),
    ]
    rows = [_run(family, cell, row) for family in found for cell in family.cells for row in cell.rows]
    return blocks.table("Every run, a line a row file; + marks uncommitted changes", columns, rows, sortable=True)


def _run(family: Family, cell: Entry, row: dict[str, Any]) -> list[Cell]:
    dices = ((row["networks"].get(file) or {}).get("metrics", {}).get("dice_mean", {}) for file in SERVED.values())
    return [
        words(family.title),
        words(cell.name),
        blocks.number(row["seed"], 0),
        *(blocks.number(dice.get("mean"), 3) for dice in dices),
        blocks.number((row.get("best_in_validation") or {}).get("score"), 3),
        blocks.number(row["steps"], 0),
        blocks.number(row["seconds"] / 60, 1),
        blocks.number(row["validation_seconds"] / 60, 1),
        blocks.number(row["peak_mb"], 0),
        words(row["machine"]),
        Cell(row["commit"] or NOTHING, bad="+" in row["commit"], words=True),
        words(row["date"]),
        words(", ".join(f"{name} {version}" for name, version in row["versions"].items())),
    ]


def _differences(family: Family) -> str:
    lanes = {
        f"{cell.name}, {which}": tuple(100 * v for v in (d.mean, d.low, d.high))
        for cell in family.compared
        for which, file in SERVED.items()
        if file in cell.changes
        for d in [cell.changes[file].mean]
    }
    if not lanes:
        return ""
    spoken = "; ".join(f"{name} {mean:+.1f}" for name, (mean, *_) in lanes.items())
    svg = charts.intervals(
        {name: (mean, low, high) for name, (mean, low, high) in lanes.items()},
        "difference, Dice points", 0.0, "the baseline", f"{family.title}: difference in Dice points: {spoken}",
    )  # fmt: skip
    return blocks.chart(svg, "Difference to the baseline with its 95 % interval over patients; to the right is better.")


def _curves(family: Family) -> str:
    """Validation Dice of the network that serves against the step, a line a seed."""
    drawn = {cell.name: [_curve(row) for row in cell.rows if len(_curve(row)[0])] for cell in family.cells}
    drawn = {name: curves for name, curves in drawn.items() if curves}
    if not drawn:
        return ""

    def make() -> Any:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.0, 3.6 + 0.12 * max(0, len(drawn) - 6)), layout="constrained")
        axis = figure.subplots()
        for i, (name, curves) in enumerate(drawn.items()):
            for k, (steps, dices) in enumerate(curves):
                axis.plot(steps, dices, _DASHES[i // len(COLOURS) % len(_DASHES)], color=COLOURS[i % len(COLOURS)], marker="o",
                          markersize=2.5, linewidth=1.3, alpha=0.85, label=None if k else name)  # fmt: skip
        axis.set(xlabel="optimiser step", ylabel="validation Dice", ylim=(0, None))
        axis.grid(color="#dddddd", linewidth=0.6)
        axis.set_axisbelow(True)
        figure.legend(loc="outside right upper", frameon=False, fontsize=8)
        return figure

    last = "; ".join(f"{name} {curves[0][1][-1]:.3f}" for name, curves in drawn.items())
    svg = charts.svg(make, f"{family.title}: validation Dice by step, at the end: {last}")
    return blocks.chart(
        svg, "Validation Dice of the network that serves, a line a seed. The scans are not those of the test."
    )


def _curve(row: dict[str, Any]) -> tuple[list[int], list[float]]:
    key = f"{row['served_as'].get(SERVED['best'])}/dice_mean"
    known = [(entry["step"], entry[key]) for entry in row["validation"] if key in entry]
    return [step for step, _ in known], [dice for _, dice in known]


def _times(family: Family) -> str:
    cells = [cell for cell in family.cells if cell.rows]

    def make() -> Any:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(5.4, 1.1 + 0.3 * len(cells)), layout="constrained")
        axis = figure.subplots()
        validation = [cell.average("validation_seconds") / 60 for cell in cells]
        training = [cell.average("seconds") / 60 - part for cell, part in zip(cells, validation, strict=True)]
        axis.barh(range(len(cells)), training, 0.6, color=COLOURS[0], label="training")
        axis.barh(range(len(cells)), validation, 0.6, left=training, color=COLOURS[4], label="validation")
        axis.set_yticks(range(len(cells)), [cell.name for cell in cells])
        axis.set_ylim(len(cells) - 0.5, -0.5)
        axis.set_xlabel("minutes a run")
        axis.grid(axis="x", color="#dddddd", linewidth=0.6)
        axis.set_axisbelow(True)
        figure.legend(loc="outside upper right", ncols=2, frameon=False, fontsize=8)
        return figure

    spoken = "; ".join(f"{cell.name} {cell.average('seconds') / 60:.1f}" for cell in cells)
    svg = charts.svg(make, f"{family.title}: minutes a run: {spoken}")
    return blocks.chart(
        svg, "Time of a run on the machine named below, mean over seeds. Only runs of one machine compare."
    )


def _more() -> list[str]:
    return [
        f"Boundary Dice: of the voxels within {REACH} of the reference's surface. Contrast: of the foreground to the "
        f"{REACH} voxels around it, a property of image and reference alone; the quarter of the test cases with the least of "
        "it is shown where the rows know it.",
        "“Missing”: no finished run of that method on that task yet.",
    ]


def _dice(cell: Entry, file: str) -> Cell:
    if not cell.rows:
        return Cell("missing" if cell.fits else "not for this task", bad=cell.fits)
    return Cell(dice_text(cell, file), mean_and_sd(cell.means(file))[0])


def _seeds(cell: Entry) -> Cell:
    return Cell(f"{len(cell.rows)} ({', '.join(map(str, cell.seeds))})" if cell.rows else "0", len(cell.rows))


def _points(change: Change | None) -> Cell:
    return blocks.number(100 * change.mean.mean if change else None, 1, sign=True)


def _change(change: Change | None) -> list[Cell]:
    """Mean, interval and p of a difference, in points."""
    if change is None:
        return [blocks.number(None, 0)] * 3
    d = change.mean
    p = Cell(p_text(d.p), d.p) if math.isfinite(d.p) else Cell(NOTHING)
    return [_points(change), interval(100 * d.low, 100 * d.high, 1, sign=True), p]


def _p(cell: Entry, file: str) -> Cell:
    p = cell.holm.get(file, math.nan)
    return Cell(p_text(p), p) if math.isfinite(p) else Cell(NOTHING)
