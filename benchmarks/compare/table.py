"""The rows as tables: Markdown to read, CSV to calculate with, and the summary in docs/results.md."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from typing import Any

from custom.evaluation.case_report import BOUNDARY, FAULTS, fault_texts
from custom.markdown import table

from .results import BASELINE, SERVED, Entry, Family, mean_and_sd
from .wording import GAP, MEANING, change_texts, dice_text, interval_text, network_name, number_text, points_text

MARKERS = "<!-- compare -->", "<!-- /compare -->"


def markdown(found: Sequence[Family]) -> str:
    parts = ["# Methods against supervised training", "Written by `python -m benchmarks.compare --table`."]
    head = ["Method", "Dice, final", "Difference", "95 % interval", "p", "p (Holm)", "Dice, best", "Difference", "95 % interval",
            "p (Holm)", "HD95", *FAULTS.values(), "Seeds", "Minutes", "MB"]  # fmt: skip
    for family in found:
        parts += [f"## {family.title}", table(head, [_line(entry) for entry in family.entries])]
        notes = [f"- {entry.name}: {note}" for entry in family.entries for note in entry.notes]
        against = [
            f"- {c.name} is compared with {c.baseline}" for c in family.entries if c.baseline not in (None, BASELINE)
        ]
        if against or notes:
            parts.append("\n".join([*against, *notes]))
    return "\n\n".join([*parts, "## What the numbers mean", *(f"- {text}" for text in MEANING)]) + "\n"


def _line(entry: Entry) -> list[str]:
    if not entry.rows:
        return [entry.name, entry.absence, *[GAP] * 14]
    final, best = (change_texts(entry, file) for file in SERVED.values())
    best_dice = dice_text(entry, SERVED["best"])
    if not entry.chosen:
        best, best_dice = (GAP,) * 4, GAP
    hd95, _ = mean_and_sd(entry.means(SERVED["final"], "hd95_mm_mean"))
    return [
        entry.name,
        dice_text(entry, SERVED["final"]),
        *final,
        best_dice,
        *(best[i] for i in (0, 1, 3)),
        number_text(hd95, 1),
        *fault_texts(faults := entry.faults(SERVED["final"]), faults["places"]).values(),
        str(len(entry.rows)),
        number_text(entry.average("seconds") / 60, 1),
        number_text(entry.average("peak_mb"), 0),
    ]


def csv_text(found: Sequence[Family]) -> str:
    """A line a file of weights of every entry, unrounded; a line without numbers where an entry is missing."""
    lines = [line for family in found for entry in family.entries for line in _csv_lines(family, entry)]
    text = io.StringIO()
    columns = list(dict.fromkeys(key for line in lines for key in line))
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _csv_lines(family: Family, entry: Entry) -> list[dict[str, Any]]:
    where: dict[str, Any] = {"size": family.size, "task": family.task, "labels": family.labels, "name": entry.name}
    if not entry.rows:
        return [{**where, "seeds": 0, "notes": entry.absence}]
    about = {
        "baseline": entry.baseline or "",
        "steps": " ".join(dict.fromkeys(str(row["steps"]) for row in entry.rows)),
        "seconds": round(entry.average("seconds"), 1),
        "validation_seconds": round(entry.average("validation_seconds"), 1),
        "peak_mb": round(entry.average("peak_mb")),
        "machine": "; ".join(dict.fromkeys(row["machine"] for row in entry.rows)),
        "commits": " ".join(dict.fromkeys(row["commit"] for row in entry.rows)),
        "dates": " ".join(dict.fromkeys(row["date"] for row in entry.rows)),
        "notes": "; ".join(entry.notes),
    }
    return [{**where, **_scores(entry, file), **about} for file in entry.files]


def _scores(entry: Entry, file: str) -> dict[str, Any]:
    line: dict[str, Any] = {"weights": file, "network": network_name(entry, file), "seeds": len(entry.means(file))}
    line["which_seeds"] = " ".join(str(row["seed"]) for row in entry.rows if file in row["networks"])
    for key, metric in (("dice", "dice_mean"), ("hd95", "hd95_mm_mean"), (BOUNDARY, BOUNDARY)):
        line[key], line[f"{key}_sd"] = map(_known, mean_and_sd(entry.means(file, metric)))
    line |= {key: entry.faults(file)[key] for key in (*FAULTS, "empty_labels")}
    if file in entry.changes:
        change = entry.changes[file]
        line |= {key: _known(getattr(change.mean, key)) for key in ("mean", "low", "high", "cases", "patients", "p")}
        line["difference"] = line.pop("mean")
        line["difference_sd"] = _known(mean_and_sd(list(change.by_seed.values()))[1])
        line["difference_by_seed"] = " ".join(f"{seed}:{value!r}" for seed, value in change.by_seed.items())
        line["p_holm"] = _known(entry.holm.get(file, math.nan))
    return line


def summary(found: Sequence[Family]) -> str:
    """A method a row, a task a column: final Dice, the difference with its interval, the number of seeds."""
    names = list(dict.fromkeys(entry.name for family in found for entry in family.entries))
    head = ["method", *(family.title for family in found)]
    rows = []
    for name in names:
        entries = [family.entry(name) for family in found]
        rows.append([f"`{name}`", *(_short(entry) for entry in entries)])
    return (
        table(head, rows, texts=len(head))
        + "\n\nTest Dice of the final weights; difference to supervised training in points, paired by case and seed, with its "
        "95 % interval over patients; \\*: p < 0.05 by Wilcoxon's test over patients, corrected for the number of methods by "
        "Holm's rule."
    )


def _short(entry: Entry) -> str:
    if not entry.rows:
        return entry.absence if entry.fits else GAP
    file = SERVED["final"]
    values = entry.means(file)
    mean, sd = mean_and_sd(values)
    seeds = "1 seed" if len(values) == 1 else f"{len(values)} seeds"
    text = number_text(mean, 3) + (f" +- {number_text(sd, 3)}" if len(values) > 1 else "")
    if file in entry.changes:
        change = entry.changes[file].mean
        star = "\\*" if entry.holm.get(file, math.nan) < 0.05 else ""
        against = "" if entry.baseline == BASELINE else f" against `{entry.baseline}`"
        text += f"; {points_text(change.mean)}{star} ({interval_text(change)}){against}"
    return f"{text}; {seeds}"


def with_block(text: str, block: str, where: str) -> str:
    """Return the text with ``block`` between the markers.

    Raises:
        ValueError: not one of each marker, in order.
    """
    begin, end = MARKERS
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(
            f"{where} needs the lines {begin} and {end} once each, in this order: the table goes between them"
        )
    return f"{text[: text.index(begin)]}{begin}\n{block}\n{text[text.index(end) :]}"


def _known(value: float) -> Any:
    return "" if isinstance(value, float) and math.isnan(value) else value
