"""The page of one evaluated run."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..evaluation.case_report import BOUNDARY, CONTRAST, GROUP, NOT_GIVEN, Row
from ..evaluation.hardness import REACH
from ..files import under, write_text
from . import charts, page
from .inputs import Evaluated, ReportError, failed, read_evaluated, read_json
from .page import Cell, Column, interval, number, words
from .plots import COLOURS

logger = logging.getLogger(__name__)

_PART = {
    "test": "The run chose nothing on these cases, neither weights nor epoch. Choose nothing by them yourself, or they no "
    "longer say what to expect on others.",
    "validation": "The weights that serve were chosen on validation cases: expect less on others, and report the test part.",
}

_JUDGED = ("dice_", "hd95_mm_")  # with an interval; Jaccard and ASD beside them say the same in other words
_MORE = ("95 % interval", "cases")
MOST_VALUES = 12  # of an attribute that makes groups; with more (an age) a group would hold a case or two


def write_report(folder: Path, title: str, metrics_csv: Path | None = None) -> Path:
    """Writes ``report.html`` into the folder of an evaluated part, whole or not at all.

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
    serving, part = networks[0], folder.resolve().name
    cases, patients = serving.summary["cases"], serving.summary["patients"]
    below = f"Part: {part}. {_count(cases, 'case')} of {_count(patients, 'patient')}. Serving network: {serving.name}."
    text = page.page(
        title,
        below,
        _headline(serving),
        [
            ("Networks", _networks(networks)),
            ("Classes", _classes(serving)),
            ("Cases by class", _strips(serving)),
            ("Groups", _groups(serving)),
            ("Worst, median and best case", _pictures(serving)),
            ("Every case", _cases(serving)),
            ("Calibration", _calibration(serving)),
            ("Learning curves", _learning(metrics_csv)),
            ("Comparable with published tables", _compat(serving)),
            ("What the numbers mean", _meaning(serving, part)),
        ],
    )
    path = folder / "report.html"
    write_text(path, text)
    return path


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
        page = write_report(output / "evaluation" / part, f"{task}, {part} part", output / "metrics.csv")
    except ImportError as error:  # matplotlib is optional where a bundle only serves
        logger.info("No report.html is written: %s", error)
        return None
    logger.info("With pictures: %s", page)
    return page


def _headline(network: Evaluated) -> str:
    summary, dice, distance = network.summary, network.metric("dice_mean"), network.metric("hd95_mm_mean")
    scored = sum(int(network.metric(f"dice_{name}").get("cases") or 0) for name in network.classes)
    entries = [
        ("Dice, mean", number(dice.get("mean"), 3).text, _interval_text(dice.get("low"), dice.get("high"), 3)),
        (
            f"HD95, {network.unit}",
            number(distance.get("mean"), 1).text,
            _interval_text(distance.get("low"), distance.get("high"), 1) + without_distance(summary["failures"], "; "),
        ),
        ("Failures", str(summary["failures"]), f"of {scored} scored classes of cases"),
        ("Cases", str(summary["cases"]), f"of {_count(summary['patients'], 'patient')}"),
    ]
    if summary.get("calibration"):
        ece = number(summary["calibration"]["ece"], 3).text
        entries.append(("Calibration error (ECE)", ece, "0 is perfect"))
    return page.tiles(entries)


def _networks(networks: Sequence[Evaluated]) -> str:
    several = networks[0].several
    columns = [
        Column("Network", words=True),
        *(Column(name, "Dice") for name in ("mean", "95 % interval", *several)),
        Column("boundary Dice"),
        Column(f"HD95, {networks[0].unit}"),
        Column("failures"),
    ]
    if any(network.summary.get("calibration") for network in networks):
        columns.append(Column("ECE"))
    rows = []
    for network in networks:
        mean = network.metric("dice_mean")
        cells = [
            words(network.name),
            number(mean.get("mean"), 3),
            interval(mean.get("low"), mean.get("high"), 3),
            *(number(network.metric(f"dice_{name}").get("mean"), 3) for name in several),
            number(network.metric(BOUNDARY).get("mean"), 3),
            number(network.metric("hd95_mm_mean").get("mean"), 1),
            _failures(network.summary["failures"]),
            number((network.summary.get("calibration") or {}).get("ece"), 3),
        ]
        rows.append(cells[: len(columns)])
    note = "The first network serves; a name that ends in _final has the weights of the last epoch."
    apart = any(network.summary.get("left_out") for network in networks)
    cases = "each on the cases that have its modality" if apart else "on the same cases"
    return page.table(f"Every network of the run, {cases}. {note}", columns, rows)


