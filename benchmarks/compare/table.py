"""The rows as tables: Markdown to read, CSV to calculate with, and the block of the README."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from custom.evaluation.case_report import BOUNDARY
from custom.evaluation.compare import FEW_PATIENTS, Difference
from custom.files import write_text
from custom.markdown import table

from .results import BASELINE, SERVED, Entry, Family, families, mean_and_sd, read_rows

MARKERS = "<!-- compare -->", "<!-- /compare -->"
MEANING = (
    "Dice on the test part: the mean over cases of the mean over classes, of the network that serves; mean and standard "
    "deviation (n - 1) over seeds. “Final” are the weights of the last step, “best” those of the best epoch in validation.",
    "Difference: the method minus its baseline (supervised training unless another is named), in points (1/100) of Dice, "
    "from the same seed and on the same cases. A case's differences are averaged over the seeds first; then come the "
    "mean over cases, its 95 % bootstrap interval over patients, and Wilcoxon's signed-rank test over patients. So interval "
    "and p speak of other patients, not of other seeds: the differences of single seeds stand in the page.",
    f"p (Holm): corrected for the number of methods on the same task and labels. With fewer than {FEW_PATIENTS} patients no "
    "difference is evidence.",
    "HD95 is a mean over the cases without a failure: read the failures (of all seeds together) beside it.",
    "Minutes: of the training, validation included. MB: the process's largest memory.",
)
_GAP = "-"


def write(rows: Path, sizes: Mapping[str, Any], out: Path, readme: Path | None = None) -> list[Path]:
    """Writes ``compare.md``, ``compare.csv`` and ``compare.html`` into ``out``, and the block of ``readme``.

    Raises:
        ValueError: a file of ``rows`` that is no row, or a README without the markers.
    """
    from .page import page

    found = families(read_rows(rows), sizes)
    texts = {"compare.md": markdown(found), "compare.csv": csv_text(found), "compare.html": page(found)}
    out.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_text(out / name, text)
    if readme is not None:
        write_text(readme, with_block(readme.read_text(encoding="utf-8"), readme_table(found), str(readme)))
    return [*(out / name for name in texts), *([readme] if readme else [])]


def markdown(found: Sequence[Family]) -> str:
    parts = ["# Methods against supervised training", "Written by `python -m benchmarks.compare --table`."]
    head = ["Method", "Dice, final", "Difference", "95 % interval", "p", "p (Holm)", "Dice, best", "Difference", "95 % interval",
            "p (Holm)", "HD95", "Failures", "Seeds", "Minutes", "MB"]  # fmt: skip
    for family in found:
        parts += [f"## {family.title}", table(head, [_line(cell) for cell in family.cells])]
        notes = [f"- {cell.name}: {note}" for cell in family.cells for note in cell.notes]
        against = [
            f"- {c.name} is compared with {c.baseline}" for c in family.cells if c.baseline not in (None, BASELINE)
        ]
        if against or notes:
            parts.append("\n".join([*against, *notes]))
    return "\n\n".join([*parts, "## What the numbers mean", *(f"- {text}" for text in MEANING)]) + "\n"


def _line(cell: Entry) -> list[str]:
    if not cell.rows:
        return [cell.name, "missing" if cell.fits else "not for this task", *[_GAP] * 13]
    final, best = (change_texts(cell, file) for file in SERVED.values())
    hd95, _ = mean_and_sd(cell.means(SERVED["final"], "hd95_mm_mean"))
    return [
        cell.name,
        dice_text(cell, SERVED["final"]),
        *final,
        dice_text(cell, SERVED["best"]),
        *(best[i] for i in (0, 1, 3)),
        number(hd95, 1),
        str(cell.failures(SERVED["final"])),
        str(len(cell.rows)),
        number(cell.average("seconds") / 60, 1),
        number(cell.average("peak_mb"), 0),
    ]


def dice_text(cell: Entry, file: str) -> str:
    """Mean and standard deviation over seeds; of one seed the mean alone, and that it is one."""
    values = cell.means(file)
    mean, sd = mean_and_sd(values)
    if len(values) < 2:
        return f"{number(mean, 3)} (1 seed)" if values else _GAP
    return f"{number(mean, 3)} +- {number(sd, 3)}"


def change_texts(cell: Entry, file: str) -> tuple[str, str, str, str]:
    """Difference in points, interval, p, p by Holm."""
    if file not in cell.changes:
        return (_GAP,) * 4
    found = cell.changes[file].mean
    return points(found.mean), interval(found), p_text(found.p), p_text(cell.holm.get(file, math.nan))


def csv_text(found: Sequence[Family]) -> str:
    """A line a file of weights of every cell, unrounded; a line without numbers where a cell is missing."""
    lines = [line for family in found for cell in family.cells for line in _csv_lines(family, cell)]
    text = io.StringIO()
    columns = list(dict.fromkeys(key for line in lines for key in line))
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _csv_lines(family: Family, cell: Entry) -> list[dict[str, Any]]:
    where: dict[str, Any] = {"task": family.task, "labels": family.labels, "name": cell.name}
    if not cell.rows:
        return [{**where, "seeds": 0, "notes": "missing" if cell.fits else "not for this task"}]
    about = {
        "baseline": cell.baseline or "",
        "steps": " ".join(dict.fromkeys(str(row["steps"]) for row in cell.rows)),
        "seconds": round(cell.average("seconds"), 1),
        "validation_seconds": round(cell.average("validation_seconds"), 1),
        "peak_mb": round(cell.average("peak_mb")),
        "machine": "; ".join(dict.fromkeys(row["machine"] for row in cell.rows)),
        "commits": " ".join(dict.fromkeys(row["commit"] for row in cell.rows)),
        "dates": " ".join(dict.fromkeys(row["date"] for row in cell.rows)),
        "notes": "; ".join(cell.notes),
    }
    return [{**where, **_scores(cell, file), **about} for file in cell.files]


def _scores(cell: Entry, file: str) -> dict[str, Any]:
    line: dict[str, Any] = {"weights": file, "network": network_name(cell, file), "seeds": len(cell.means(file))}
    line["which_seeds"] = " ".join(str(row["seed"]) for row in cell.rows if file in row["networks"])
    for key, metric in (("dice", "dice_mean"), ("hd95", "hd95_mm_mean"), (BOUNDARY, BOUNDARY)):
        line[key], line[f"{key}_sd"] = map(_known, mean_and_sd(cell.means(file, metric)))
    line["failures"] = cell.failures(file)
    if file in cell.changes:
        change = cell.changes[file]
        line |= {key: _known(getattr(change.mean, key)) for key in ("mean", "low", "high", "cases", "patients", "p")}
        line["difference"] = line.pop("mean")
        line["difference_sd"] = _known(mean_and_sd(list(change.by_seed.values()))[1])
        line["difference_by_seed"] = " ".join(f"{seed}:{value!r}" for seed, value in change.by_seed.items())
        line["p_holm"] = _known(cell.holm.get(file, math.nan))
    return line


def network_name(cell: Entry, file: str) -> str:
    """What the run calls the network of a file of weights."""
    return str(cell.rows[0].get("served_as", {}).get(file.removesuffix("_final"), file))


def readme_table(found: Sequence[Family]) -> str:
    """A method a row, a task a column: final Dice, the difference with its interval, the number of seeds."""
    names = list(dict.fromkeys(cell.name for family in found for cell in family.cells))
    head = ["method", *(family.title for family in found)]
    rows = []
    for name in names:
        cells = [next(cell for cell in family.cells if cell.name == name) for family in found]
        rows.append([f"`{name}`", *(_short(cell) for cell in cells)])
    return (
        table(head, rows, texts=len(head))
        + "\n\nTest Dice of the final weights; difference to supervised training in points, paired by case and seed, with its "
        "95 % interval over patients; \\*: p < 0.05 by Wilcoxon's test over patients, corrected for the number of methods by "
        "Holm's rule."
    )


def _short(cell: Entry) -> str:
    if not cell.rows:
        return "missing" if cell.fits else _GAP
    file = SERVED["final"]
    values = cell.means(file)
    mean, sd = mean_and_sd(values)
    seeds = "1 seed" if len(values) == 1 else f"{len(values)} seeds"
    text = number(mean, 3) + (f" +- {number(sd, 3)}" if len(values) > 1 else "")
    if file in cell.changes:
        change = cell.changes[file].mean
        star = "\\*" if cell.holm.get(file, math.nan) < 0.05 else ""
        against = "" if cell.baseline == BASELINE else f" against `{cell.baseline}`"
        text += f"; {points(change.mean)}{star} ({interval(change)}){against}"
    return f"{text}; {seeds}"


def with_block(text: str, block: str, where: str) -> str:
    """The text with ``block`` between the markers.

    Raises:
        ValueError: not one of each marker, in order.
    """
    begin, end = MARKERS
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(
            f"{where} needs the lines {begin} and {end} once each, in this order: the table goes between them"
        )
    return f"{text[: text.index(begin)]}{begin}\n{block}\n{text[text.index(end) :]}"


def number(value: float, digits: int) -> str:
    return _GAP if math.isnan(value) else f"{value:.{digits}f}"


def points(value: float) -> str:
    """Of Dice, with a sign; never -0.0."""
    rounded = round(100 * value, 1) + 0.0
    return f"{rounded:+.1f}" if rounded else "0.0"


def interval(found: Difference) -> str:
    return _GAP if math.isnan(found.low) else f"{points(found.low)} to {points(found.high)}"


def p_text(p: float) -> str:
    if math.isnan(p):
        return _GAP
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _known(value: float) -> Any:
    return "" if isinstance(value, float) and math.isnan(value) else value
