"""Scores by our evaluation, and the tables of all comparisons: Markdown to read, CSV to calculate with."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from custom.cohort.formats.itk_image import is_picture
from custom.cohort.label_formats import as_classes
from custom.dice import mean_of_known
from custom.evaluation.case_report import COUNTS, CaseReport, Row, class_counts
from custom.evaluation.case_table import classes_of, read_cases
from custom.evaluation.compare import beside_dice, model_table, paired_difference, verdict
from custom.files import write_text
from custom.markdown import table
from custom.study.label_maps import map_of

from .cohort import Cohort, PeersError, load

Comparison = tuple[Mapping[str, Any], Mapping[str, Sequence[Row]]]  # what was run, the cases by method
NNUNET = "nnU-Net"  # the baseline of all differences
ABOUT = "about.json"
MEANING = (
    "Every method had the same wall-clock time for its training, with all that comes before it (nnU-Net: planning and "
    "preprocessing; ours: start and reading), on the same cores without a GPU; the minutes are what it took. How many steps "
    "of ours fit is measured beforehand, for a twentieth of the time.",
    "nnU-Net and `supervised` saw the labelled scans alone, the other bundles the unlabelled ones too. No method saw the "
    "validation part; the last weights of each are scored.",
    "nnU-Net trains with its own plan, on all labelled cases (fold `all`), with its learning-rate schedule shortened to the "
    "time; predictions are its predictor's, with mirrored views. It is made for 250,000 steps on a GPU: the steps say how far "
    "from that a comparison is.",
    "All are scored by the same code from label maps on the grids of the files. Inference: reading, segmenting and writing, "
    "seconds a scan.",
    "One seed, one split: the intervals are over patients, and say nothing of another training.",
)  # fmt: skip


def score(cohort: Cohort, maps: Path, folder: Path, name: str) -> str:
    """Score the label maps of the test scans, write ``name.csv`` and what belongs to it; return the unit of distances.

    Raises:
        PeersError: a map is missing.
    """
    report, values, unit = CaseReport(cohort.task["classes"][1:]), cohort.task["label_values"], "mm"
    for case in cohort.cases("test"):
        if (file := map_of(maps, case["case"])) is None:
            raise PeersError(f"{name} left no label map of {case['case']} in {maps}")
        label = load(case["reference"], label=True)
        found, wanted = (as_classes(np.asarray(scan)[0], values) for scan in (load(file, label=True), label))
        spacing_mm = [float(size) for size in label.pixdim[: wanted.ndim]]
        report.add(case["case"], case["patient"], found, wanted, spacing_mm, case["attributes"])
        unit = "pixels" if is_picture(case["reference"]) else unit
    report.write(folder, name, unit)
    return unit


def write(rows: Path, out: Path) -> list[Path]:
    """Write ``peers.md`` and ``peers.csv`` of every comparison in ``rows``: a folder each with ``about.json`` and a table of
    cases a method, nnU-Net first.

    Raises:
        ValueError: a file that is not a table, or is of other cases than nnU-Net's.
    """
    found: list[Comparison] = []
    for path in sorted(rows.glob(f"*/{ABOUT}")):
        about = json.loads(path.read_text(encoding="utf-8"))
        found.append((about, {name: read_cases(path.with_name(f"{name}.csv")) for name in about["methods"]}))
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "peers.md", markdown(found))
    write_text(out / "peers.csv", csv_text(found))
    return [out / "peers.md", out / "peers.csv"]


def markdown(found: Sequence[Comparison]) -> str:
    parts = ["# nnU-Net and our bundles in the same time"]
    for about, cases in found:
        theirs, unit = cases[NNUNET], about["unit"]
        labels = f", {about['labels']} labelled" if about["labels"] else ""
        parts += [
            f"## {about['task']}{labels}, {about['budget']} each, seed {about['seed']}",
            model_table(dict(cases), classes_of(theirs), unit),
            table(["Method", "Training, minutes", "Steps", "Inference, s a scan"],
                  [_times(name, about["methods"][name], len(theirs)) for name in cases]),
        ]  # fmt: skip
        for name, rows in cases.items():
            if name != NNUNET:
                dice, names = paired_difference(rows, theirs), (NNUNET, name)
                parts.append(" ".join([verdict(dice, names), *beside_dice(theirs, rows, names, dice, unit)]))
        own = about["methods"][NNUNET]
        parts += [
            f"nnU-Net {about['nnunet']}, {own['configuration']}: patch {' x '.join(map(str, own['patch']))}, batch "
            f"{own['batch']}, {own['parameters'] / 1e6:.1f} million parameters, {own['epochs']} epochs. {about['machine']}, "
            f"{about['threads']} thread(s), {about['date']}, commit {about['commit']}, torch {about['torch']}.",
            f"    {about['command']}",
        ]
    return "\n\n".join([*parts, "## What the numbers mean", *(f"- {text}" for text in MEANING)]) + "\n"


def _times(name: str, method: Mapping[str, Any], scans: int) -> list[str]:
    return [
        name,
        f"{method['training_seconds'] / 60:.1f}",
        str(method["steps"]),
        f"{method['inference_seconds'] / scans:.2f}",
    ]


def csv_text(found: Sequence[Comparison]) -> str:
    """A line a method of every comparison, unrounded; differences are to nnU-Net, Dice in [-1, 1]."""
    lines = [_line(about, cases, name) for about, cases in found for name in cases]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for line in lines for key in line)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {k: "" if isinstance(v, float) and math.isnan(v) else v for k, v in line.items()} for line in lines
    )
    return text.getvalue()


def _line(about: Mapping[str, Any], cases: Mapping[str, Sequence[Row]], name: str) -> dict[str, Any]:
    rows, method = cases[name], about["methods"][name]
    counts = [class_counts(rows, one) for one in classes_of(rows)]
    means = {key: mean_of_known([row[column] for row in rows]) for key, column in
             (("dice", "dice_mean"), (f"hd95_{about['unit']}", "hd95_mm_mean"))}  # fmt: skip
    line = {key: about[key] for key in ("task", "labels", "budget", "seed")} | {"method": name, **means}
    line |= {key: sum(of[key] for of in counts) for key in (*COUNTS, "empty_labels")}
    difference = paired_difference(rows, cases[NNUNET])
    keys = ("mean", "low", "high", "p", "cases", "patients")
    line |= {("difference" if key == "mean" else key): getattr(difference, key) for key in keys}
    line |= {"training_seconds": round(method["training_seconds"], 1), "steps": method["steps"]}
    line |= {"inference_seconds_a_scan": round(method["inference_seconds"] / len(rows), 3)}
    return line | {key: about[key] for key in ("threads", "date", "commit", "machine", "nnunet", "torch", "command")}