def _classes(network: Evaluated) -> str:
    """Mean, spread and interval of every metric, a row a class."""
    names = [*network.classes, "mean"] if len(network.classes) > 1 else network.classes
    overlaps = (("dice_", "Dice", 3), ("jaccard_", "Jaccard", 3))
    parts = [
        part for part in (*overlaps, *_distances(network)) if any(network.metric(part[0] + name) for name in names)
    ]
    columns = [Column("Class", words=True)]
    for prefix, heading, _ in parts:
        columns += [Column(name, heading) for name in ("mean", "sd", *(_MORE if prefix in _JUDGED else ()))]
    columns += [Column("failures"), Column("empty labels")]
    rows = []
    for name in names:
        cells = [words("mean of the classes" if name == "mean" else name)]
        for prefix, _, digits in parts:
            found = network.metric(prefix + name)
            cells += [number(found.get("mean"), digits), number(found.get("sd"), digits)]
            if prefix in _JUDGED:
                cells += [interval(found.get("low"), found.get("high"), digits), number(found.get("cases"), 0)]
        about = network.summary["classes"].get(name) if name != "mean" else network.summary
        rows.append([*cells, _failures(about["failures"]), number(about["empty_labels"], 0)])
    caption = f"{network.name}: mean over cases. Cases counts those that have a number; a failure has no distance."
    return page.table(caption, columns, rows)


def _strips(network: Evaluated) -> str:
    dice = {name: [row[f"dice_{name}"] for row in network.rows] for name in network.classes}
    distances = {name: [row.get(f"hd95_mm_{name}", math.nan) for row in network.rows] for name in network.classes}
    caption = "One dot a case; box: quartiles and median; whiskers: 5 % and 95 %."
    figures = [page.chart(charts.strips(dice, "Dice", 1.0, _spoken("Dice", dice, 3)), caption)]
    if any(math.isfinite(value) for values in distances.values() for value in values):
        figures.append(
            page.chart(
                charts.strips(
                    distances, f"HD95, {network.unit}", None, _spoken(f"HD95 in {network.unit}", distances, 1)
                ),
                caption,
            )
        )
        return page.charts(figures)
    return page.charts(figures) + page.paragraph("No case has an HD95: in none are prediction and label both there.")


def _spoken(metric: str, values: Mapping[str, Sequence[float]], digits: int) -> str:
    """A figure of strips in words: the range of each class."""
    parts = []
    for name, numbers in values.items():
        known = [value for value in numbers if math.isfinite(value)]
        parts.append(f"{name} {min(known):.{digits}f} to {max(known):.{digits}f}" if known else f"{name} none")
    return f"{metric} of every case, by class: {'; '.join(parts)}."


def _groups(network: Evaluated) -> str:
    """A table and a figure of each attribute."""
    content = []
    overall = network.metric("dice_mean").get("mean")
    for attribute, values in (network.summary.get("groups") or {}).items():
        if told := too_many_values(attribute, values):
            content.append(told)
            continue
        columns = [
            *(Column(name, words=not i) for i, name in enumerate((attribute, "cases", "patients", "failures"))),
            *(Column(name, "Dice") for name in ("mean", "95 % interval", *network.several)),
            Column("boundary Dice"),
            *(Column(name, f"HD95, {network.unit}") for name in network.classes),
        ]
        rows, drawn = [], {}
        for value, group in values.items():
            metrics = group["metrics"]
            mean = metrics.get("dice_mean") or {}
            rows.append(
                [
                    words(value),
                    number(group["cases"], 0),
                    number(group["patients"], 0),
                    _failures(group["failures"]),
                    number(mean.get("mean"), 3),
                    interval(mean.get("low"), mean.get("high"), 3),
                    *(number((metrics.get(f"dice_{name}") or {}).get("mean"), 3) for name in network.several),
                    number((metrics.get(BOUNDARY) or {}).get("mean"), 3),
                    *(number((metrics.get(f"hd95_mm_{name}") or {}).get("mean"), 1) for name in network.classes),
                ]
            )
            if mean.get("mean") is not None:
                ends = (math.nan if mean.get(end) is None else mean[end] for end in ("low", "high"))
                drawn[f"{value} ({_count(group['cases'], 'case')})"] = (mean["mean"], *ends)
        content.append(page.table(f"By {attribute}, {network.name}", columns, rows))
        if drawn and overall is not None:
            alt = f"Mean Dice by {attribute}: " + "; ".join(f"{name} {mean:.3f}" for name, (mean, *_) in drawn.items())
            svg = charts.intervals(drawn, "mean Dice", overall, "all cases", alt)
            content.append(
                page.chart(
                    svg,
                    f"Mean Dice by {attribute}; 95 % intervals over patients, which say little where these are few.",
                )
            )
    return "\n".join(content)


