"""Faults of a list that can be seen without opening a scan: what is missing, and who is in two parts."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ..placeholders import placeholder
from .errors import CohortError
from .names import case_names, first_file, stem


def judge_list(
    parts: Mapping[str, Sequence[Mapping[str, Any]]], unread: Collection[str] = (), shared_scans: bool = False
) -> list[str]:
    """Every fault of the list that can be seen without reading an image, a line each.

    Args:
        unread: parts whose files are not asked for.
        shared_scans: a scan may be labelled and unlabelled at once.
    """
    faults = []
    for part, entries in parts.items():
        for number, (entry, name) in enumerate(zip(entries, case_names(entries), strict=True)):
            name = name if first_file(entry) else str(entry.get("patient") or f"entry {number}")
            if "not an object" in entry:
                found = entry["not an object"]
                faults.append(f"{part}, {name}: expected an object with image and label, found {found!r}")
                continue
            if not entry.get("image"):
                found = f"image is {entry['odd image']!r}" if "odd image" in entry else "no image"
                faults.append(f"{part}, {name}: {found}; expected a path, or a path for each modality")
            if part != "unlabelled" and not entry.get("label"):
                faults.append(f"{part}, {name}: no label; only unlabelled scans may lack one")
            if not isinstance(entry.get("attributes", {}), Mapping):
                faults.append(
                    f"{part}, {name}: attributes is {entry['attributes']!r}; expected names with their values"
                )
            if part in unread:
                continue
            files = [f for f in [*_files(entry), entry.get("label") if part != "unlabelled" else ""] if f]
            faults += [f"{part}, {name}: {file} {placeholder(file) or 'does not exist'}"
                       for file in files if not os.path.exists(file)]  # fmt: skip
    return faults + _overlaps(parts, shared_scans)


def refuse_overlaps(**parts: Sequence[Mapping[str, Any]]) -> None:
    """Judge lists that arrived in memory; without ``patient`` an entry's file is its patient.

    Raises:
        CohortError: a patient or a file in training and in evaluation, or labelled and unlabelled at once.
    """
    named = {k: [{**e, "patient": e.get("patient") or stem(first_file(e))} for e in v] for k, v in parts.items()}
    if faults := _overlaps(named):
        raise CohortError("The scans cannot be used:\n  " + "\n  ".join(faults))


def _overlaps(parts: Mapping[str, Sequence[Mapping[str, Any]]], shared_scans: bool = False) -> list[str]:
    """Patients, and files under another patient's name, that are in training and in evaluation; scans listed twice."""
    patients = {part: {str(e["patient"]) for e in entries if e.get("patient")} for part, entries in parts.items()}
    files = {part: {first_file(e) for e in entries} - {""} for part, entries in parts.items()}
    for found in (patients, files):
        found["training"] = found.get("labelled", set()) | found.get("unlabelled", set())
    faults = []
    for a, b in (("training", "validation"), ("training", "test"), ("validation", "test")):
        shared = sorted(patients.get(a, set()) & patients.get(b, set()))
        if shared:
            faults.append(f"patient {', '.join(shared)}: in {a} and in {b}. Keep all scans of a patient in one part")
        renamed = [] if shared else sorted(stem(f) for f in files.get(a, set()) & files.get(b, set()))
        if renamed:
            faults.append(f"{', '.join(renamed)}: in {a} and in {b} under two patients' names. Remove one entry")
    twice = sorted(stem(f) for f in files.get("labelled", set()) & files.get("unlabelled", set()))
    if twice and not shared_scans:
        faults.append(
            f"{', '.join(twice)}: labelled and unlabelled at once. Remove one entry, or set shared_scans to true"
        )
    return faults


def _files(entry: Mapping[str, Any]) -> list[str]:
    image = entry.get("image")
    return [str(f) for f in image.values()] if isinstance(image, Mapping) else [first_file(entry)]
