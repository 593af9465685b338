"""The data list: which scans are labelled, unlabelled, for validation, for test. Read as data, judged as a whole."""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import phantom
from .errors import UserError, nearest, show_plainly
from .formats.itk_image import is_dicom

logger = logging.getLogger(__name__)

PARTS = ("labelled", "unlabelled", "validation", "test")
SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".png", ".jpg", ".jpeg")
_TEXTS = (".json", ".txt", ".md", ".csv", ".tsv", ".bval", ".bvec")


class CohortError(UserError, ValueError):
    """All faults of a data list in one text."""


def read(data_list: str | Path, dataset_dir: str | Path = "data", root: str | Path = ".") -> dict[str, list[dict]]:
    """The parts of a data list with absolute paths. Their faults are :class:`~.check.Check`'s to tell, all at once.

    Args:
        data_list: a JSON file, absolute or relative to ``root``; or ``phantom:FORM``, drawn below ``dataset_dir``
            where it is absent.
        dataset_dir: where phantoms are drawn; absolute or relative to ``root``.
        root: the bundle's root.

    Raises:
        CohortError: the file is missing or is no such list.
    """
    path = place(data_list, dataset_dir, root)
    if str(data_list).startswith("phantom:"):
        phantom.ensure(str(data_list).removeprefix("phantom:"), path.parent)
    return load(path)


def place(data_list: str | Path, dataset_dir: str | Path = "data", root: str | Path = ".") -> Path:
    """The file of a data list, whether it is there yet or not; arguments as of :func:`read`."""
    if str(data_list).startswith("phantom:"):
        return under(root, dataset_dir) / f"phantom_{str(data_list).removeprefix('phantom:')}" / "list.json"
    return under(root, data_list)


def listed(data_list: str | Path, dataset_dir: str | Path = "data", root: str | Path = ".") -> dict[str, list[dict]]:
    """All parts of a list, not judged; none where the list is not there (scans that arrive in memory have none), nor of
    a phantom, whose scans are drawn, no two alike."""
    path = place(data_list, dataset_dir, root)
    return load(path) if path.is_file() and not str(data_list).startswith("phantom:") else {}


def record(
    data_list: str | Path, output_dir: str | Path, dataset_dir: str | Path = "data", root: str | Path = "."
) -> Path:
    """Where a run keeps the facts of the files it checked: beside the list, or in ``output_dir`` where there is none, or where
    nothing can be written beside it."""
    path = place(data_list, dataset_dir, root)
    beside = (path.is_file() and os.access(path.parent, os.W_OK)) or str(data_list).startswith("phantom:")
    return record_path(path) if beside else under(root, output_dir) / "checked.json"


def load(path: Path) -> dict[str, list[dict]]:
    """The parts of a list with absolute paths, not judged.

    Raises:
        CohortError: no such file, or no object with lists in it.
    """
    parts = _load(path)
    return {part: [_absolute(entry, path.parent) for entry in parts.get(part, [])] for part in PARTS}


