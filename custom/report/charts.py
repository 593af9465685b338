"""The figures of a page: SVG whose ink follows the page's colours, and the pictures of cases.

Each function draws what it is given and describes it in words (``alt``). matplotlib is imported where it draws.
"""

from __future__ import annotations

import base64
import io
import math
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from .inputs import ShownSlice
from .learning_curves import learning_figure
from .palette import BLACK, BLUE, GREY, GRID, PAGE_INK, VERMILION
from .plots import case_panels

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: small, searchable, in the page's font
    "text.parse_math": False,  # a dollar in a name is a dollar
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_WIDTH = 5.4  # inches of a figure that has another beside it
_PICTURE_DPI, _PICTURE_QUALITY = 140, 90


def svg(make: Callable[[], Any], alt: str) -> Markup:
    """Return the figure that ``make`` draws as an element of a page in light or dark.

    Args:
        make: draws; called with the style of the page's figures.
        alt: its text for a reader who does not see it; of two figures of a page never the same.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    text = io.StringIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": alt}):  # ids differ from figure to figure
        figure = make()
        FigureCanvasSVG(figure)
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return _for_a_page(text.getvalue(), alt)


def _for_a_page(text: str, alt: str) -> Markup:
    """Drop what belongs to a file of its own, such as ids that nothing refers to, and take the ink of the page."""
    body = text[text.index("<svg") :]
    width, height = (float(size) for size in re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', body)[0])
    body = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", body[body.index(">") + 1 :], flags=re.S)
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    for colour, ink in PAGE_INK.items():
        body = body.replace(f": {colour}", f": {ink}")
    body = re.sub(r"\n\s*", "\n", body)
    size = f'viewBox="0 0 {width:g} {height:g}" width="{width * 4 / 3:.0f}" height="{height * 4 / 3:.0f}"'
    return Markup(f'<svg {size} role="img" aria-label="{{}}">').format(alt) + Markup(body)


def new_figure(width: float, height: float) -> Any:
    """Return an empty matplotlib figure of that size in inches, made without pyplot."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _name(text: str, width: int = 28) -> str:
    """A name beside an axis: wrapped, and shortened where it is longer than three lines."""
    lines = textwrap.wrap(text, width) or [""]
    return "\n".join(lines[:3]) + ("…" if len(lines) > 3 else "")


def _named_rows(axis: Any, names: Sequence[str]) -> None:
    """One horizontal lane a name, the first on top."""
    axis.set_yticks(range(len(names)), [_name(name) for name in names])
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", color=GRID, linewidth=0.6)
    axis.set_axisbelow(True)


def strips(values: Mapping[str, Sequence[float]], axis_name: str, upper: float | None, alt: str) -> Markup:
    """Draw every case as a dot and every class as a lane, with a box over median and quartiles (whiskers at 5 % and 95 %).

    Args:
        values: of each class; NaN are left out, a lane may be empty.
        axis_name: with its unit.
        upper: where the axis ends, None for the data's own end; it begins at 0.
        alt: see :func:`svg`.
    """

    def make() -> Any:
        figure = new_figure(_WIDTH, 1.0 + 0.55 * len(values))
        axis = figure.subplots()
        _named_rows(axis, list(values))
        for lane, numbers in enumerate(values.values()):
            known = np.sort([number for number in numbers if math.isfinite(number)])
            offset = 0.32 * (np.arange(len(known)) * 0.618034 % 1 * 2 - 1)  # spread evenly, the same every time
            axis.plot(known, lane + offset, "o", color=BLUE, markersize=3, alpha=0.55, markeredgewidth=0)
            if len(known) > 1:
                _box(axis, known, lane)
        axis.set_xlabel(axis_name)
        axis.set_xlim(0, upper)
        if upper is not None:
            axis.set_xlim(-0.02 * upper, 1.02 * upper)
        return figure

    return svg(make, alt)


def _box(axis: Any, known: Any, lane: int) -> None:
    low, q1, median, q3, high = np.percentile(known, [5, 25, 50, 75, 95])
    from matplotlib.patches import Rectangle

    axis.hlines([lane, lane], [low, q3], [q1, high], color=BLACK, linewidth=1)
    axis.add_patch(Rectangle((q1, lane - 0.2), q3 - q1, 0.4, fill=False, edgecolor=BLACK, linewidth=1))
    axis.vlines(median, lane - 0.2, lane + 0.2, color=VERMILION, linewidth=2.5)


class Mean(NamedTuple):
    """A mean with the ends of its interval, None or NaN where it has none."""

    mean: float
    low: float | None
    high: float | None


def intervals(values: Mapping[str, Mean], axis_name: str, line: float, line_name: str, alt: str) -> Markup:
    """Draw a mean with its interval on each lane, and a dashed line to compare them with.

    Args:
        values: the mean of each name.
        axis_name: with its unit.
        line, line_name: where the dashed line stands, and what it is.
        alt: see :func:`svg`.
    """

    def make() -> Any:
        figure = new_figure(_WIDTH, 1.0 + 0.38 * len(values))
        axis = figure.subplots()
        _named_rows(axis, list(values))
        axis.axvline(line, color=GREY, linestyle="--", linewidth=1)
        for lane, (mean, low, high) in enumerate(values.values()):
            if low is not None and high is not None:
                axis.hlines(lane, low, high, color=BLUE, linewidth=2)
            axis.plot([mean], [lane], "o", color=BLUE, markersize=6)
        axis.set_xlabel(f"{axis_name}; dashed: {line_name}")
        return figure

    return svg(make, alt)


