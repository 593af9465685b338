"""How a run went: one picture of its table of epochs.

matplotlib is imported where it draws; figures are made without pyplot, so nothing global is touched and no display
is needed.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .palette import BLACK, DARK_GREY, GREEN, GRID, LINE_COLOURS, WARNING
from .plots import save_png

_COLUMNS = 3  # of small panels
_SMALLEST_SHARE = 1e-4  # below it the axis of the shares runs straight to 0

Curve = NDArray[np.float64]
Columns = dict[str, Curve]


def learning_curves(metrics_csv: Path | str, png: Path | str) -> None:
    """Draws a run from its table of epochs: validation Dice on top, then what each term adds to the loss, every term,
    every watched quantity, the learning rate.

    A term is drawn as it is, before its weight; a weight that changes is drawn dashed on the right-hand axis, one that
    does not stands in the title. The title of a term that added nothing says so in red. Watched quantities of a group
    (``watch/<group>/<name>``) share a panel; where the group is a term's name they are drawn dotted in the panel
    of that term: its parts, or what to compare it with.

    Args:
        metrics_csv: a row per epoch with the columns ``epoch``, ``learning_rate``, ``term/<name>``, ``weight/<name>``,
            ``watch/<name>``, ``watch/<group>/<name>``, ``val/<network>/dice_mean``, ``val/<network>/dice_<class>``;
            others are ignored, an empty cell was not measured.
        png: the file to make, whole or not at all; its folder exists.

    Raises:
        ValueError: no row, no column ``epoch`` or nothing to draw; the text names the file.
    """
    save_png(learning_figure(metrics_csv), Path(png))


def learning_figure(metrics_csv: Path | str) -> Any:
    """The figure of :func:`learning_curves`, which says what is read and raised."""
    from matplotlib.figure import Figure

    columns = _read_columns(Path(metrics_csv))
    panels = _panels(columns)
    networks = _networks(columns)
    if not panels and not networks:
        raise ValueError(f"{metrics_csv} has nothing to draw: no term/, watch/, val/ or learning_rate column")
    rows, top = math.ceil(len(panels) / _COLUMNS), 1 if networks else 0
    figure = Figure(figsize=(12, 3.6 * top + 2.5 * rows), dpi=110, layout="constrained")
    grid = figure.add_gridspec(top + rows, _COLUMNS, height_ratios=[3.6] * top + [2.5] * rows)
    if networks:
        _draw_validation(figure.add_subplot(grid[0, :]), columns, networks)
    for i, draw in enumerate(panels):
        draw(figure.add_subplot(grid[top + i // _COLUMNS, i % _COLUMNS]))
    return figure


def _read_columns(path: Path) -> Columns:
    with open(path, newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        names = list(reader.fieldnames or ())
        rows = list(reader)
    if "epoch" not in names or not rows:
        raise ValueError(f"{path} has no {'epochs' if 'epoch' in names else 'column epoch'}: nothing to draw")
    return {name: np.array([_number(row[name]) for row in rows]) for name in names}


def _number(cell: str | None) -> float:
    """NaN for what was not measured: an empty cell, or a row still being written."""
    try:
        return float(cell) if cell else math.nan
    except ValueError:
        return math.nan


# which panels there are


def _panels(columns: Columns) -> list[Callable[[Any], None]]:
    """What draws each small panel that has a number: shares, terms, watched quantities, the rate."""
    measured = {name: curve for name, curve in columns.items() if np.isfinite(curve).any()}
    terms, watched = _terms(measured), _watched(measured)
    weighed = [term for term in terms if f"term/{term}" in measured and f"weight/{term}" in measured]
    panels: list[Callable[[Any], None]] = []
    if len(terms) > 1 and weighed:
        panels.append(partial(_draw_shares, columns=measured, terms=terms))
    for term, colour in terms.items():
        beside = watched.pop(term, {})
        panels.append(partial(_draw_term, columns=measured, term=term, colour=colour, beside=beside))
    panels += [partial(_draw_watched, columns=measured, group=group, curves=c) for group, c in watched.items()]
    if "learning_rate" in measured:
        panels.append(partial(_draw_rate, columns=measured))
    return panels


def _terms(columns: Columns) -> dict[str, str]:
    """The colour of each term, computed or not, in the order of the weights."""
    names = dict.fromkeys(name.partition("/")[2] for name in columns if name.startswith(("weight/", "term/")))
    return dict(zip(names, LINE_COLOURS * len(names), strict=False))


def _watched(columns: Columns) -> dict[str, dict[str, Curve]]:
    """The curves of each group by their names; a quantity without a group is one of its own."""
    groups: dict[str, dict[str, Curve]] = {}
    for name, curve in columns.items():
        if name.startswith("watch/"):
            group, _, part = name.removeprefix("watch/").partition("/")
            groups.setdefault(group, {})[part or group] = curve
    return groups


def _networks(columns: Columns) -> dict[str, list[str]]:
    """Dice columns of each validated network: its mean first, then its classes."""
    networks: dict[str, list[str]] = {}
    for name in columns:
        parts = name.split("/", 2)
        measured = len(parts) == 3 and parts[0] == "val" and parts[2].startswith("dice_")
        if measured and np.isfinite(columns[name]).any():
            networks.setdefault(parts[1], []).append(name)
    return {network: sorted(names, key=lambda n: not n.endswith("/dice_mean")) for network, names in networks.items()}


# one panel


def _draw_validation(axis: Any, columns: Columns, networks: dict[str, list[str]]) -> None:
    """Means bold, classes thin in the network's colour, each class with its own dashes."""
    dashes: dict[str, Any] = {}
    for network, colour in zip(networks, LINE_COLOURS * len(networks), strict=False):
        for name in networks[network]:
            metric = name.split("/", 2)[2].removeprefix("dice_")
            known = np.isfinite(columns[name])
            style: dict[str, Any] = {"linewidth": 2.6, "marker": "o", "markersize": 3.5, "zorder": 3}
            if metric != "mean":
                dash = dashes.setdefault(metric, ("--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)))[len(dashes) % 4])
                style = {"linewidth": 1.0, "linestyle": dash, "alpha": 0.85}
            style |= {"color": colour, "label": f"{network}: {metric}"}
            axis.plot(columns["epoch"][known], columns[name][known], **style)
    axis.set(title="validation Dice", xlabel="epoch", ylabel="Dice", ylim=(None, 1.0))
    if axis.get_ylim()[0] < 0.5:
        axis.set_ylim(0, 1)
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    _tidy(axis, columns)


def _draw_shares(axis: Any, columns: Columns, terms: Mapping[str, str]) -> None:
    """Weight times term as a share of the loss, on a logarithmic axis that reaches 0."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    unknown = np.full_like(columns["epoch"], math.nan)
    added = {
        term: columns.get(f"weight/{term}", unknown) * columns.get(f"term/{term}", unknown)  # both are epoch by epoch
        for term in terms
    }
    loss = np.nansum(list(added.values()), axis=0)
    for term, colour in terms.items():
        share = np.divide(added[term], loss, out=unknown.copy(), where=loss > 0)
        _draw_curve(axis, columns["epoch"], share, color=colour, label=term)
    axis.set_yscale("symlog", linthresh=_SMALLEST_SHARE, linscale=0.5)
    axis.set(ylim=(-0.1 * _SMALLEST_SHARE, 1.1), yticks=[0, 1e-4, 1e-3, 1e-2, 0.1, 1])
    axis.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    axis.yaxis.set_minor_locator(NullLocator())
    _finish(axis, columns, "share of the loss: weight x term")
    legend = _legend(axis, len(terms))
    for term, text in zip(terms, legend.get_texts(), strict=True):
        if _why_nothing(columns.get(f"term/{term}"), columns.get(f"weight/{term}")):
            text.set(text=f"{term}: nothing", color=WARNING, weight="bold")


def _draw_term(axis: Any, columns: Columns, term: str, colour: str, beside: Mapping[str, Curve]) -> None:
    value, weight = columns.get(f"term/{term}"), columns.get(f"weight/{term}")
    if value is None:
        axis.set_yticks([])
    else:
        _draw_curve(axis, columns["epoch"], value, color=colour)
    others = [BLACK, *(other for other in LINE_COLOURS if other != colour)]
    for (name, curve), other in zip(beside.items(), others * len(beside), strict=False):
        _draw_curve(axis, columns["epoch"], curve, color=other, linestyle=":", label=name)
    if beside:
        _legend(axis, len(beside))
    title, why_nothing = f"term: {term}", _why_nothing(value, weight)
    if weight is not None:
        title += _draw_weight(axis, columns["epoch"], weight)
    _finish(axis, columns, title)
    if why_nothing:
        axis.set_title(f"{title}\n{why_nothing}", fontsize=9, color=WARNING, weight="bold")


def _why_nothing(value: Curve | None, weight: Curve | None) -> str:
    """What the title says of a term that added nothing to the loss in any epoch; '' of one that did."""
    if weight is not None and not np.nan_to_num(weight).any():
        return "its weight was 0 in every epoch"
    if value is None:
        return "never computed, though its weight is above 0"
    return "" if np.nan_to_num(value).any() else "it was 0 in every epoch"


def _draw_weight(axis: Any, epoch: Curve, weight: Curve) -> str:
    """A changing weight is drawn on the right; returns what the title says of the weight."""
    known = np.isfinite(weight)
    if np.ptp(weight[known]) == 0:
        return f" (weight {weight[known][0]:g})"
    right = axis.twinx()
    right.plot(epoch[known], weight[known], color=DARK_GREY, linewidth=1.0, linestyle="--")
    right.set_ylabel("weight (dashed)", fontsize=8, color=DARK_GREY)
    right.tick_params(labelsize=8, colors=DARK_GREY)
    right.set_ylim(0, None)
    right.spines["top"].set_visible(False)
    return ""


def _draw_watched(axis: Any, columns: Columns, group: str, curves: Mapping[str, Curve]) -> None:
    alone = list(curves) == [group]
    colours = (GREEN,) if alone else LINE_COLOURS
    for i, (name, curve) in enumerate(curves.items()):
        style = ("-", "--", ":")[i // len(colours) % 3]
        _draw_curve(axis, columns["epoch"], curve, color=colours[i % len(colours)], linestyle=style, label=name)
    _finish(axis, columns, f"watched: {group}")
    if not alone:
        _legend(axis, len(curves))


def _draw_rate(axis: Any, columns: Columns) -> None:
    _draw_curve(axis, columns["epoch"], columns["learning_rate"], color=DARK_GREY)
    _finish(axis, columns, "learning rate")


# what panels share


def _draw_curve(axis: Any, epoch: Curve, curve: Curve, **style: Any) -> None:
    known = np.isfinite(curve)
    marker = "o" if known.sum() < 3 else None
    axis.plot(epoch[known], curve[known], **{"linewidth": 1.5, "marker": marker, "markersize": 3, **style})


def _legend(axis: Any, entries: int) -> Any:
    return axis.legend(fontsize=7, ncols=1 if entries < 5 else 2, framealpha=0.7, borderpad=0.3, labelspacing=0.3)


def _finish(axis: Any, columns: Columns, title: str) -> None:
    axis.set_title(title, fontsize=9)
    axis.set_xlabel("epoch", fontsize=8)
    _tidy(axis, columns)


def _tidy(axis: Any, columns: Columns) -> None:
    from matplotlib.ticker import MaxNLocator

    first, last = np.nanmin(columns["epoch"]), np.nanmax(columns["epoch"])
    if last > first:
        axis.set_xlim(first, last)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, steps=[1, 2, 5, 10]))
    axis.tick_params(labelsize=8)
    axis.grid(color=GRID, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top"]].set_visible(False)