def too_many_values(attribute: str, values: Iterable[str]) -> str:
    """The sentence in the place of an attribute with more than ``MOST_VALUES`` values; empty for any other."""
    count = sum(value not in ("", NOT_GIVEN) for value in values)
    if count <= MOST_VALUES:
        return ""
    return page.paragraph(
        f"Not grouped by {attribute}: it has {count} values, and more than {MOST_VALUES} make groups too small to read."
    )


def _pictures(network: Evaluated) -> str:
    shown = network.cases_with_pictures()
    scored = [row for row in network.rows if row["case"] in shown and math.isfinite(row["dice_mean"])]
    scored.sort(key=lambda row: row["dice_mean"])
    if not scored:
        return ""
    blocks = []
    for index, rank in sorted(three_of(len(scored), "Worst", "Median", "Best").items()):
        row = scored[index]
        shown_slice = network.slice_of(row["case"])
        image, reference, pred = charts.case(shown_slice, [shown_slice.pred], network.classes, network.unit)
        dice = dice_text(row, network.classes)
        pictures = [
            (image, f"image of {row['case']}", "image; the box is what the others show"),
            (reference, f"{row['case']}: outlines of the reference", "reference"),
            (pred, f"{row['case']}: outlines of {network.name} over the reference", f"{network.name}: {dice}"),
        ]
        blocks.append(page.panels(f"{rank}: {row['case']}", pictures))
    note = f"One slice of each case, that with most of the label. Dice is of the whole case; ranked by {network.name}."
    return page.paragraph(note, "faint") + page.key(class_colours(network.classes)) + "".join(blocks)


