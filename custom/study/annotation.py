"""A study in MONAI Label: the folder of images that it shows, and the labels that it keeps below them."""

from __future__ import annotations

import filecmp
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ..cohort.formats import files_of
from ..cohort.formats.itk_image import is_picture
from ..cohort.found import by_name, unmatched
from ..cohort.names import is_image, suffix
from ..cohort.words import plural, some
from ..files import entries, link_or_copy, write_text
from .settings import Settings, StudyError
from .sources import Source, find

FOLDER = "annotation"  # below the study: links to the images of a data set, in whose own folders nothing is written
LINKED = "linked.json"  # in it: of which data set, and the names of the links
CORRECTED = "labels/final"  # where MONAI Label keeps labels, below the images
COPIED = "labels/copied.json"  # beside them, where MONAI Label lists folders alone: what was copied there, see :func:`copies`
SHOWN = (".nii.gz", ".nii", ".nrrd", ".mha", ".png", ".jpg", ".jpeg")  # images that MONAI Label is given to show


def shown(folder: Path, images: Path | Mapping[str, Path], labels: Path | None) -> Path | None:
    """The folder of images that MONAI Label shows: the user's own, or of a data set one of links below the study; None of
    several folders of modalities.

    Args:
        folder: of the study.
        images, labels: see :func:`.sources.find`.
    """
    if isinstance(images, Mapping):
        return None
    return folder / FOLDER if labels is None else Path(images)


def links(source: Source) -> dict[str, Path]:
    """The images of a data set that MONAI Label can show, a file each, by the names under which it is to show them."""
    files = {scan.name: Path(scan.image) for scan in source.scans if not isinstance(scan.image, Mapping)}
    named = {f"{name}{suffix(file)}": file for name, file in files.items()}
    return {name: file for name, file in named.items() if name.endswith(SHOWN)}


def link(where: Path, data_set: Path, wanted: Mapping[str, Path]) -> None:
    """Make a folder of links to the images of a data set, of which nothing is touched. Links that are right stay, as a server
    may be running; those to scans that the data set no longer has go.

    Args:
        where: the folder.
        data_set: its folder.
        wanted: see :func:`links`.

    Raises:
        StudyError: the folder cannot be written; in it lies an image of the same name that is not ours, or labels of another
            data set.
        FileError: no space.
    """
    try:
        where.mkdir(exist_ok=True)
        judge_data_set(where, data_set)
        _, before = linked(where)
        if strange := [name for name in wanted if name not in before and _is_another(where / name, wanted[name])]:
            raise StudyError(
                f"{where} has images that are not those of {data_set} and have their names: {some(strange)}. Move them "
                "away, and their labels below it"
            )
        for name in set(before) - set(wanted):
            (where / name).unlink(missing_ok=True)
        # before the links are made, so that after a kill it is known which are ours
        content = {"data_set": str(data_set.resolve()), "links": sorted(wanted)}
        write_text(where / LINKED, json.dumps(content, indent=1) + "\n")
        for name, file in wanted.items():
            if not _is_same(where / name, file):
                (where / name).unlink(missing_ok=True)
                link_or_copy(where / name, file)
    except OSError as error:
        raise StudyError(
            f"{where} cannot be written: {error.strerror}. Links to the images of {data_set} and corrected labels go there. "
            "Make it writable"
        ) from error


def _is_same(place: Path, file: Path) -> bool:
    """Whether a place is a link to a file, or a copy of it."""
    if place.is_symlink():
        return os.readlink(place) == str(file.resolve())
    return place.is_file() and filecmp.cmp(place, file)


def _is_another(place: Path, file: Path) -> bool:
    """Whether an image lies there that somebody has put there: no link, and no copy of the file."""
    return place.exists() and not place.is_symlink() and not _is_same(place, file)


def not_shown(settings: Settings) -> str:
    """Why MONAI Label cannot show the images of a study; empty where it can.

    Raises:
        CohortError: see :func:`.sources.find`.
    """
    if isinstance(settings.images, Mapping):
        return (
            f"its images lie in {len(settings.images)} folders of modalities, and MONAI Label shows files of one folder"
        )
    if settings.one_folder:
        names = [path.name for path in entries(Path(settings.images))]
    else:
        source = find(Path(settings.images))
        found = links(source)
        colours = len(found) == len(source.scans) and all(map(is_picture, found))
        if len(source.channels) > 1 and not colours:
            return (
                f"its scans have {len(source.channels)} channels ({', '.join(source.channels)}), and MONAI Label shows "
                "scans of one"
            )
        names = list(found)
    if any(name.endswith(SHOWN) for name in names):
        return ""
    return f"MONAI Label shows {', '.join(SHOWN)}, and no image is such a file"


