"""What is odd about the scans of a study: images that are there twice or blank, sizes far apart, classes that one patient has
alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..cohort.facts import Facts
from ..cohort.fingerprint import image_files
from ..cohort.names import stem
from ..cohort.record import Record
from ..cohort.words import plural
from .settings import StudyError

FAR = 4.0  # times the median extent
NAMED = 3  # scans in a sentence
Entry = Mapping[str, Any]


def refuse_twins(labelled: Sequence[Entry], unlabelled: Sequence[Entry], record: Record) -> None:
    """An image under two names would train and judge at once, or be learnt from with its label and without.

    Two scans of one patient never stand on both sides, and two unlabelled scans alike do no harm. A channel that is the same all
    over, such as the zeros of a modality that is missing, tells no scan from another.

    Raises:
        StudyError: a labelled image that another patient's scan, or an unlabelled scan, holds too, whatever the file's name
            and compression; all of them in one report.
    """
    owners: dict[tuple[str, str], Entry] = {}
    faults = []
    for entry in [*labelled, *unlabelled]:
        for name, file in image_files(entry).items():
            facts = _facts(record, file)
            if not facts.low < facts.high:  # NaN where no voxel is finite
                continue
            first = owners.setdefault((name, facts.voxels), entry)
            both_labelled = bool(first.get("label") and entry.get("label"))
            if first is entry or not (first.get("label") or entry.get("label")):
                continue
            if both_labelled and first["patient"] == entry["patient"]:
                continue
            faults.append(f"{_said(entry)} holds the same image as {_said(first)}")
            break
    if faults:
        raise StudyError(
            f"{plural(len(faults), 'image')} under two names: a network would be judged by what it has learnt from.\n  "
            + "\n  ".join(faults)
            + "\nTake one of each pair out of the folder"
        )


def refuse_blank(labelled: Sequence[Entry], record: Record) -> None:
    """A blank image with a label cannot judge: no network is given one, and the fold's scores would be lost after its training.

    Raises:
        StudyError: a labelled image, or one of its modalities, is the same all over; all of them in one report.
    """
    faults = []
    for entry in labelled:
        files = image_files(entry)
        for name, file in files.items():
            facts = _facts(record, file)
            if facts.low == facts.high:
                what = f" in {name}" if len(files) > 1 else ""
                faults.append(f"{stem(file)} (patient {entry['patient']}): {facts.low:g} all over{what}")
    if faults:
        raise StudyError(
            f"{plural(len(faults), 'labelled image')} blank: nothing can be found there, so no network could be judged by it.\n  "
            + "\n  ".join(faults)
            + "\nTake its label or the scan out of the folder; of a scan that lacks one modality, that modality's file"
        )


def remarks(
    labelled: Sequence[Entry], unlabelled: Sequence[Entry], names: Mapping[int, str], record: Record
) -> list[str]:
    """A sentence each, of what a study can be made with all the same.

    Args:
        names: of the classes by label value.
    """
    return [*_lonely(labelled, names, record), *_far([*labelled, *unlabelled], record)]


def _lonely(labelled: Sequence[Entry], names: Mapping[int, str], record: Record) -> list[str]:
    patients: dict[int, set[str]] = {value: set() for value in names if value}
    for entry in labelled:
        for value, _ in _facts(record, entry["label"], label=True).values or ():
            if round(value) in patients:
                patients[round(value)].add(str(entry["patient"]))
    found = []
    for value, those in patients.items():
        if len(those) == 1:
            found.append(
                f"{names[value]} is in the labels of one patient alone ({next(iter(those))}): where that one judges, no network "
                "has learnt the class, and elsewhere none is judged by it. Label it in another patient"
            )
        elif not those:
            found.append(f"{names[value]} is in no label")
    return found


def _far(entries: Sequence[Entry], record: Record) -> list[str]:
    """Scans whose extent, in mm or in pixels of pictures, is far from the median one along some axis."""
    extents = {
        stem(files[0]): _extent(_facts(record, files[0])) for e in entries if (files := list(image_files(e).values()))
    }
    median = np.median(np.array(list(extents.values())), axis=0)
    times = {name: np.max(np.maximum(extent / median, median / extent)) for name, extent in extents.items()}
    far = sorted((name for name, factor in times.items() if factor >= FAR), key=lambda name: -times[name])
    if not far:
        return []
    some = ", ".join(f"{name} ({times[name]:.0f} times)" for name in far[:NAMED]) + (
        ", ..." if len(far) > NAMED else ""
    )
    return [f"{plural(len(far), 'scan')} far from the median size, in which the same thing looks much larger or smaller: "
            f"{some}. Take out what is not a scan of this kind"]  # fmt: skip


def _extent(facts: Facts) -> np.ndarray:
    shape = np.array(facts.shape, dtype=float)
    return np.sort(shape * np.array(facts.spacing_mm[: len(shape)]) if len(shape) == 3 else shape)


def _facts(record: Record, file: str, label: bool = False) -> Facts:
    found = record.facts([str(file)], labels=[str(file)] if label else [])[str(file)]
    assert isinstance(found, Facts), found  # it was read a moment ago
    return found


def _said(entry: Entry) -> str:
    file = next(iter(image_files(entry).values()))
    return f"{stem(file)} (patient {entry['patient']}, {'labelled' if entry.get('label') else 'unlabelled'})"
