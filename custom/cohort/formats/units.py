"""The unit of lengths that an NRRD or MetaImage header names, which ITK does not heed: it takes every number for mm."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from .opened import ScanFault

LENGTHS = {"m": 1000.0, "cm": 10.0, "mm": 1.0, "um": 1e-3, "nm": 1e-6}  # in mm
SPELT = {"µm": "um", "μm": "um", "micron": "um", "microns": "um"}
PARTS = {"": "m", "centi": "cm", "milli": "mm", "micro": "um", "nano": "nm"}  # of metre, meters
UNKNOWN = ("", "?", "???")
MOST = 2**20  # bytes of a header


@dataclass(frozen=True)
class Unit:
    """Its name in the table of lengths, and the length of one in mm."""

    name: str = "mm"
    mm: float = 1.0


def unit_of(path: Path) -> Unit:
    """The unit of a file's voxel sizes and of its origin; mm where a header names none, and of all other formats.

    Raises:
        ScanFault: another unit than those of length that are known here, or different ones.
    """
    kind = path.suffix.lower()
    if kind not in (".nrrd", ".mha", ".mhd"):
        return Unit()
    names = _of_nrrd(text_header(path)) if kind == ".nrrd" else _of_meta(text_header(path))
    names = [name for name in names if name not in UNKNOWN]
    found = {_known(name) for name in names}
    if not found:
        return Unit()
    if len(found) > 1 or "" in found:
        said = ", ".join(dict.fromkeys(names))
        raise ScanFault(f"{path.name} has lengths in {said}, expected one of {', '.join(LENGTHS)} along all axes; correct the "
                        "unit in its header.")  # fmt: skip
    (name,) = found
    return Unit(name, LENGTHS[name])


def text_header(path: Path) -> str:
    """The header of an NRRD or MetaImage file, up to the first empty line, or to the entry that the voxels follow."""
    with path.open("rb") as file:
        start = file.read(MOST)
    return re.split(rb"\r?\n\r?\n|^ElementDataFile", start, maxsplit=1, flags=re.MULTILINE)[0].decode(errors="replace")


def _of_nrrd(header: str) -> list[str]:
    """The units of the axes; an axis of channels has none."""
    lines = re.findall(r"^(?:space )?units: *(.*?)\r?$", header, re.MULTILINE | re.IGNORECASE)
    return [name.strip() for line in lines for name in re.findall(r'"([^"]*)"', line)]


def _of_meta(header: str) -> list[str]:
    return [name.strip() for name in re.findall(r"^DistanceUnits *= *(.*?)\r?$", header, re.MULTILINE)]


def _known(name: str) -> str:
    """The name of a unit as the table spells it; empty for one that is not in it."""
    plain = SPELT.get(name.lower(), name.lower())
    if spelt := re.fullmatch(r"(|centi|milli|micro|nano)met(?:er|re)s?", plain):
        return PARTS[spelt[1]]
    return plain if plain in LENGTHS else ""
