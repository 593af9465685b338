"""What the user has: two folders, a raw data set of nnU-Net or one of the Medical Segmentation Decathlon, as scans."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..cohort.errors import CohortError
from ..cohort.found import not_read, scans_of, unmatched
from ..cohort.json_files import json_object
from ..cohort.names import SUFFIXES, is_scan, stem, visible
from ..cohort.split import FoundScan
from ..cohort.words import plural, some
from ..placeholders import placeholder

DESCRIPTION = "dataset.json"
REMEDY = "Give two folders, of images and of labels, or a folder whose dataset.json is nnU-Net's (version 2) or MSD's"


@dataclass(frozen=True)
class Source:
    """Scans and what is said of them.

    Args:
        scans: in the order of their names; of one without a label it is None.
        channels: names of the modalities; ``("image",)`` where there is one, or nobody names those of a file.
        classes: name of each label value, background included; empty where nobody names them.
        modality: what each channel is, such as CT, MRI or FLAIR; an empty text where nobody says it.
        notes: what a user should know, a sentence each.
    """

    scans: list[FoundScan]
    channels: tuple[str, ...]
    classes: dict[int, str] = field(default_factory=dict)
    modality: tuple[str, ...] = ("",)
    notes: list[str] = field(default_factory=list)


def find(images: Path | Mapping[str, Path], labels: Path | None = None) -> Source:
    """Find the scans.

    Args:
        images: a folder, or one for each modality; without ``labels`` the folder of a data set with a ``dataset.json``:
            nnU-Net's raw form (version 2: ``channel_names``, ``labels`` by name, ``file_ending``; ``imagesTr`` with a
            file a channel, ``case_0000.nii.gz``, ``labelsTr``, ``imagesTs``), or that of the Medical Segmentation
            Decathlon (``modality``, ``labels`` by value, lists ``training`` and ``test``; a fourth axis holds
            channels). Their scans for testing are unlabelled.
        labels: a folder; a label has the name of its image.

    Raises:
        CohortError: no label at all, a missing folder or file, a ``dataset.json`` of another form, classes that are not
            a single value (regions, an ignore label).

    References: nnU-Net, documentation/dataset_format.md; Antonelli et al. 2022, arXiv:2106.05735.
    """
    if labels is not None:
        scans, notes = scans_of(images, labels)
        channels = tuple(images) if isinstance(images, Mapping) else ("image",)
        return Source(scans, channels, modality=("",) * len(channels), notes=notes)
    if isinstance(images, Mapping) or not (Path(images) / DESCRIPTION).is_file():
        where = "folders of modalities" if isinstance(images, Mapping) else f"no {DESCRIPTION} in {images}"
        raise CohortError(f"no labels: {where}, and no folder of labels. {REMEDY}")
    folder = Path(images).resolve()
    said = json_object(folder / DESCRIPTION)
    source = _nnunet(folder, said) if "channel_names" in said else _decathlon(folder, said)
    if not any(scan.label for scan in source.scans):
        raise CohortError(f"no labels: none of {plural(len(source.scans), 'scan')} in {folder} has one. Add labels of "
                          "at least two patients")  # fmt: skip
    return source


# nnU-Net


def _nnunet(folder: Path, said: Mapping[str, Any]) -> Source:
    file = folder / DESCRIPTION
    names, ending = said["channel_names"], said.get("file_ending")
    if not (isinstance(names, dict) and isinstance(said.get("labels"), dict) and isinstance(ending, str)):
        raise CohortError(f"{file}: expected channel_names and labels as objects and file_ending as a text, as in "
                          "nnU-Net version 2. Correct it")  # fmt: skip
    if "dataset" in said:
        raise CohortError(f"{file} lists its files under 'dataset'. Put them into imagesTr and labelsTr, and remove it")
    if ending.lower() not in SUFFIXES:
        raise CohortError(
            f"{file}: file_ending is {ending!r}, expected one of {', '.join(SUFFIXES)}. Convert the files"
        )
    classes = _classes_by_name(file, said["labels"])
    kinds = tuple(str(names[key]) for key in sorted(names, key=_channel_number(file)))
    training, odd = _channels_of(folder / "imagesTr", ending)
    later, odd_later = _channels_of(folder / "imagesTs", ending) if (folder / "imagesTs").is_dir() else ({}, [])
    if twins := sorted(training.keys() & later.keys()):
        raise CohortError(f"{folder}: in imagesTr and in imagesTs lies {some(twins)}. Rename or remove one of each")
    label_of = {_name(path, ending): path for path in _files(folder / "labelsTr") if path.name.endswith(ending)}
    cases = training | later
    in_one = {number for files in cases.values() for number in files} <= {0}  # also the colours of a picture
    channels = _channel_names(kinds)
    scans, faults = [], []
    for name in sorted(cases):
        files = cases[name]
        if strangers := sorted(number for number in files if number >= len(kinds)):
            faults.append(f"{name}: a file of channel {strangers[0]:04d}, channel_names has {len(kinds)}")
            continue
        image = files[0] if in_one else {channels[k]: path for k, path in sorted(files.items())}
        label = label_of.get(name) if name in training else None
        scans.append(FoundScan(name, image, label, in_one or len(files) == len(kinds)))
    if faults:
        raise CohortError(
            f"{folder} cannot be used:\n  " + "\n  ".join(faults) + "\nName the channel, or remove the file"
        )
    notes = [_single(label_of, training)] if label_of.keys() - training.keys() else []
    odd = [*odd, *odd_later, *[path.name for path in _files(folder / "labelsTr") if not path.name.endswith(ending)]]
    notes += [f"not read, no CASE_0000{ending}: {some(odd)}"] if odd else []
    return Source(scans, channels, classes, kinds, notes)


def _single(label_of: Mapping[str, Path], training: Mapping[str, Any]) -> str:
    return unmatched(sorted(label_of.keys() - training.keys()), sorted(training.keys() - label_of.keys()))


def _classes_by_name(file: Path, labels: Mapping[str, Any]) -> dict[int, str]:
    """Name by value; label values are in order."""
    if regions := [name for name, value in labels.items() if isinstance(value, list)]:
        raise CohortError(f"{file}: labels that are regions of several values cannot be used: {some(regions)}. Give "
                          "each value a name of its own")  # fmt: skip
    if "ignore" in labels:
        raise CohortError(f"{file}: an ignore label (value {labels['ignore']}) cannot be used, each voxel must be of a "
                          "class. Remove it from labels, and the scans that hold it from labelsTr")  # fmt: skip
    return _values(file, {value: name for name, value in labels.items()})


def _values(file: Path, names: Mapping[Any, Any]) -> dict[int, str]:
    wrong = [value for value in names if not re.fullmatch(r"\d+", str(value))]
    if wrong or not names or 0 not in map(int, names):
        found = some([repr(value) for value in wrong or names]) or "none"
        raise CohortError(f"{file}: labels are {found}, expected whole numbers from 0, the background. Correct it")
    return {int(value): str(name) for value, name in sorted(names.items(), key=lambda item: int(item[0]))}


def _channel_number(file: Path) -> Any:
    def number(key: str) -> int:
        if not key.isdecimal():
            raise CohortError(f"{file}: channel_names has {key!r}, expected numbers 0, 1, ... Correct it")
        return int(key)

    return number


def _channels_of(folder: Path, ending: str) -> tuple[dict[str, dict[int, Path]], list[str]]:
    """Files by case and channel, and the names of files that are neither."""
    cases: dict[str, dict[int, Path]] = {}
    odd = []
    for path in _files(folder):
        match = re.fullmatch(r"(.+)_(\d{4})", _name(path, ending)) if path.name.endswith(ending) else None
        if match:
            cases.setdefault(match[1], {})[int(match[2])] = path
        else:
            odd.append(path.name)
    return cases, odd


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise CohortError(
            f"{folder} {why}" if (why := placeholder(folder)) else f"there is no folder {folder}. {REMEDY}"
        )
    return visible(folder)


def _name(path: Path, ending: str) -> str:
    return unicodedata.normalize("NFC", path.name.removesuffix(ending))


def _channel_names(kinds: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the channels: ``image`` for a single one; a number tells namesakes apart."""
    if len(kinds) == 1:
        return ("image",)
    return tuple(f"{kind} {k + 1}" if kinds.count(kind) > 1 else kind for k, kind in enumerate(kinds))


