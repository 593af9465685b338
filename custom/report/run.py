"""The page of one evaluated run: its figures; the words stand in ``templates/run.html``."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import itemgetter
from pathlib import Path
from typing import Any

from markupsafe import Markup

from ..dice import MEAN_DICE
from ..evaluation.case_report import BOUNDARY, CONTRAST, FAULTS, Row, faults_of
from ..evaluation.hardness import REACH
from ..files import under, write_text
from . import charts, page
from .inputs import Evaluated, ReportError, fault_of, metric_of, read_evaluated, read_json
from .parts import Group, Panels, attribute_columns, group_of, image_and_reference, prediction, three_of
from .tables import NOTHING, Cell, Column, Table, counted, fault_columns, faults, figures, interval, number, texts

logger = logging.getLogger(__name__)

OVERLAPS = (("dice_", "Dice", 3), ("jaccard_", "Jaccard", 3))  # beginning of the columns, head, decimals
_JUDGED = ("dice_", "hd95_mm_")  # with an interval; Jaccard and ASD beside them say the same in other words


def page_of_evaluation(
    models_dir: str | Path, output_dir: str | Path, part: str = "test", root: str | Path = "."
) -> Path | None:
    """Write the page of what :func:`..evaluation.evaluate.evaluate_models` wrote, with the run's learning curves.

    Args:
        models_dir: of the bundle, whose ``metadata.json`` names the task.
        output_dir: of the run; relative to ``root``.
        part: of the data list that was evaluated.
        root: of the bundle.

    Returns:
        The path of the page; None, with a line in the log, where matplotlib is not installed.

    Raises:
        ReportError: a file is missing or not what an evaluation writes; the text names it.
    """
    output, metadata = under(root, output_dir), Path(models_dir).parent / "configs" / "metadata.json"
    task = read_json(metadata).get("task", "Segmentation") if metadata.is_file() else "Segmentation"
    try:
        path = write_report(output / "evaluation" / part, f"{task}, {part} part", output / "metrics.csv")
    except ImportError as error:  # matplotlib is optional where a bundle only serves
        logger.info("No report.html is written: %s", error)
        return None
    logger.info("With pictures: %s", path)
    return path


def write_report(folder: Path, title: str, metrics_csv: Path | None = None) -> Path:
    """Write ``report.html`` into the folder of an evaluated part, whole or not at all.

    Args:
        folder: ``<output_dir>/evaluation/<part>``: ``summary.json`` and, of each network that it names, ``.csv`` and
            ``.json``; ``.compat.csv`` and ``.slices.npz`` need not be there. The first network is the one that serves.
        title: of the page.
        metrics_csv: the run's table of epochs, for its learning curves; None, or a path without a file: no curves.

    Returns:
        The path of the page.

    Raises:
        ReportError: a file is missing or not what an evaluation writes; the text names it.
        ImportError: matplotlib is not installed.
    """
    folder = Path(folder)
    networks = [read_evaluated(folder / f"{name}.csv", name) for name in read_json(folder / "summary.json")]
    if not networks:
        raise ReportError(f"{folder / 'summary.json'} names no network: there is nothing to report")
    serving = networks[0]
    found = serving.summary.get("calibration")
    bins = [part for part in found["bins"] if part["count"]] if found else []  # those that hold voxels
    text = page.render(
        "run.html",
        title=title,
        part=folder.resolve().name,
        serving=serving,
        faults=faults_of(serving.summary),
        networks=_networks(networks),
        classes=_classes(serving),
        strips=_strips(serving),
        groups=_groups(serving),
        pictures=_pictures(serving),
        cases=_cases(serving),
        reliability=_reliability(found) if found and bins else None,
        bins=_bins(found["ece"], bins) if found else None,
        curves=_learning(metrics_csv),
        published=_published(serving),
        reach=REACH,
    )
    path = folder / "report.html"
    write_text(path, text)
    return path


# columns, of a summary or of what has metrics as a summary has


def _mean(head: str, name: str, digits: int, group: str = "") -> Column:
    return figures(head, lambda of: metric_of(of, name)["mean"], digits, group)


def _interval(name: str, digits: int, group: str) -> Column:
    return Column("95 % interval", lambda of: _ends(metric_of(of, name), digits), group)


def _ends(metric: Mapping[str, Any], digits: int) -> Cell:
    return interval(metric["low"], metric["high"], digits)


def _dice(network: Evaluated) -> list[Column]:
    """Mean with its interval, classes, and boundary Dice."""
    classes = (_mean(name, f"dice_{name}", 3, "Dice") for name in network.several)
    boundary = _mean("boundary Dice", BOUNDARY, 3)
    return [_mean("mean", "dice_mean", 3, "Dice"), _interval("dice_mean", 3, "Dice"), *classes, boundary]


def _faults(network: Evaluated) -> list[Column]:
    """Both columns, of items that count as a summary does."""
    return fault_columns(lambda of: of, lambda of: of["cases"] * len(network.classes))


def _of_class(of: Mapping[str, Any], prefix: str, head: str, digits: int, judged: bool = False) -> list[Column]:
    """Mean and spread of a metric, of items that are names of classes; interval and number of cases if ``judged``."""

    def metric(name: str) -> Mapping[str, Any]:
        return metric_of(of, prefix + name)

    columns = [
        figures("mean", lambda name: metric(name)["mean"], digits, head),
        figures("sd", lambda name: metric(name)["sd"], digits, head),
        Column("95 % interval", lambda name: _ends(metric(name), digits), head),
        figures("cases", lambda name: metric(name)["cases"], 0, head),
    ]
    return columns if judged else columns[:2]


CLASS = texts("Class", lambda name: "mean of the classes" if name == "mean" else name)


# tables


def _networks(networks: Sequence[Evaluated]) -> Table:
    columns = [
        texts("Network", itemgetter("name")),
        *_dice(networks[0]),
        _mean(f"HD95, {networks[0].unit}", "hd95_mm_mean", 1),
        *_faults(networks[0]),
    ]
    if any(network.summary.get("calibration") for network in networks):
        columns.append(figures("ECE", lambda of: (of.get("calibration") or {}).get("ece"), 3))
    apart = any(network.summary.get("left_out") for network in networks)
    cases = "each on the cases that have its modality" if apart else "on the same cases"
    note = "The first network serves; a name that ends in _final has the weights of the last epoch."
    if any(network.summary.get("same_as") for network in networks):
        note += " Names joined by = have the same weights, scored once."
    rows = [{**network.summary, "name": _with_twin(network)} for network in networks]
    return Table(f"Every network of the run, {cases}. {note}", columns, rows)


def _with_twin(network: Evaluated) -> str:
    twin = network.summary.get("same_as")
    return f"{network.name} = {twin}" if twin else network.name


def _classes(network: Evaluated) -> Table:
    names = [*network.classes, "mean"] if network.several else network.classes
    columns = [CLASS]
    for prefix, head, digits in (*OVERLAPS, *_distances(network)):
        if any(network.has(prefix + name) for name in names):
            columns += _of_class(network.summary, prefix, head, digits, judged=prefix in _JUDGED)
    counts = {**network.summary["classes"], "mean": network.summary}
    cases = network.summary["cases"]
    columns += fault_columns(counts.__getitem__, lambda name: cases * (len(network.classes) if name == "mean" else 1))
    caption = (
        f"{network.name}: mean over cases. Cases counts those that have a number: Dice has one where the label has the "
        f"class, a distance where the prediction has it too; {MEAN_DICE}."
    )
    return Table(caption, columns, names)


def _cases(network: Evaluated) -> Table:
    """Worst first; what has no Dice comes last."""
    columns = [
        texts("case", itemgetter("case")),
        texts("patient", itemgetter("patient")),
        *attribute_columns(network.attributes),
        figures("mean", itemgetter("dice_mean"), 3, "Dice", ascending=True),
        *(figures(name, itemgetter(f"dice_{name}"), 3, "Dice") for name in network.several),
    ]
    for prefix, head, digits in _distances(network):
        if any(prefix + name in network.rows[0] for name in network.classes):
            columns += [_distance(name, prefix, head, digits) for name in network.classes]
    columns += [
        figures("boundary Dice", lambda row: row.get(BOUNDARY), 3),
        figures("contrast", lambda row: row.get(CONTRAST), 3),
        *(faults(title.lower(), itemgetter(kind)) for kind, title in FAULTS.items()),
    ]
    rows = sorted(network.rows, key=lambda row: (math.isnan(row["dice_mean"]), row["dice_mean"]))
    caption = (
        f"{network.name}: {counted(len(rows), 'case')}, worst first; a click on a head sorts. “missed”: the label alone has "
        f"the class; “false alarm”: the prediction alone has it. {NOTHING}: the label lacks it, there is no Dice."
    )
    return Table(caption, columns, rows, sortable=True, bad=lambda row: any(row[kind] for kind in FAULTS))


def _distances(network: Evaluated) -> tuple[tuple[str, str, int], ...]:
    return ("hd95_mm_", f"HD95, {network.unit}", 1), ("asd_mm_", f"ASD, {network.unit}", 2)


def _distance(name: str, prefix: str, head: str, digits: int) -> Column:
    def cell(row: Row) -> Cell:
        fault = fault_of(row, name)
        return Cell(fault, bad=True) if fault else number(row.get(prefix + name), digits)

    return Column(name, cell, head)


def _bins(ece: float, bins: Sequence[Mapping[str, Any]]) -> Table:
    columns = [
        texts("confidence", lambda of: f"{of['low']:.2f} to {of['high']:.2f}"),
        figures("voxels", itemgetter("count"), 0),
        figures("mean confidence", itemgetter("confidence"), 3),
        figures("accuracy", itemgetter("accuracy"), 3),
        figures("accuracy minus confidence", lambda of: of["accuracy"] - of["confidence"], 3, sign=True),
    ]
    return Table(f"Calibration, ECE {number(ece, 3).text}", columns, bins)


def _published(network: Evaluated) -> Table | None:
    compat = network.summary.get("compat")
    if not compat:
        return None
    metrics = (*OVERLAPS, ("hd95_voxels_", "HD95, voxels", 1), ("asd_voxels_", "ASD, voxels", 2))
    columns = [CLASS, *(column for metric in metrics for column in _of_class(compat, *metric))]
    names = [name for name in (*network.classes, "mean") if any(m[0] + name in compat["metrics"] for m in metrics)]
    return Table(f"{network.name}, by the rule of published tables", columns, names)


# figures


def _strips(network: Evaluated) -> list[Markup]:
    """Dice of every case, and HD95 where any case has one."""
    dice = {name: [row[f"dice_{name}"] for row in network.rows] for name in network.classes}
    distances = {name: [row.get(f"hd95_mm_{name}", math.nan) for row in network.rows] for name in network.classes}
    figures = [charts.strips(dice, "Dice", 1.0, _spoken("Dice", dice, 3))]
    if any(math.isfinite(value) for values in distances.values() for value in values):
        alt = _spoken(f"HD95 in {network.unit}", distances, 1)
        figures.append(charts.strips(distances, f"HD95, {network.unit}", None, alt))
    return figures


def _spoken(metric: str, values: Mapping[str, Sequence[float]], digits: int) -> str:
    """A figure of strips in words: the range of each class."""
    parts = []
    for name, numbers in values.items():
        known = [value for value in numbers if math.isfinite(value)]
        parts.append(f"{name} {min(known):.{digits}f} to {max(known):.{digits}f}" if known else f"{name} none")
    return f"{metric} of every case, by class: {'; '.join(parts)}."


def _groups(network: Evaluated) -> list[Group]:
    found = []
    for attribute, values in (network.summary.get("groups") or {}).items():
        group = group_of(attribute, values)
        if not group.too_many:
            group = replace(group, table=_group(network, attribute, values), svg=_lanes(network, attribute, values))
        found.append(group)
    return found


def _group(network: Evaluated, attribute: str, values: Mapping[str, Any]) -> Table:
    columns = [
        texts(attribute, itemgetter("value")),
        figures("cases", itemgetter("cases"), 0),
        figures("patients", itemgetter("patients"), 0),
        *_faults(network),
        *_dice(network),
        *(_mean(name, f"hd95_mm_{name}", 1, f"HD95, {network.unit}") for name in network.classes),
    ]
    rows = [{**group, "value": value} for value, group in values.items()]
    return Table(f"By {attribute}, {network.name}", columns, rows)


def _lanes(network: Evaluated, attribute: str, values: Mapping[str, Any]) -> Markup | None:
    drawn, overall = {}, network.metric("dice_mean")["mean"]
    for value, group in values.items():
        mean, low, high = (metric_of(group, "dice_mean")[key] for key in ("mean", "low", "high"))
        if mean is not None:
            drawn[f"{value} ({counted(group['cases'], 'case')})"] = charts.Mean(mean, low, high)
    if not drawn or overall is None:
        return None
    spoken = "; ".join(f"{name} {lane.mean:.3f}" for name, lane in drawn.items())
    return charts.intervals(drawn, "mean Dice", overall, "all cases", f"Mean Dice by {attribute}: {spoken}")


def _reliability(calibration: Mapping[str, Any]) -> Markup:
    bins, ece = calibration["bins"], number(calibration["ece"], 3).text
    alt = f"Reliability diagram, expected calibration error {ece}: accuracy against confidence in {len(bins)} bins."
    return charts.reliability(bins, alt)


def _learning(metrics_csv: Path | None) -> dict[str, Any]:
    """The curves, or why there are none; neither where the run left no table."""
    if metrics_csv is None or not Path(metrics_csv).is_file():
        return {"svg": None, "why_not": ""}
    try:
        alt = "Learning curves: validation Dice, rate, terms of the loss by epoch."
        return {"svg": charts.learning(Path(metrics_csv), alt), "why_not": ""}
    except ValueError as error:
        return {"svg": None, "why_not": str(error)}


def _pictures(network: Evaluated) -> list[Panels]:
    """The worst, the median and the best of the cases that have pictures and a Dice."""
    shown = network.cases_with_pictures()
    scored = [row for row in network.rows if row["case"] in shown and math.isfinite(row["dice_mean"])]
    scored.sort(key=lambda row: row["dice_mean"])
    found = []
    for index, rank in three_of(len(scored), "Worst", "Median", "Best").items():
        row, case = scored[index], scored[index]["case"]
        kept = network.slice_of(case)
        image, reference, drawn = charts.case(kept, [kept.pred], network.classes, network.unit)
        pictures = image_and_reference(case, image, reference)
        pictures.append(prediction(case, network.name, drawn, row, network.classes))
        found.append(Panels(f"{rank}: {case}", pictures))
    return found