def three_of(count: int, first: str, middle: str, last: str) -> dict[int, str]:
    """Which of ``count`` sorted cases are shown, and what they are called; fewer where there are fewer."""
    if count == 1:
        return {0: "The only case"}
    return {(count - 1) // 2: middle, 0: first, count - 1: last}


def class_colours(classes: Sequence[str]) -> list[tuple[str, str]]:
    """The colour of each class in pictures and legends, in order."""
    return [(name, COLOURS[i % len(COLOURS)]) for i, name in enumerate(classes)]


def dice_text(row: Row, classes: Sequence[str]) -> str:
    """``Dice 0.812 (RV 0.70, LV 0.92)``; the classes where there are several."""
    text = f"Dice {number(row['dice_mean'], 3).text}"
    if len(classes) == 1:
        return text
    each = (f"{name} {number(row['dice_' + name], 2).text}" for name in classes)
    return f"{text} ({', '.join(each)})"


def _cases(network: Evaluated) -> str:
    """Worst first; what has no Dice comes last."""
    distances = [part for part in _distances(network) if _has(network, part[0])]
    columns = [
        Column("case", words=True),
        Column("patient", words=True),
        *(Column(name, words=True) for name in network.attributes),
        Column("mean", "Dice", ascending=True),
        *(Column(name, "Dice") for name in network.several),
        *(Column(name, heading) for _, heading, _ in distances for name in network.classes),
        Column("boundary Dice"),
        Column("contrast"),
        Column("failures"),
    ]
    rows = sorted(network.rows, key=lambda row: (math.isnan(row["dice_mean"]), row["dice_mean"]))
    cells = [
        [
            words(row["case"]),
            words(row["patient"]),
            *(words(row[GROUP + name] or NOT_GIVEN) for name in network.attributes),
            number(row["dice_mean"], 3),
            *(number(row[f"dice_{name}"], 3) for name in network.several),
            *(
                _distance(row, prefix, name, digits)
                for prefix, _, digits in distances
                for name in network.classes
            ),
            number(row.get(BOUNDARY), 3),
            number(row.get(CONTRAST), 3),
            _failures(row["failures"]),
        ]
        for row in rows
    ]  # fmt: skip
    caption = (
        f"{network.name}: {_count(len(rows), 'case')}, worst first; a click on a head sorts. “failed”: prediction or "
        f"label is empty, not both. {page.NOTHING}: both are, there is nothing to score."
    )
    return page.table(caption, columns, cells, sortable=True, bad_rows=[row["failures"] > 0 for row in rows])


def _distances(network: Evaluated) -> tuple[tuple[str, str, int], ...]:
    """Beginning of the columns, head and decimals of each distance."""
    return ("hd95_mm_", f"HD95, {network.unit}", 1), ("asd_mm_", f"ASD, {network.unit}", 2)


def _has(network: Evaluated, prefix: str) -> bool:
    return any(prefix + name in network.rows[0] for name in network.classes)


def _distance(row: Row, prefix: str, name: str, digits: int) -> Cell:
    return Cell("failed", bad=True) if failed(row, name) else number(row.get(prefix + name), digits)


def _calibration(network: Evaluated) -> str:
    found = network.summary.get("calibration")
    if not found or not any(part["count"] for part in found["bins"]):
        return ""
    ece = number(found["ece"], 3).text
    alt = f"Reliability diagram, expected calibration error {ece}: accuracy against confidence in {len(found['bins'])} bins."
    caption = (
        f"Bars: the share of voxels that are right, by the network's confidence; dots: at the bin's mean confidence. "
        f"Below the dashed line it is too sure, above it not sure enough. Over: {found['over']}."
    )
    columns = [
        Column("confidence", words=True),
        *(Column(n) for n in ("voxels", "mean confidence", "accuracy", "accuracy minus confidence")),
    ]
    rows = [
        [
            words(f"{part['low']:.2f} to {part['high']:.2f}"),
            number(part["count"], 0),
            number(part["confidence"], 3),
            number(part["accuracy"], 3),
            number(part["accuracy"] - part["confidence"], 3, sign=True),
        ]
        for part in found["bins"]
        if part["count"]
    ]
    figure = page.chart(charts.reliability(found["bins"], alt), caption)
    return figure + page.folded("The same as a table", page.table(f"Calibration, ECE {ece}", columns, rows))


def _learning(metrics_csv: Path | None) -> str:
    if metrics_csv is None or not Path(metrics_csv).is_file():
        return ""
    try:
        svg = charts.learning(Path(metrics_csv), "Learning curves: validation Dice, rate, terms of the loss by epoch.")
    except ValueError as error:
        return page.paragraph(str(error))
    return page.chart(svg, "Validation Dice, then every term of the loss before its weight, by epoch.", wide=True)


def _compat(network: Evaluated) -> str:
    found = network.summary.get("compat")
    if not found:
        return ""
    parts = (("dice_", "Dice", 3), ("jaccard_", "Jaccard", 3), ("hd95_voxels_", "HD95, voxels", 1),
             ("asd_voxels_", "ASD, voxels", 2))  # fmt: skip
    names = [
        name for name in (*network.classes, "mean") if any(prefix + name in found["metrics"] for prefix, *_ in parts)
    ]
    columns = [Column("Class", words=True), *(Column(name, part) for _, part, _ in parts for name in ("mean", "sd"))]
    rows = []
    for name in names:
        cells = [words("mean of the classes" if name == "mean" else name)]
        for prefix, _, digits in parts:
            metric: Mapping[str, Any] = found["metrics"].get(prefix + name) or {}
            cells += [number(metric.get("mean"), digits), number(metric.get("sd"), digits)]
        rows.append(cells)
    warning = page.paragraph(f"Only to stand beside published tables, not to judge a network by. Rule: {found['rule']}")
    table = page.table(f"{network.name}, by the rule of published tables", columns, rows)
    return page.folded("Show the table", warning + table)


def _meaning(network: Evaluated, part: str) -> str:
    texts = [
        "Dice: twice the overlap of prediction and label over the sum of both; 1 is perfect, 0 no overlap. The mean of a "
        "case is over the classes that prediction or label holds.",
        f"HD95: the distance, in {network.unit}, that 95 % of the border points of prediction and label stay below; ASD: "
        "the average distance from the border of the prediction to that of the label. Smaller is better. The mean of a "
        "case is over the classes that prediction and label hold; a case with a failure has none.",
        f"Boundary Dice: of the voxels within {REACH} of the label's surface alone. Contrast: how far the foreground's mean "
        f"intensity is from that of the {REACH} voxels around it, 1 being the range of the image; it has nothing to do with "
        "any network, and the quarter of the cases that have least of it is a group of its own.",
        "A failure: one of prediction and label holds the class and the other does not. Its Dice is 0 and it has no "
        "distance, so a mean distance leaves it out: read the failures beside it.",
        f"Intervals: {network.summary['interval']}. A patient is drawn with all of their cases, because these are not "
        "independent. The interval speaks of other patients like these, not of another training or another hospital.",
    ]
    if network.summary.get("calibration"):
        texts.append(
            "ECE: the mean gap between the network's confidence and how often it is right, weighted by voxels, over "
            f"{network.summary['calibration']['over']}."
        )
    return page.bullets([*texts, *([_PART[part]] if part in _PART else [])])


def _interval_text(low: float | None, high: float | None, digits: int) -> str:
    cell = interval(low, high, digits)
    return f"95 % interval {cell.text}" if cell.value is not None else "no interval"


def _failures(count: int) -> Cell:
    return Cell(str(count), count, bad=count > 0)


def without_distance(failures: int, before: str) -> str:
    """What a mean distance leaves out, to stand right behind it; empty where nothing failed."""
    return f"{before}{_count(failures, 'failure')} {'has' if failures == 1 else 'have'} none" if failures else ""


def _count(n: int, thing: str) -> str:
    return f"{n} {thing}{'' if n == 1 else 's'}"