def under(root: str | Path, path: str | Path) -> Path:
    """``path`` if it is absolute, else below ``root``."""
    return (Path(root) / path).resolve()


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CohortError(
            f"data_list {path} does not exist. Give a list with --data_list, see README, 'Your own scans'."
        )
    try:
        parts = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise CohortError(f"data_list {path} is no JSON: {error}") from error
    if not isinstance(parts, dict) or not all(isinstance(parts.get(part, []), list) for part in PARTS):
        raise CohortError(f"data_list {path}: expected an object with lists under {list(PARTS)}")
    unknown = [f"'{key}'{nearest(key, PARTS)}" for key in parts if key not in PARTS and isinstance(parts[key], list)]
    if unknown:
        raise CohortError(f"data_list {path}: unknown part {', '.join(unknown)}; the parts are {list(PARTS)}")
    return parts


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys differ; for ``json.loads``, which would keep the last of two and lose the other.

    Raises:
        ValueError: a key stands there twice.
    """
    twice = sorted(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
    if twice:
        raise ValueError(f"the key {', '.join(map(repr, twice))} stands there twice")
    return dict(pairs)


def _absolute(entry: Any, folder: Path) -> dict[str, Any]:
    if not isinstance(entry, dict):
        return {"not an object": entry}
    entry = dict(entry)
    if isinstance(entry.get("image"), Mapping):
        entry["image"] = {name: str(folder / str(file)) for name, file in entry["image"].items() if file}
    elif entry.get("image") and not isinstance(entry["image"], str):
        entry |= {"image": "", "odd image": entry["image"]}
    elif entry.get("image"):
        entry["image"] = str(folder / entry["image"])
    if entry.get("label"):
        entry["label"] = str(folder / str(entry["label"]))
    patient = stem(first_file(entry)) if entry.get("patient") is None else str(entry["patient"])
    entry["patient"] = unicodedata.normalize("NFC", patient)  # one letter has several codes, and systems differ
    return entry


def record_path(data_list: str | Path) -> Path:
    """Where the facts of a list's files are recorded: beside it, ``list.checked.json``."""
    return Path(data_list).with_name(Path(data_list).stem + ".checked.json")


def first_file(entry: Mapping[str, Any]) -> str:
    """The path of an entry\'s image; of several modalities, of the first; empty where there is none."""
    image = entry.get("image") or ""
    return str(next(iter(image.values()), "")) if isinstance(image, Mapping) else str(image)


def _files(entry: Mapping[str, Any]) -> list[str]:
    image = entry.get("image")
    return [str(f) for f in image.values()] if isinstance(image, Mapping) else [first_file(entry)]


def stem(file: str | Path) -> str:
    """A file's name without its image suffix: ``p01_ED.nii.gz`` is ``p01_ED``."""
    name = Path(file).name
    known = next((name[: -len(s)] for s in SUFFIXES if name.lower().endswith(s)), "")
    return known or (name if os.path.isdir(file) else Path(name).stem)  # the folder of a DICOM series has no suffix


def case_names(entries: Sequence[Mapping[str, Any]], channels: Sequence[str] = ()) -> list[str]:
    """``patient_stem``, or the stem alone where it says the patient; a number tells namesakes apart.

    The stem is the image's; of several modalities, that of the first one that is there.
    """
    names: dict[str, None] = {}
    for entry in entries:
        image, patient = entry.get("image") or "", str(entry.get("patient") or "")
        if isinstance(image, Mapping):
            image = next((image[c] for c in (*channels, *image) if image.get(c)), "")
        file = stem(str(image))
        told = not patient or re.search(rf"(?<![0-9A-Za-z]){re.escape(patient)}(?![0-9A-Za-z])", file)
        name = base = file if told else f"{patient}_{file}"
        copies = 1
        while name in names:
            copies += 1
            name = f"{base}-{copies}"
        names[name] = None
    return list(names)


def refuse_overlaps(**parts: Sequence[Mapping[str, Any]]) -> None:
    """Judge lists that arrived in memory; without ``patient`` an entry's file is its patient.

    Raises:
        CohortError: a patient or a file in training and in evaluation, or labelled and unlabelled at once.
    """
    named = {k: [{**e, "patient": e.get("patient") or stem(first_file(e))} for e in v] for k, v in parts.items()}
    if faults := _overlaps(named):
        raise CohortError("The scans cannot be used:\n  " + "\n  ".join(faults))