# Medical Segmentation Decathlon


def _decathlon(folder: Path, said: Mapping[str, Any]) -> Source:
    file = folder / DESCRIPTION
    modality, labels, training = (said.get(key) for key in ("modality", "labels", "training"))
    pairs = isinstance(training, list) and all(isinstance(e, dict) and {"image", "label"} <= e.keys() for e in training)
    if not (isinstance(modality, dict) and isinstance(labels, dict) and pairs and isinstance(training, list)):
        raise CohortError(f"{file} is neither nnU-Net's (version 2: channel_names, labels, file_ending) nor MSD's "
                          f"(modality, labels, training): it has {some(list(said), 12) or 'nothing'}. {REMEDY}")  # fmt: skip
    classes = _values(file, labels)
    kinds = tuple(str(modality[key]) for key in sorted(modality, key=_channel_number(file)))
    test = [e["image"] if isinstance(e, dict) else str(e) for e in said.get("test", [])]
    listed = [(str(e["image"]), str(e["label"])) for e in training] + [(image, "") for image in test]
    listed = [(image, label) for image, label in listed if not Path(image).name.startswith(".")]  # macOS: ._case.nii.gz
    absent = [name for pair in listed for name in pair if name and not os.path.lexists(folder / name)]
    if absent and (other := _with_channel(folder / absent[0])):
        raise CohortError(f"{file} is of nnU-Net version 1: it lists {absent[0]}, the folder has {other}. Convert the data set "
                          "with nnUNetv2_convert_old_nnUNet_dataset, which copies it, and give the copy")  # fmt: skip
    if absent:
        raise CohortError(f"{file} lists files that are not there: {some(absent)}. Unpack the data set anew, or remove "
                          "these entries")  # fmt: skip
    by_name: dict[str, list[tuple[Path, Path | None]]] = {}
    for image, label in listed:
        found = folder / image, folder / label if label else None
        by_name.setdefault(unicodedata.normalize("NFC", stem(image)), []).append(found)
    if twins := [name for name, found in by_name.items() if len(found) > 1]:
        raise CohortError(f"{file} lists several images of one name: {some(twins)}. Keep one of each")
    scans = [FoundScan(name, image, label, True) for name, ((image, label),) in sorted(by_name.items())]
    known = {path for (pair,) in by_name.values() for path in pair if path}
    folders = [path for name in ("imagesTr", "labelsTr", "imagesTs") if (path := folder / name).is_dir()]
    unlisted = [path.name for place in folders for path in visible(place) if is_scan(path) and path not in known]
    notes = [f"not read, {DESCRIPTION} does not list them: {some(unlisted)}"] if unlisted else []
    return Source(scans, _channel_names(kinds), classes, kinds, notes + not_read(folders))


def _with_channel(image: Path) -> str:
    """The name that nnU-Net gives the first channel of an image, where such a file is there; else empty."""
    name = stem(image)
    other = image.with_name(f"{name}_0000{image.name.removeprefix(name)}")
    return other.name if os.path.lexists(other) else ""
