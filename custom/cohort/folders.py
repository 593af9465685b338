"""The images of a folder, for inference: cases with all channels, or of one modality each."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import nearest
from ..files import under
from ..placeholders import placeholder
from .errors import CohortError
from .names import SUFFIXES, first_file, scans_in, strays

logger = logging.getLogger(__name__)

AUTO = "auto"


def images_alone(
    folder: str | Path, channels: Sequence[str], modality: str = AUTO, root: str | Path = "."
) -> list[dict[str, Any]]:
    """The images of a folder for networks that read one modality each: one image a case.

    They lie in subfolders named after the channels, or in ``folder`` itself. There ``p01_t1ce.nii.gz`` is the t1ce of
    p01 by its name. Any other image is of the modality given; with ``auto`` it must hold all channels.

    Args:
        folder: absolute or below ``root``.
        channels: names in their order.
        modality: one of them; ``auto`` takes of each case the first one that it has.

    Returns:
        ``{"image": {modality: path}, "modality": modality}`` for each case (the path alone where one file holds all
        channels), those of one modality one after another.

    Raises:
        CohortError: an unknown modality; a file in place of the folder; no image; two of one name.
    """
    if modality not in (AUTO, *channels):
        known = [AUTO, *channels]
        raise CohortError(f"modality is {modality!r}{nearest(modality, known)}; expected one of {', '.join(known)}")
    folder = _folder(folder, root)
    wanted = list(channels) if modality == AUTO else [modality]
    apart = [channel for channel in wanted if (folder / channel).is_dir()]
    found = {c: _scans(folder / c) for c in apart} if apart else _by_name(_scans(folder), channels, modality)
    cases: dict[str, dict[str, Any]] = {}
    for channel in (*wanted, ""):
        for name, file in found.get(channel, {}).items():
            image = {channel: str(file)} if channel else str(file)
            cases.setdefault(name, {"image": image, "modality": channel or wanted[0]})
    if not cases:
        raise CohortError(
            f"no images of {' or '.join(wanted)} in {folder.resolve()}: expected files {', '.join(SUFFIXES)} or folders "
            f"of DICOM series there, or in a subfolder {' or '.join(wanted)}. Give the folder with --dataset_dir."
        )
    return sorted(cases.values(), key=lambda case: wanted.index(case["modality"]))


def paths_alone(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What :func:`images_alone` found as transforms read it: the path below ``image``, and the ``modality``."""
    return [{**entry, "image": first_file(entry)} for entry in entries]


def _folder(folder: str | Path, root: str | Path) -> Path:
    path = under(root, folder)
    if path.is_file():
        raise CohortError(
            f"dataset_dir {path} is a file, expected a folder of images. Give the folder that it lies in, --dataset_dir "
            f"{path.parent}, or another one for this image alone"
        )
    return path


def _scans(folder: Path) -> dict[str, Path]:
    """The scans of a folder by their names without suffix; nothing for a folder that does not exist."""
    if not folder.is_dir():
        return {}
    if names := strays(folder):
        logger.warning(
            "Not read in %s, neither an image nor the folder of a DICOM series: %s", folder, ", ".join(names)
        )
    return scans_in(folder)


def _by_name(scans: Mapping[str, Path], channels: Sequence[str], modality: str) -> dict[str, dict[str, Path]]:
    """Case and file by channel; under "" those that must hold all channels.

    Raises:
        CohortError: two files of one case for a channel: one of them by its name, or by all that it holds.
    """
    found: dict[str, dict[str, Path]] = {}
    twins = []
    for name, file in scans.items():
        channel = next((channel for channel in channels if name.endswith(f"_{channel}")), "")
        case = name.removesuffix(f"_{channel}")
        holds = channel or ("" if modality == AUTO else modality)
        twins += [f"{files[case].name} and {file.name}" for other, files in found.items()
                  if case in files and (holds == other or "" in (holds, other))]  # fmt: skip
        found.setdefault(holds, {})[case] = file
    if twins:
        folder = next(iter(scans.values())).parent
        raise CohortError(f"several images of one case and modality in {folder}: {'; '.join(twins)}. Keep one of each")
    return found


def images(folder: str | Path, channels: Sequence[str] = ("image",), root: str | Path = ".") -> list[dict[str, Any]]:
    """Every image of a folder, for inference.

    A case is one file that holds all channels or, where the folder has subfolders named after the channels, the files
    of one name in all of them.

    Raises:
        CohortError: a file in place of the folder; no image there; two of one name; a case that lacks a channel.
    """
    folder = _folder(folder, root)
    apart = [folder / name for name in channels if (folder / name).is_dir()]
    folders = [folder / name for name in channels] if apart else [folder]
    scans = {f: _scans(f) for f in folders}
    names = sorted({name for of_folder in scans.values() for name in of_folder})
    if not names:
        raise CohortError(
            f"no images in {folder.resolve()}: expected files {', '.join(SUFFIXES)} or folders of DICOM "
            f"series, or such in a subfolder for each of {list(channels)}. Give the folder with --dataset_dir."
        )
    lacking = [(f, next(of_folder[name].name for of_folder in scans.values() if name in of_folder))
               for name in names for f in folders if name not in scans[f]]  # fmt: skip
    if lacking:
        missing = ", ".join(f"{f / file} {placeholder(f / file)}".rstrip() for f, file in lacking)
        raise CohortError(f"cases that lack a channel: {missing}. Add these files, or move their cases away")
    files = [[str(scans[f][name]) for f in folders] for name in names]
    return [{"image": several if apart else several[0]} for several in files]