def reliability(bins: Sequence[Mapping[str, Any]], alt: str) -> Markup:
    """Draw accuracy against confidence over the bins that hold voxels, and how many voxels each holds."""

    def make() -> Any:
        figure = new_figure(_WIDTH, 4.6)
        axis, counts = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        held = [part for part in bins if part["count"]]
        low, width = [part["low"] for part in held], [part["high"] - part["low"] for part in held]
        axis.bar(low, [part["accuracy"] for part in held], width, align="edge", color=BLUE, alpha=0.45, edgecolor=BLUE)
        axis.plot([0, 1], [0, 1], "--", color=GREY, linewidth=1)
        axis.plot([p["confidence"] for p in held], [p["accuracy"] for p in held], "o", color=VERMILION, markersize=4)
        axis.set(ylabel="accuracy", ylim=(0, 1.02), xlim=(0, 1))
        total = sum(part["count"] for part in held)
        counts.bar(low, [100 * p["count"] / total for p in held], width, align="edge", color=GREY, alpha=0.7)
        counts.set(ylabel="voxels, %", xlabel="confidence (largest class probability)")
        for each in (axis, counts):
            each.grid(color=GRID, linewidth=0.6)
            each.set_axisbelow(True)
        return figure

    return svg(make, alt)


def scatter(baseline: Sequence[float], ours: Sequence[float], names: tuple[str, str], alt: str) -> Markup:
    """Draw a dot a case: the baseline's Dice to the right, ours upwards; above the diagonal ours is better, on it equal."""

    def make() -> Any:
        figure = new_figure(4.6, 4.6)
        axis = figure.subplots()
        start = max(0.0, min(*baseline, *ours) - 0.03)
        colours = [BLUE if y > x else VERMILION if y < x else GREY for x, y in zip(baseline, ours, strict=True)]
        axis.plot([start, 1], [start, 1], "--", color=GREY, linewidth=1)
        axis.scatter(baseline, ours, s=22, c=colours, alpha=0.75, linewidths=0)
        axis.set(xlim=(start, 1.01), ylim=(start, 1.01), aspect="equal")
        axis.set_xlabel(_name(f"Dice, {names[0]}", 44))
        axis.set_ylabel(_name(f"Dice, {names[1]}", 44))
        axis.grid(color=GRID, linewidth=0.6)
        axis.set_axisbelow(True)
        return figure

    return svg(make, alt)


def differences(points: Sequence[float], mean: Mean, alt: str) -> Markup:
    """Draw a bar a case, losses left and gains right, with the mean and its interval; all in Dice points."""

    def make() -> Any:
        figure = new_figure(6.0, 4.6)
        axis = figure.subplots()
        ordered = sorted(points)
        axis.bar(range(len(ordered)), ordered, 0.85, color=[BLUE if p > 0 else VERMILION for p in ordered])
        if mean.low is not None and math.isfinite(mean.low):
            axis.axhspan(mean.low, mean.high, color=GREY, alpha=0.25, linewidth=0, zorder=0)
        axis.axhline(mean.mean, color=BLACK, linewidth=1, linestyle="--")
        axis.axhline(0, color=BLACK, linewidth=0.8)
        axis.set(ylabel="difference, Dice points", xlabel="cases, from the largest loss to the largest gain", xticks=[])
        axis.set_xlim(-0.8, len(ordered) - 0.2)
        axis.grid(axis="y", color=GRID, linewidth=0.6)
        axis.set_axisbelow(True)
        return figure

    return svg(make, alt)


def learning(metrics_csv: Path, alt: str) -> Markup:
    """Draw how the run went; raise what :func:`.learning_curves.learning_curves` raises."""
    return svg(lambda: learning_figure(metrics_csv), alt)


def case(shown: ShownSlice, predictions: Sequence[Any], classes: Sequence[str], unit: str) -> list[str]:
    """Return image, reference and each prediction of a slice as addresses (``data:``) of pictures; with a scale bar where
    the ``unit`` of its sizes is mm."""
    spacing_mm = (
        shown.spacing_mm if unit == "mm" and shown.image.ndim == 2 else None
    )  # a photograph's pixels have no size
    figures = case_panels(shown.image, shown.label, predictions, classes, spacing_mm)
    return [_address(figure) for figure in figures]


def _address(figure: Any) -> str:
    """Return a figure as JPEG, a tenth of the PNG of a noisy scan."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    content = io.BytesIO()
    # contours keep their colour; not "optimize", with which Pillow fails on noise: its buffer has a byte a pixel
    options = {"quality": _PICTURE_QUALITY, "subsampling": 0}
    figure.savefig(content, format="jpeg", dpi=_PICTURE_DPI, pil_kwargs=options)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"
