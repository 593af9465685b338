"""The fingerprint of a cohort: what its training and validation scans have in common, from one reading of each file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .case import LIKE_AN_IMAGE
from .errors import CohortError
from .facts import Facts, ScanFault
from .names import first_file, stem
from .record import Record

SEEN = ("labelled", "unlabelled", "validation")
COLOURS = ("red", "green", "blue", "alpha")
NAMED = 3  # cases in a warning


def fingerprint(parts: Mapping[str, Sequence[Mapping[str, Any]]], record: Record, named: int = 0) -> dict[str, Any]:
    """Read every file of a data list, once, and sum up what is in those that training and validation use.

    The test part chooses nothing: it is counted, and nothing else of it is in the fingerprint. Its files are read
    all the same, so that the record knows what they hold and a copy of a test scan in training is found by content.
    Labels of unlabelled scans are not read.

    Args:
        parts: entries with absolute paths under the names of the parts; ``image`` is a path, or a path a modality.
        record: of the files that were read before.
        named: classes that have a name: labels may have as many values.

    Returns:
        Plain values for JSON, None where there is nothing to sum up:

        - ``scans``: how many in each part.
        - ``channels``: names, in the order of the image's channels.
        - ``dimensions``: 2 (pictures) or 3.
        - ``spacing_mm``, ``size``: min, median, max over scans along each axis; size in voxels.
        - ``intensity``: per channel ``min`` and ``max`` over all scans, ``p0.5``, ``median`` and ``p99.5`` as the
          median over scans of that percentile of a scan. A file's channels share its min and max.
        - ``label_values``: the whole numbers >= 0 that labels hold, in order.
        - ``classes``: per label value the ``cases`` that have it, and min, median, max over them of ``volume_ml``
          (of ``pixels``, in pictures).
        - ``warnings``: a sentence each.

    Raises:
        CohortError: every file that cannot be read, and images whose dimensions or channels are not those of most.
    """
    facts = _facts(parts, record)
    seen = [entry for part in SEEN for entry in parts.get(part, [])]
    images = [{name: facts[file] for name, file in image_files(entry).items()} for entry in seen]
    judged = [entry for part in SEEN if part != "unlabelled" for entry in parts.get(part, [])]
    labels = [(stem(first_file(entry)), facts[entry["label"]]) for entry in judged]
    firsts = [next(iter(image.values())) for image in images]  # modalities share a grid
    dimensions = len(firsts[0].shape) if firsts else None
    found = _intensities(images)
    values, classes, odd = _classes(labels, dimensions, max(LIKE_AN_IMAGE, named))
    return {
        "scans": {part: len(entries) for part, entries in parts.items()},
        "channels": list(found),
        "dimensions": dimensions,
        "spacing_mm": _spread([f.spacing_mm for f in firsts]),
        "size": _spread([f.shape for f in firsts]),
        "intensity": found,
        "label_values": values,
        "classes": classes,
        "warnings": _warnings(seen, facts, odd),
    }


def image_files(entry: Mapping[str, Any]) -> dict[str, str]:
    """The files of an entry's image by modality; a single one is called ``image``."""
    image = entry["image"]
    return dict(image) if isinstance(image, Mapping) else {"image": str(image)}


def _facts(parts: Mapping[str, Sequence[Mapping[str, Any]]], record: Record) -> dict[str, Facts]:
    owner: dict[str, str] = {}  # of each file, for the report
    images: dict[str, str] = {}  # modality of each image
    for part, entries in parts.items():
        for entry in entries:
            label = [] if part == "unlabelled" else [str(entry["label"])]
            images.update({file: name for name, file in image_files(entry).items()})
            for file in [*image_files(entry).values(), *label]:
                owner.setdefault(file, f"{part}, {stem(first_file(entry))}")
    labels = {str(entry["label"]) for part, entries in parts.items() if part != "unlabelled" for entry in entries}
    found = record.facts(list(owner), labels=labels)
    facts = {file: fact for file, fact in found.items() if isinstance(fact, Facts)}
    faults = [f"{owner[file]}: {fact}" for file, fact in found.items() if isinstance(fact, ScanFault)]
    faults += _outliers({file: facts[file] for file in images if file in facts}, images, owner)
    if faults:
        raise CohortError(f"{len(faults)} of {len(found)} files cannot be used:\n  " + "\n  ".join(faults))
    return facts


def _outliers(facts: Mapping[str, Facts], modality: Mapping[str, str], owner: Mapping[str, str]) -> list[str]:
    """Images that are not pictures among pictures, or have other channels than most of their modality."""
    shapes = {file: (modality[file], len(fact.shape), fact.channels) for file, fact in facts.items()}
    usual_dimensions = _most(dimensions for _, dimensions, _ in shapes.values())
    counts: dict[str, list[int]] = {}
    for name, _, channels in shapes.values():
        counts.setdefault(name, []).append(channels)
    usual_channels = {name: _most(found) for name, found in counts.items()}
    faults = []
    for file, (name, dimensions, channels) in shapes.items():
        usual = usual_channels[name]
        if dimensions != usual_dimensions:
            text = f"has {dimensions} dimensions, most images have {usual_dimensions}"
        elif channels != usual:
            text = f"channels: {channels}, most images have {usual}"
        else:
            continue
        faults.append(f"{owner[file]}: {text}. Convert it, or take it out")
    return faults


def _most(values: Iterable[int]) -> int | None:
    return next((value for value, _ in Counter(values).most_common(1)), None)


