"""Make data lists from folders, split by patient, with a fingerprint of what the scans hold."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files import typed, write_text
from .data_list import PARTS, record_path
from .errors import CohortError
from .fingerprint import describe, fingerprint, image_files
from .found import patients as patients_of
from .found import scans_of
from .json_files import json_object, text_of
from .record import Record
from .split import FoundScan, ScansByPatient, draw, fold, given, parts_of
from .words import plural, some


def make(
    images: Path | Mapping[str, Path],
    labels: Path,
    out: Path,
    patient: str = r"^(.*)$",
    split: Mapping[str, Sequence[str]] | None = None,
    labelled: int | str = 0,
    validation: int = 0,
    test: int = 0,
    seed: int = 0,
    folds: int = 0,
    attributes: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Path]:
    """Read the scans of folders and write their data list, split by patient, or one for each fold.

    A scan's name is its file's without suffix, or that of its folder with a DICOM series; labels and modalities are
    found by it. A patient with a scan that lacks a modality, or its label, is for training alone.

    Args:
        images: a folder, or one for each modality.
        patient: regular expression whose first group, in a scan's name, is the patient.
        split: ``{"train": [patients], "val": [...], "test": [...]}``; who is not named is left out. Without it
            ``test`` and ``validation`` patients are drawn by ``seed`` among those with a label.
        labelled: how many training patients are labelled: the first of the order that have a label; ``"10%"`` of all
            training patients, rounded down, at least 1; 0 takes all that have a label.
        validation, test: how many; with a split that lacks the part, the last of its order (test after validation).
        folds: write ``OUT_fold0.json``, ...: all that could validate do so in exactly one fold, dealt by ``seed``; the
            test part is the same in all.
        attributes: of patients, ``{"diagnosis": {"p01": "DCM"}}``, copied to their scans.

    Returns:
        The lists written. The facts of their files are recorded beside each, see :func:`custom.cohort.data_list.record_path`.

    Raises:
        CohortError: what was asked for cannot be made of these folders, or files cannot be read; no list is written.
    """
    if folds and validation:
        raise CohortError("each fold has validation patients of its own: leave out --validation")
    cases, notes = _find(images, labels, patient)
    if split is None:
        patients = draw(cases, validation, test, seed)
    else:
        patients, left_out = given(split, cases, validation, test)
        notes += [f"not named by the split, left out: {some(left_out)}"] if left_out else []
    chosen = fold(patients, cases, folds, seed) if folds else [patients]
    of_patient = _by_patient(attributes or {}, cases)
    if strangers := sorted({p for values in (attributes or {}).values() for p in values} - set(cases)):
        notes = [*notes, f"attributes of patients without an image: {some(strangers)}"]
    lists = [_entries(parts_of(p, cases, labelled), of_patient) for p in chosen]
    paths = [out.with_name(f"{out.stem}_fold{k}.json") for k in range(folds)] if folds else [out]
    return _write(lists, paths, notes)


def _find(
    images: Path | Mapping[str, Path], labels: Path, patient: str
) -> tuple[dict[str, list[FoundScan]], list[str]]:
    """Scans by patient, in the order of their names, and what the user should know of the rest."""
    scans, notes = scans_of(images, labels)
    cases: dict[str, list[FoundScan]] = {}
    for scan, whose in zip(scans, patients_of([scan.name for scan in scans], patient), strict=True):
        cases.setdefault(whose, []).append(scan)
    return cases, notes


# From parts to lists


def _by_patient(attributes: Mapping[str, Mapping[str, Any]], cases: ScansByPatient) -> dict[str, dict[str, str]]:
    known = {name: values for name, values in attributes.items() if any(p in cases for p in values)}
    if attributes and not known:
        others = list(next(iter(attributes.values())))
        raise CohortError(f"no patient of --attributes has images: it names {some(others)}; the images are of "
                          f"{some(list(cases))}")  # fmt: skip
    return {p: {name: str(v[p]).strip() for name, v in known.items() if v.get(p) not in (None, "")} for p in cases}


def _entries(
    parts: Mapping[str, Sequence[tuple[str, FoundScan]]], attributes: Mapping[str, Mapping[str, str]]
) -> dict[str, list[dict[str, Any]]]:
    """Entries with absolute paths."""
    entries: dict[str, list[dict[str, Any]]] = {part: [] for part in PARTS}
    for part, scans in parts.items():
        for patient, case in scans:
            image = {k: str(v) for k, v in case.image.items()} if isinstance(case.image, dict) else str(case.image)
            entry: dict[str, Any] = {"patient": patient, "image": image}
            if part != "unlabelled":
                entry["label"] = str(case.label)
            if attributes[patient]:
                entry["attributes"] = attributes[patient]
            entries[part].append(entry)
    return entries


def _write(lists: Sequence[Mapping[str, list[dict]]], paths: Sequence[Path], notes: Sequence[str]) -> list[Path]:
    """Read the scans, then write all lists; a list names files below its own folder relative to it."""
    folder = paths[0].parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CohortError(f"the folder {folder} cannot be made: {error.strerror}") from error
    recorded = record_path(paths[0])
    record = Record(recorded)  # of all folds: they share their files
    texts = []
    for entries in lists:
        found = fingerprint(entries, record)
        found["warnings"] = [*notes, *found["warnings"]]
        relative = {part: [_relative(entry, folder.resolve()) for entry in entries[part]] for part in PARTS}
        texts.append(json.dumps({**relative, "fingerprint": found}, indent=1, allow_nan=False) + "\n")
    for path, text in zip(paths, texts, strict=True):
        write_text(path, text)
        if path != paths[0] and recorded.is_file():
            write_text(record_path(path), recorded.read_text(encoding="utf-8"))
    return list(paths)


def _relative(entry: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    def shorten(file: str) -> str:
        return str(Path(file).relative_to(folder)) if Path(file).is_relative_to(folder) else file

    image = entry["image"]
    image = {name: shorten(file) for name, file in image.items()} if isinstance(image, Mapping) else shorten(image)
    return {**entry, "image": image} | ({"label": shorten(entry["label"])} if "label" in entry else {})


def summary(path: Path) -> str:
    """A list in words: first what is odd, then what is in each part, and its fingerprint."""
    content = json.loads(path.read_text(encoding="utf-8"))
    modalities = {name for part in PARTS for entry in content[part] for name in image_files(entry)}
    lines = [str(path), *(f"  warning    {text}" for text in content["fingerprint"]["warnings"])]
    for part in PARTS:
        entries = content[part]
        lacking = sum(len(image_files(entry)) < len(modalities) for entry in entries)
        more = f", {lacking} of them lack a modality" if lacking else ""
        lines.append(
            f"  {part:10} {plural(len(entries), 'scan')} of {plural(len({e['patient'] for e in entries}), 'patient')}{more}"
        )
    return "\n".join([*lines, *(f"  {line}" for line in [*_groups(content), *describe(content["fingerprint"])])])


def _groups(content: Mapping[str, Any]) -> list[str]:
    """A line an attribute: how many patients have it, and its values."""
    of_patient = {entry["patient"]: entry.get("attributes", {}) for part in PARTS for entry in content[part]}
    lines = []
    for name in dict.fromkeys(name for attributes in of_patient.values() for name in attributes):
        values = [attributes[name] for attributes in of_patient.values() if name in attributes]
        lines.append(
            f"attribute  {name} of {len(values)} of {len(of_patient)} patients: {some(sorted(set(values)), 8)}"
        )
    return lines


# What the command line names


def read_attributes(file: Path) -> dict[str, dict[str, Any]]:
    """Attributes of patients by name: the columns of a CSV beside ``patient``, or the objects of a JSON file whose
    values are numbers or words.

    Raises:
        CohortError: it is missing, no such file, has no column ``patient`` or no attribute.
    """
    if file.suffix.lower() != ".csv":
        content = json_object(file)
        plain = {k: v for k, v in content.items() if isinstance(v, dict) and v
                 and not any(isinstance(x, (dict, list)) for x in v.values())}  # fmt: skip
        if not plain:
            raise CohortError(f'{file} has no attribute: expected {{"diagnosis": {{"p01": "DCM", ...}}}}')
        return plain
    text = text_of(file)
    separator = ";" if ";" in text.partition("\n")[0] else ","
    rows = list(csv.DictReader(text.splitlines(), delimiter=separator))
    names = list(rows[0]) if rows else []
    if "patient" not in names or len(names) < 2:
        raise CohortError(f"{file} has the columns {names}: expected 'patient' and at least one attribute")
    twice = [patient for patient, count in Counter(row["patient"] for row in rows).items() if count > 1]
    if twice:
        raise CohortError(f"{file} has several rows of one patient: {some(twice)}. Keep one of each")
    return {name: {row["patient"].strip(): row[name] for row in rows} for name in names if name and name != "patient"}


def folders(words: Sequence[str]) -> Path | dict[str, Path]:
    """What ``--images`` says: one folder, or ``NAME=FOLDER`` for each modality.

    Raises:
        CohortError: neither.
    """
    if len(words) == 1 and ("=" not in words[0] or typed(words[0]).is_dir()):
        return typed(words[0])
    named = [item.partition("=") for item in words]
    wrong = [item for item, (name, _, folder) in zip(words, named, strict=True) if not (name and folder)]
    if wrong or len({name for name, _, _ in named}) < len(named):
        raise CohortError(f"--images takes one folder, or NAME=FOLDER for each modality, got {' '.join(words)}")
    return {name: typed(folder) for name, _, folder in named}
