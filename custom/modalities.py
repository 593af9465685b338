"""Networks that read one modality each, and cases that lack one: which network can read which case."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from .cohort import SUFFIXES, CohortError, first_file, is_image, is_series, is_stray, namesakes, stem, under
from .errors import nearest

logger = logging.getLogger(__name__)

AUTO = "auto"


def channel_of(network: nn.Module) -> int | None:
    """The channel that a network reads, by its buffer ``channel``; None for one that reads them all."""
    buffer = dict(network.named_buffers(recurse=False)).get("channel")
    return None if buffer is None else int(buffer)


def reads(network: nn.Module, present: Sequence[bool] | Tensor) -> bool:
    """Whether a case has the modality of a network; ``present`` says so for each channel.

    A network that reads all channels is never kept from a case: :class:`~.check.Check` refuses what it cannot read.
    """
    channel = channel_of(network)
    return channel is None or bool(present[channel])


def images(
    folder: str | Path, channels: Sequence[str], modality: str = AUTO, root: str | Path = "."
) -> list[dict[str, Any]]:
    """The images of a folder for networks that read one modality each: one image a case.

    They lie in subfolders named after the channels, or in ``folder`` itself. There ``p01_t1ce.nii.gz`` is the t1ce of
    p01 by its name. Any other image is of the modality that is told; with ``auto`` it must hold all channels.

    Args:
        folder: absolute or below ``root``.
        channels: names in their order.
        modality: one of them; ``auto`` takes of each case the first one that it has.

    Returns:
        ``{"image": {modality: path}, "modality": modality}`` for each case (the path alone where one file holds all
        channels), those of one modality behind one another.

    Raises:
        CohortError: an unknown modality; no image; two of one name.
    """
    if modality not in (AUTO, *channels):
        known = [AUTO, *channels]
        raise CohortError(f"modality is {modality!r}{nearest(modality, known)}; expected one of {', '.join(known)}")
    folder = under(root, folder)
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


def files(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What :func:`images` found as transforms read it: the path below ``image``, and the ``modality``."""
    return [{**entry, "image": first_file(entry)} for entry in entries]


def _scans(folder: Path) -> dict[str, Path]:
    """The scans of a folder by their names without suffix; nothing of a folder that does not exist."""
    visible = [p for p in sorted(folder.iterdir()) if not p.name.startswith(".")] if folder.is_dir() else []
    scans = [path for path in visible if is_image(path) or is_series(path)]
    if twins := namesakes(scans):
        raise CohortError(f"several images of one name in {folder}: {'; '.join(twins)}. Keep one of each")
    if strays := [path.name for path in visible if path.is_file() and is_stray(path)]:
        logger.warning("Not read in %s, no image and no folder of a DICOM series: %s", folder, ", ".join(strays))
    return {stem(path): path for path in scans}


def _by_name(scans: Mapping[str, Path], channels: Sequence[str], modality: str) -> dict[str, dict[str, Path]]:
    """Case and file by channel; under "" those that must hold all channels."""
    found: dict[str, dict[str, Path]] = {}
    for name, file in scans.items():
        channel = next((channel for channel in channels if name.endswith(f"_{channel}")), "")
        case = name.removesuffix(f"_{channel}")
        found.setdefault(channel or modality.replace(AUTO, ""), {})[case] = file
    return found