def _spread(rows: Sequence[Sequence[float]] | Sequence[float], digits: int = 4) -> dict[str, Any] | None:
    """min, median, max along the first axis: of numbers a number each, of vectors a vector each."""
    if not rows:
        return None
    table = np.asarray(rows, dtype=float)
    return {name: f(table, axis=0).round(digits).tolist() for name, f in
            (("min", np.min), ("median", np.median), ("max", np.max))}  # fmt: skip


def _intensities(images: Sequence[Mapping[str, Facts]]) -> dict[str, dict[str, float]]:
    """Intensities of each channel: a row (low, p0.5, median, p99.5, high) for each scan, summed up over scans."""
    fullest = sorted(images, key=len, reverse=True)  # a scan that lacks a modality does not order the channels
    found: dict[str, dict[str, float]] = {}
    for modality in dict.fromkeys(name for image in fullest for name in image):
        facts = [image[modality] for image in images if modality in image]
        for channel, name in enumerate(_channel_names(modality, facts[0])):
            rows = np.array([(f.low, *f.percentiles[channel], f.high) for f in facts])
            rows = rows[np.isfinite(rows).all(axis=1)]  # an image of NaN alone has none
            found[name] = _summary(rows) if len(rows) else {}
    return found


def _summary(rows: np.ndarray) -> dict[str, float]:
    numbers = [rows[:, 0].min(), *np.median(rows[:, 1:4], axis=0), rows[:, 4].max()]
    return {k: float(f"{x:.6g}") for k, x in zip(("min", "p0.5", "median", "p99.5", "max"), numbers, strict=True)}


def _channel_names(modality: str, facts: Facts) -> list[str]:
    """The modality's own name where it has one channel; colours in a picture; else numbers."""
    if facts.channels == 1:
        return [modality]
    if modality == "image" and len(facts.shape) == 2 and facts.channels in (3, 4):
        return list(COLOURS[: facts.channels])
    return [f"{modality} {number}" for number in range(1, facts.channels + 1)]


def _classes(
    labels: Sequence[tuple[str, Facts]], dimensions: int | None, most: int
) -> tuple[list[int], dict[str, dict[str, Any]], list[str]]:
    """Label values, what there is of each, and the cases whose label has other values or too many to be one."""
    amounts: dict[int, list[float]] = {}
    odd: list[str] = []
    for case, label in labels:
        if label.values is None or len(label.values) > most:
            odd.append(case)
            continue
        strange = [value for value, _ in label.values if value < 0 or value != int(value)]
        if strange:
            odd.append(case)
        unit = 1.0 if dimensions == 2 else float(np.prod(label.spacing_mm)) / 1000  # ml of a voxel
        for value, count in label.values:
            if value not in strange:
                amounts.setdefault(int(value), []).append(count * unit)
    unit_name = "pixels" if dimensions == 2 else "volume_ml"
    classes = {str(v): {"cases": len(amounts[v]), unit_name: _spread(amounts[v], 6)} for v in sorted(amounts)}
    return sorted(amounts), classes, odd


def _warnings(seen: Sequence[Mapping[str, Any]], facts: Mapping[str, Facts], odd_labels: list[str]) -> list[str]:
    """One sentence a kind, however many files it is said of."""
    cases: dict[str, list[str]] = {}
    texts: dict[str, str] = {}
    for entry in seen:
        files = [*image_files(entry).values(), *([entry["label"]] if entry.get("label") else [])]
        for fact in (facts[file] for file in files if file in facts):
            nonfinite = ["voxels that are NaN or infinite"] if fact.nonfinite else []
            for text in (*fact.warnings, *nonfinite):
                kind = re.sub(r"-?\d+(\.\d+)?(e[-+]?\d+)?", "#", text)
                texts.setdefault(kind, text)
                cases.setdefault(kind, []).append(stem(first_file(entry)))
    if odd_labels:
        cases["labels"], texts["labels"] = odd_labels, "label values that are not all whole numbers >= 0, or over 64"
    return [f"{_named(list(dict.fromkeys(cases[kind])))}: {text}" for kind, text in texts.items()]


def _named(cases: Sequence[str]) -> str:
    return ", ".join(cases) if len(cases) <= NAMED else f"{len(cases)} cases, such as {', '.join(cases[:NAMED])}"


def describe(found: Mapping[str, Any]) -> list[str]:
    """A fingerprint in lines for a reader, without its warnings."""
    lines = []
    if found["dimensions"] == 3:
        lines.append(f"spacing    {_range(found['spacing_mm'], ' x ')} mm")
    if found["size"]:
        unit = "pixels" if found["dimensions"] == 2 else "voxels"
        lines.append(f"size       {_range(found['size'], ' x ')} {unit}")
    for channel, n in found["intensity"].items():
        text = "no finite voxel"
        if n:
            text = f"{n['min']:g} to {n['max']:g}; typically {n['p0.5']:g} to {n['p99.5']:g}, median {n['median']:g}"
        lines.append(f"channel    {channel}: {text}")
    labels = sum(found["scans"].get(part, 0) for part in SEEN if part != "unlabelled")
    for value, amount in found["classes"].items():
        unit = "pixels" if "pixels" in amount else "volume_ml"
        if value != "0":
            text = f"label      {value} in {amount['cases']} of {labels} labels"
            lines.append(f"{text}, {_range(amount[unit])} {unit.removeprefix('volume_')}")
    return lines


def _range(spread: Mapping[str, Any], cross: str = "") -> str:
    """``a to b (median m)``, or the one value where all are the same."""
    low, median, high = (
        cross.join(f"{x:.3g}" if x < 1000 else f"{x:.0f}" for x in np.atleast_1d(spread[name]))
        for name in ("min", "median", "max")
    )
    return low if low == high else f"{low} to {high} (median {median})"
