"""What lies in the folders of images and of labels: scans by name, and which of them are of one patient."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import nearest
from ..placeholders import placeholder
from .errors import CohortError
from .names import SUFFIXES, is_scan, scans_in, strays
from .split import FoundScan
from .words import plural, some

SHOWN = 5  # labels whose nearest image is looked for, which takes a while among many


def scans_of(images: Path | Mapping[str, Path], labels: Path) -> tuple[list[FoundScan], list[str]]:
    """The scans of folders in the order of their names, and what the user should know of the rest.

    A scan's name is its file's without suffix, or that of its folder with a DICOM series; labels and modalities are
    found by it.

    Args:
        images: a folder, or one for each modality.

    Raises:
        CohortError: a folder that is not there or has no image, two images of one name in it, no label with the name
            of an image.
    """
    by_modality = images if isinstance(images, Mapping) else {"": images}
    folders = {modality: by_name(folder) for modality, folder in by_modality.items()}
    label_of = by_name(labels)
    names = sorted({name for files in folders.values() for name in files})
    without_image = sorted(set(label_of) - set(names))
    if len(without_image) == len(label_of):
        raise CohortError(f"no label in {labels} has the name of an image: labels are {some(without_image)}, images "
                          f"are {some(names)}. Give files that belong together one name")  # fmt: skip
    scans = []
    for name in names:
        found = {modality: files[name] for modality, files in folders.items() if name in files}
        image = found.get("", found)  # a path, where there are no modalities
        scans.append(FoundScan(name, image, label_of.get(name), len(found) == len(folders)))
    bare = [scan.name for scan in scans if not scan.label]
    notes = [unmatched(without_image, bare)] if without_image else []
    notes += _almost_one(folders)
    return scans, notes + not_read([*by_modality.values(), labels])


def patients(names: Sequence[str], pattern: str) -> list[str]:
    """The patient of each scan: what the first group of a regular expression finds in its name.

    Raises:
        CohortError: no regular expression, or one that finds nothing in some names.
    """
    try:
        found = [re.search(pattern, name) for name in names]
    except re.error as error:
        raise CohortError(f"--patient {pattern!r} is not a regular expression: {error}") from error
    bad = [name for name, match in zip(names, found, strict=True) if not (match and match.groups() and match.group(1))]
    if bad:
        raise CohortError(f"--patient {pattern!r} does not match, or has no group in brackets that does: {some(bad)}")
    return [match.group(1) for match in found if match]


def unmatched(labels: Sequence[str], images: Sequence[str]) -> str:
    """Labels that fit no image, in a sentence.

    Args:
        images: without a label; where the name of one differs by letter case or blanks alone, it is named, else the
            nearest one.
    """
    alike = {_folded(name): name for name in images}
    differ = [f"{label} and {alike[_folded(label)]}" for label in labels if _folded(label) in alike]
    guesses = [label if _folded(label) in alike else f"{label}{_nearest(label, images)}" for label in labels[:SHOWN]]
    text = f"{plural(len(labels), 'label')} without an image, not used: {some([*guesses, *labels[SHOWN:]], SHOWN)}"
    return f"{text}. Letter case or blanks alone differ in {some(differ)}: give both one name" if differ else text


def _nearest(label: str, images: Sequence[str]) -> str:
    """The image that a label's name suggests, for error texts: ``p01`` for ``p01_mask``, however long the end."""
    begun = max((name for name in images if label.startswith(name)), key=len, default="")
    return f" (did you mean '{begun}'?)" if begun else nearest(label, images)


def not_read(folders: Sequence[Path]) -> list[str]:
    """One sentence on what lies in folders and is not a scan; none where there is nothing."""
    found = [name for folder in folders for name in strays(folder)]
    return [f"not read, neither an image nor the folder of a DICOM series: {some(found)}"] if found else []


def _almost_one(folders: Mapping[str, Mapping[str, Path]]) -> list[str]:
    """One sentence on scans whose modalities have names that differ by letter case or blanks alone: each counts as a scan
    that lacks the other modality."""
    alike: dict[str, set[str]] = {}
    for name in {name for files in folders.values() for name in files}:
        alike.setdefault(_folded(name), set()).add(name)
    differ = [" and ".join(sorted(names)) for names in alike.values()
              if len(names) > 1 and not any(names <= files.keys() for files in folders.values())]  # fmt: skip
    if not differ:
        return []
    return [f"modalities of one scan? Letter case or blanks alone differ in {some(sorted(differ))}: give both one name"]


def _folded(name: str) -> str:
    return "".join(name.split()).casefold()


def by_name(folder: Path) -> dict[str, Path]:
    """The image files and the folders with a DICOM series in ``folder``, by name.

    Raises:
        CohortError: the folder is not there or has no image, whether or not its subfolders have some; two of one name.
    """
    if not Path(folder).is_dir():
        raise CohortError(f"{folder} {why}" if (why := placeholder(folder)) else f"there is no folder {folder}")
    found = scans_in(folder.resolve())
    if not found and (below := _below(folder)):
        first = below[0].relative_to(folder)
        raise CohortError(
            f"no images in {folder} itself: found {plural(len(below), 'image')} in subfolders of it (first: {first}), "
            f"expected all in {folder}, each with a name of its own. Put a copy of each there, or a link to it, as "
            f"{'_'.join(first.parts)}; a training by itself also takes a data list, which names files wherever they "
            "are (docs/data.md)"
        )
    if not found:
        raise CohortError(f"no images in {folder}: expected files {', '.join(SUFFIXES)}, or a folder with a DICOM "
                          "series for each scan")  # fmt: skip
    return found


def _below(folder: Path) -> list[Path]:
    """The scans in subfolders, and in theirs: as far down as scans of patients and of their visits lie."""
    return [
        path
        for depth in ("*/*", "*/*/*")
        for path in sorted(folder.glob(depth))
        if is_scan(path) and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