def corrected(source: Source, images: Path | Mapping[str, Path], where: Path | None) -> Source:
    """The source with the labels that MONAI Label keeps below the images in place of the user's, except where one is
    still the copy that annotation made: the user's label may have been repaired, or taken out, since.

    Args:
        images: see :func:`.sources.find`.
        where: the folder that MONAI Label shows.

    Raises:
        CohortError: two of one name.
        StudyError: they are of another data set.
    """
    final = where / CORRECTED if where else None
    if where is None or final is None or not final.is_dir() or not any(is_image(path) for path in final.iterdir()):
        return source
    judge_data_set(where, images)
    found, copied = by_name(final), copies(where)
    names = {scan.name for scan in source.scans}
    same = {name for name, path in found.items() if path.name in copied and copied[path.name] == digest(path)}
    used = [scan for scan in source.scans if scan.name in found and scan.name not in same]
    taken = {scan.name for scan in used}
    scans = [replace(scan, label=found[scan.name]) if scan.name in taken else scan for scan in source.scans]
    # that nothing was read of "labels" itself would contradict it
    notes = [note for note in source.notes if not note.endswith(f": {Path(CORRECTED).parts[0]}")]
    if used:
        new = [scan.name for scan in used if not scan.label]
        which = f", {len(new)} of them new: {some(new)}" if new else ""
        notes.append(f"{plural(len(used), 'label')} taken from {final}, where MONAI Label keeps them{which}")
    if gone := sorted(scan.name for scan in source.scans if scan.name in same and not scan.label):
        text = f"{plural(len(gone), 'label')} that annotation copied and nobody corrected"
        notes.append(f"{final}: {text}, not used, as where it came from no longer has one: {some(gone)}")
    if strange := sorted(found.keys() - names):
        bare = [scan.name for scan in scans if not scan.label]
        notes.append(f"{final}: {unmatched(strange, bare)}")
    return replace(source, scans=scans, notes=notes)


def judge_data_set(where: Path, images: Path | Mapping[str, Path]) -> None:
    """Refuse labels that were drawn on the images of another data set, whose scans may have the same names.

    Args:
        where: the folder that MONAI Label shows.
        images: of the study as it is now.

    Raises:
        StudyError: says what to do, also where the data set has only moved.
    """
    of, _ = linked(where)
    final = where / CORRECTED
    if not of or isinstance(images, Mapping) or Path(of) == Path(images).resolve() or not final.is_dir():
        return
    copied = copies(where)
    if any(copied.get(path.name) != digest(path) for path in entries(final) if is_image(path)):
        raise StudyError(
            f"{final} holds labels that were corrected on scans of {of}, and this study is of {Path(images).resolve()}. "
            f"Move {where} away; or remove {where / LINKED}, where it is the same data set in another place"
        )


def linked(where: Path) -> tuple[str, list[str]]:
    """Of which data set a folder holds links, and their names; empty where it is not such a folder, or its list is damaged.

    Args:
        where: the folder that MONAI Label shows.
    """
    try:
        content = json.loads((where / LINKED).read_text(encoding="utf-8"))
        return str(content["data_set"]), list(content["links"])
    except (FileNotFoundError, KeyError, TypeError, ValueError):
        return "", []


def copies(where: Path) -> dict[str, str]:
    """The :func:`digest` that each label had when annotation copied it to :data:`CORRECTED`, by file name: a label that
    still has it was corrected by nobody. Empty where none was copied, or where the list is damaged.

    Args:
        where: the folder that MONAI Label shows.
    """
    try:
        return dict(json.loads((where / COPIED).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError):
        return {}


def digest(label: Path) -> str:
    """SHA-256 of the bytes of a label, over all files that it is made of."""
    found = hashlib.sha256()
    for file in files_of(label):
        found.update(hashlib.sha256(file.read_bytes()).digest())
    return found.hexdigest()
