"""What more labels would bring, on the page of a study: the curves of its trainings, in words and as a figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from markupsafe import Markup

from ..evaluation.case_table import read_cases
from ..report import charts
from ..report.palette import GRID, LINE_COLOURS
from . import labels_worth
from .parts import Part
from .state import State

MORE = (5, 10, 20)  # further labelled patients that the page speaks of
HOLDS = (
    "An interval holds only how much the gain varies between the labelled patients at hand. Where these are few or "
    "alike, the truth may lie above it."
)


@dataclass(frozen=True)
class Worth:
    """What more labels would bring: a line a gain, what the intervals hold, the figure; or why nothing is said."""

    lines: list[str] = field(default_factory=list)
    holds: str = ""
    svg: Markup | None = None
    reason: str = ""


def worth(state: State, parts: Sequence[Part]) -> Worth:
    """What the page says of more labels, from the parts that were trained with all and with half of theirs."""
    if not state.settings.half:
        return Worth(reason="This was left out: it takes trainings with half of the labels (half: true in study.yaml).")
    curves = curves_of(state, parts)
    if isinstance(curves, labels_worth.NoCurve):
        return Worth(reason=f"Nothing can be said: {curves.reason}.")
    (before, _), (ours, points) = curves.values()
    now = max(point.labelled for point in points)
    lines = []
    for more in MORE:
        gain, plain = (curve.gain(more, state.labelled) for curve in (ours, before))
        lines.append(
            f"{more} more labelled patients: {_points(gain)} {state.phrases[1]}; {_points(plain)} {state.phrases[0]}"
            f"{_extrapolated(state.labelled + more, now, gain)}."
        )
    lines.append(_in_labels(state, ours, before, now))
    return Worth(lines, HOLDS, _curve_chart(curves, now + MORE[-1]))


def _in_labels(state: State, ours: labels_worth.Curve, before: labels_worth.Curve, now: int) -> str:
    """The unlabelled scans in labels' worth; of a baseline whose curve never gets there, that no number has it."""
    baseline, method = state.bundles
    value, one = labels_worth.worth(ours, before, now), f"{now} labelled patients"
    if math.isfinite(value.value):
        other = f"{value.value:.0f}"
        equivalent = f"{method} with {one} does as well as {baseline} with {other}"
        if state.only_unlabelled:
            equivalent = f"{one} with the unlabelled scans do as well as {other} without"
        return (
            f"In labels' worth: {equivalent} (95 % interval {_count(value.low)} to {_count(value.high)})"
            f"{_extrapolated(value.value, before.largest, value)}."
        )
    here, there = (f"Dice {dice:.3f}" for dice in (ours.at(now).value, before.a))
    better = f"{method} with {one} ({here}) is above what {baseline} comes to with ever more ({there})"
    if state.only_unlabelled:
        better = f"{one} with the unlabelled scans ({here}) are above what ever more come to without ({there})"
    most = labels_worth.REACH * before.largest
    least = f"from {_count(value.low)} labelled patients on" if math.isfinite(value.low) else f"above {most}"
    return (
        f"In labels' worth: {better}, by the two curves, so no number is named. Where a curve ends is extrapolated, far beyond "
        f"the {before.largest} labelled patients that were tried; the 95 % interval is {least}."
    )


def curves_of(
    state: State, parts: Sequence[Part]
) -> dict[str, tuple[labels_worth.Curve, list[labels_worth.Point]]] | labels_worth.NoCurve:
    """Return for baseline and method, by what the page calls them, the curve over numbers of labels and its points.

    Both curves are of the same patients: those whom all trainings of a part judged.
    """
    curves = {}
    for bundle, phrase in zip(state.bundles, state.phrases, strict=True):
        points = [
            labels_worth.Point(len(patients), row["patient"], row["dice_mean"])
            for part in parts
            for kind, patients in (("", part.train), ("half", part.half))
            if (part.can_halve or not kind) and all(state.scored(part, each, kind) for each in state.bundles)
            for row in read_cases(state.table(part, bundle, kind))
        ]
        found = labels_worth.fit(points)
        if isinstance(found, labels_worth.NoCurve):
            return found
        curves[phrase] = (found, points)
    return curves


def _points(amount: labels_worth.Amount) -> str:
    return f"{amount.value:+.1f} Dice points (95 % interval {amount.low:.1f} to {amount.high:.1f})"


def _count(number: float) -> str:
    return f"{number:.0f}" if math.isfinite(number) else "more than were tried"


def _extrapolated(labelled: float, tried: int, amount: labels_worth.Amount) -> str:
    """Say that a number of labelled patients was not tried, unless the amount's own warning says so already."""
    if amount.warning:
        return f" ({amount.warning})"
    return f" (extrapolated: beyond the {tried} labelled patients that were tried)" if labelled > tried else ""


def _curve_chart(curves: Mapping[str, Any], most: int) -> Markup:
    """Mean Dice of held-out patients at the numbers that were trained, and the curves, dashed where they go beyond."""

    def make() -> Any:
        figure = charts.new_figure(5.4, 3.4)
        axis = figure.subplots()
        for colour, (name, (curve, points)) in zip(LINE_COLOURS, curves.items(), strict=False):
            points = [point for point in points if math.isfinite(point.dice)]
            sizes = sorted({point.labelled for point in points})
            known = {n: [p.dice for p in points if p.labelled == n] for n in sizes}
            axis.plot(
                sizes,
                [sum(v) / len(v) for v in known.values()],
                "o",
                color=colour,
                label=name.removeprefix("of "),
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
