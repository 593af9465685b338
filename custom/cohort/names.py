"""Names of scans, cases and files."""

from __future__ import annotations

import contextlib
import os
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..placeholders import evicted
from .errors import CohortError
from .formats.itk_image import is_dicom
from .formats.opened import SUFFIXES, TEXTS, files_of, lost_files
from .words import plural, some


def stem(file: str | Path) -> str:
    """A file's name without its image suffix: ``p01_ED.nii.gz`` is ``p01_ED``."""
    name = Path(file).name
    known = name[: -len(suffix(file))] if suffix(file) else ""
    return known or (name if os.path.isdir(file) else Path(name).stem)  # the folder of a DICOM series has no suffix


def suffix(file: str | Path) -> str:
    """A file's image suffix, in small letters: of ``p01.NII.GZ`` it is ``.nii.gz``; empty where it has none."""
    return next((s for s in SUFFIXES if Path(file).name.lower().endswith(s)), "")


def first_file(entry: Mapping[str, Any]) -> str:
    """The path of an entry\'s image; of several modalities, of the first; empty where there is none."""
    image = entry.get("image") or ""
    return str(next(iter(image.values()), "")) if isinstance(image, Mapping) else str(image)


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
        says_patient = not patient or _says(file, patient)
        name = base = file if says_patient else f"{patient}_{file}"
        copies = 1
        while name in names:
            copies += 1
            name = f"{base}-{copies}"
        names[name] = None
    return list(names)


def _says(name: str, patient: str) -> bool:
    """Whether a patient stands in a name as a word: no letter or digit of English comes right before or after it."""
    start = name.find(patient)
    while start >= 0:
        around = name[max(start - 1, 0) : start] + name[start + len(patient) :][:1]
        if not any(letter.isascii() and letter.isalnum() for letter in around):
            return True
        start = name.find(patient, start + 1)
    return False


def is_image(path: Path) -> bool:
    """A file that the readers take, by its suffix."""
    return path.name.lower().endswith(SUFFIXES)


def is_series(path: Path) -> bool:
    """Whether it is a folder of DICOM files, or of what lies in their place; or would be, if it could be opened."""
    if not path.is_dir():
        return path.is_symlink() and not path.suffix and not path.exists()
    try:
        return any(is_dicom(file) for file in sorted(path.iterdir())) or bool(lost_files(path, slices=True))
    except OSError:
        return True


def is_scan(path: Path) -> bool:
    """What is read as a scan, or refused by name: also a link that leads nowhere."""
    return is_image(path) or is_series(path)


def visible(folder: Path) -> list[Path]:
    """What lies in a folder, by name, without hidden files.

    Raises:
        CohortError: it cannot be read; iCloud has files of it that are not on this machine, which are hidden then.
    """
    try:
        found = sorted(folder.iterdir())
    except OSError as error:
        raise CohortError(f"the folder {folder} cannot be read: {error.strerror}") from error
    if away := [name for path in found if (name := evicted(path.name))]:
        raise CohortError(
            f"{folder}: {plural(len(away), 'file')} in iCloud and not on this machine: {some(away)}. Download in Finder"
        )
    return [path for path in found if not path.name.startswith(".")]


def strays(folder: Path) -> list[str]:
    """Names of what lies in a folder and is neither a scan, nor the voxels that a .mhd there names, nor one of the texts that
    lie beside scans (``p01.json``): perhaps scans that are not read.

    Raises:
        CohortError: the folder cannot be read.
    """
    found = visible(folder)
    parts: set[Path] = set()
    for path in found:
        if path.name.lower().endswith(".mhd"):
            with contextlib.suppress(OSError):  # whoever reads it says so
                parts.update(file.resolve() for file in files_of(path))
    return [path.name for path in found
            if not (is_scan(path) or path.name.lower().endswith(TEXTS) or path.resolve() in parts)]  # fmt: skip


def scans_in(folder: Path) -> dict[str, Path]:
    """The scans of a folder by their names without suffix, in the order of those; a letter and its mark are one (NFC).

    Raises:
        CohortError: it cannot be read; files that differ only in suffix, whose results would overwrite each other.
    """
    found: dict[str, list[Path]] = {}
    for path in visible(folder):
        if is_scan(path):
            found.setdefault(unicodedata.normalize("NFC", stem(path)), []).append(path)
    twins = [" and ".join(path.name for path in paths) for paths in found.values() if len(paths) > 1]
    if twins:
        raise CohortError(f"several images of one name in {folder}: {'; '.join(twins)}. Keep one of each")
    return {name: path for name, (path,) in sorted(found.items())}
