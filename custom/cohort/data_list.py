"""The data list: which scans are labelled, unlabelled, for validation, for test. Read as data, judged as a whole."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import phantom
from ..errors import nearest
from ..files import located, under
from ..placeholders import placeholder
from .errors import CohortError
from .json_files import once, raw_text
from .names import case_names, first_file, stem

PARTS = ("labelled", "unlabelled", "validation", "test")


def read(data_list: str | Path, dataset_dir: str | Path = "data", root: str | Path = ".") -> dict[str, list[dict]]:
    """The parts of a data list with absolute paths. Their faults are :class:`~.check.Check`'s to tell, all at once.

    Args:
        data_list: a JSON file, absolute or relative to ``root``; or ``phantom:FORM``, drawn below ``dataset_dir``
            where it is absent.
        dataset_dir: where phantoms are drawn; absolute or relative to ``root``.
        root: the bundle's root.

    Raises:
        CohortError: the file is missing or is not such a list.
    """
    path = list_path(data_list, dataset_dir, root)
    if str(data_list).startswith("phantom:"):
        phantom.ensure(str(data_list).removeprefix("phantom:"), path.parent)
    return load(path)


def list_path(data_list: str | Path, dataset_dir: str | Path = "data", root: str | Path = ".") -> Path:
    """The file of a data list, whether it is there yet or not; arguments as of :func:`read`."""
    if str(data_list).startswith("phantom:"):
        return under(root, dataset_dir) / f"phantom_{str(data_list).removeprefix('phantom:')}" / "list.json"
    return located(Path(root) / Path(data_list).expanduser())


def listed(data_list: str | Path, dataset_dir: str | Path = "data", root: str | Path = ".") -> dict[str, list[dict]]:
    """All parts of a list, not judged; empty where there is no list (as for scans that arrive in memory), and for a
    phantom, whose scans are drawn, no two alike."""
    path = list_path(data_list, dataset_dir, root)
    return load(path) if path.is_file() and not str(data_list).startswith("phantom:") else {}


def record(
    data_list: str | Path, output_dir: str | Path, dataset_dir: str | Path = "data", root: str | Path = "."
) -> Path:
    """Where a run keeps the facts of the files it checked: beside the list, or in ``output_dir`` where there is none, or where
    nothing can be written beside it."""
    path = list_path(data_list, dataset_dir, root)
    beside = (path.is_file() and os.access(path.parent, os.W_OK)) or str(data_list).startswith("phantom:")
    return record_path(path) if beside else under(root, output_dir) / "checked.json"


def load(path: Path) -> dict[str, list[dict]]:
    """The parts of a list with absolute paths, not judged.

    Raises:
        CohortError: no such file, or no object with lists in it.
    """
    parts = _load(path)
    return {part: [_absolute(entry, path.parent) for entry in parts.get(part, [])] for part in PARTS}


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CohortError(
            f"data_list {path} {placeholder(path) or 'does not exist'}. Give a list with --data_list, see README, "
            "'Your own scans'."
        )
    try:
        parts = json.loads(raw_text(path), object_pairs_hook=once)
    except CohortError as error:
        raise CohortError(f"data_list {error}") from error
    except (ValueError, RecursionError) as error:
        raise CohortError(f"data_list {path} is not JSON: {error}") from error
    if not isinstance(parts, dict) or not all(isinstance(parts.get(part, []), list) for part in PARTS):
        raise CohortError(f"data_list {path}: expected an object with lists under {list(PARTS)}")
    unknown = [f"'{key}'{nearest(key, PARTS)}" for key in parts if key not in PARTS and isinstance(parts[key], list)]
    if unknown:
        raise CohortError(f"data_list {path}: unknown part {', '.join(unknown)}; the parts are {list(PARTS)}")
    return parts


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