def judge(
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
            faults += [f"{part}, {name}: {file} does not exist" for file in files if not os.path.exists(file)]
    return faults + _overlaps(parts, shared_scans)


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


def images(folder: str | Path, channels: Sequence[str] = ("image",), root: str | Path = ".") -> list[dict[str, Any]]:
    """Every image of a folder, for inference.

    A case is one file that holds all channels or, where the folder has subfolders named after the channels, the files
    of one name in all of them.

    Raises:
        CohortError: no image there; two of one name; a case that lacks a channel.
    """
    folder = under(root, folder)
    apart = [folder / name for name in channels if (folder / name).is_dir()]
    folders = [folder / name for name in channels] if apart else [folder]
    found = [p for f in apart or folders if f.is_dir() for p in sorted(f.iterdir()) if not p.name.startswith(".")]
    names = sorted({p.name for p in found if is_image(p) or is_series(p)})
    if not names:
        raise CohortError(
            f"no images in {folder.resolve()}: expected files {', '.join(SUFFIXES)} or folders of DICOM "
            f"series, or such in a subfolder for each of {list(channels)}. Give the folder with --dataset_dir."
        )
    if twins := namesakes([folders[0] / name for name in names]):
        raise CohortError(f"several images of one name in {folder}: {'; '.join(twins)}. Keep one of each")
    missing = [str(f / name) for name in names for f in folders if not (f / name).exists()]
    if missing:
        raise CohortError(f"cases that lack a channel: {', '.join(missing)}. Add these files, or move their cases away")
    if strays := sorted({p.name for p in found if is_stray(p)} - set(names)):
        logger.warning("Not read in %s, no image and no folder of a DICOM series: %s", folder, ", ".join(strays))
    return [{"image": [str(f / name) for f in folders] if apart else str(folder / name)} for name in names]


def is_stray(path: Path) -> bool:
    """Neither a scan nor one of the texts that lie beside scans (``p01.json``): perhaps a scan that is not read."""
    return not (is_image(path) or is_series(path) or path.name.lower().endswith(_TEXTS))


def namesakes(files: Sequence[Path]) -> list[str]:
    """``a.mha and a.nii.gz``: files that differ in nothing but their suffix, whose results would overwrite each other."""
    by_stem: dict[str, list[str]] = {}
    for file in files:
        by_stem.setdefault(stem(file), []).append(file.name)
    return [" and ".join(found) for found in by_stem.values() if len(found) > 1]


def is_image(path: Path) -> bool:
    """A file that the readers take, by its suffix."""
    return path.name.lower().endswith(SUFFIXES)


def is_series(path: Path) -> bool:
    """Whether it is a folder of DICOM files."""
    return path.is_dir() and any(is_dicom(file) for file in sorted(path.iterdir()))


def only(parts: Mapping[str, Sequence[Mapping[str, Any]]], part: str) -> dict[str, Sequence[Mapping[str, Any]]]:
    """One part by its name, as :class:`~.check.Check` takes it.

    Raises:
        CohortError: there is no such part, or it has no scan.
    """
    if part not in parts:
        raise CohortError(f"evaluate::part is {part!r}{nearest(part, parts)}; the parts are {', '.join(parts)}")
    if not parts[part]:
        raise CohortError(f"there are no scans under '{part}' in the data list: nothing to evaluate")
    return {part: parts[part]}


def references(entries: Sequence[Mapping[str, Any]], channels: Sequence[str] = ("image",)) -> list[dict[str, Any]]:
    """Entries as evaluation reads them: the label under ``reference``, so that no transform of images resamples it.

    Of several modalities those that are there, in order; ``present`` then says of each channel whether it is.
    """
    found = []
    for entry, case in zip(entries, case_names(entries, channels), strict=True):
        image = entry["image"]
        files, present = image, {}
        if isinstance(image, Mapping):
            present = {name: name in image for name in channels}
            files = [image[name] for name in channels if present[name]]
        found.append({"image": files, "reference": entry["label"], "patient": entry["patient"], "case": case,
                      "attributes": {k: str(v) for k, v in entry.get("attributes", {}).items() if v is not None},
                      **({"present": present} if present else {})})  # fmt: skip
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m custom.cohort make ...`` and ``python -m custom.cohort check ...``."""
    parser = argparse.ArgumentParser(prog="python -m custom.cohort", description=__doc__)
    parser.add_argument("command", choices=("make", "check"), help="make a list from folders; check the files of one")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    told = parser.parse_args(arguments)
    if told.command == "make":
        from .make_list import main as command
    else:
        from .check import main as command
    show_plainly()
    command(told.arguments)


if __name__ == "__main__":
    main()
