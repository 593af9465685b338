"""Where the frames of a DICOM series, or of one file, lie; and whether they are one volume."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .opened import ScanFault

TILTED = 1e-3  # of a step from slice to slice, across their normal: less is the rounding of positions
UNEVEN = 0.01, 0.25  # of the mean step from slice to slice: warned of, refused
ALIKE = 1e-3  # cosines of directions; of pixel sizes, the same fraction of them

IMPLICIT, DEFLATED = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1.99"
SYNTAXES = (
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.4.",
    "1.2.840.10008.1.2.5",
    IMPLICIT,
)  # little endian, all of them
LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
ITEM, ITEM_END, SEQUENCE_END, PIXELS = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD, 0x7FE00010
UNDEFINED = 0xFFFFFFFF
SHARED, PER_FRAME = 0x52009229, 0x52009230  # functional groups
POSITION, ORIENTATION, MEASURES, RESCALE = 0x00209113, 0x00209116, 0x00289110, 0x00289145
GROUPS = (SHARED, PER_FRAME, POSITION, ORIENTATION, MEASURES, RESCALE)


@dataclass(frozen=True)
class Frame:
    """One slice.

    Args:
        position: ``(3,)``, of its first pixel, mm, LPS.
        direction: ``(3, 2)``, unit vectors from pixel to pixel: along a row, along a column.
        spacing: of pixels along these two, mm.
        size: pixels along these two.
        channels: of a pixel.
        rescale: slope and intercept that make values of what is stored.
        photometric: what its numbers mean (0028,0004), as ``MONOCHROME2``; empty where all frames are of one file.
    """

    position: np.ndarray
    direction: np.ndarray
    spacing: tuple[float, ...]
    size: tuple[int, ...]
    channels: int = 1
    rescale: tuple[float, ...] = (1.0, 0.0)
    photometric: str = ""


@dataclass(frozen=True)
class Stack:
    """Frames as one volume.

    Args:
        order: of the frames, along their normal.
        origin, spacing, direction: ``(3,)``, ``(3,)``, ``(3, 3)``, as ITK has them. The third direction is not the
            normal of the slices where each is shifted against the one before: the gantry of a CT was tilted.
        unevenness: how far a step from slice to slice is from the mean one, as a fraction of it.
    """

    order: list[int]
    origin: np.ndarray
    spacing: tuple[float, ...]
    direction: np.ndarray
    unevenness: float


def stacked(frames: Sequence[Frame], name: str) -> Stack:
    """Lay two frames or more in order.

    Raises:
        ScanFault: frames that differ in direction, size, channels, in the size or rescaling of pixels, or in what their
            numbers mean; that lie at one place, or at unequal distances.
    """
    first = frames[0]
    cosine = min(float((frame.direction * first.direction).sum(axis=0).min()) for frame in frames)
    if any(np.abs(frame.direction - first.direction).max() > ALIKE for frame in frames):
        angle = math.degrees(math.acos(max(min(cosine, 1.0), -1.0)))
        raise ScanFault(f"{name} has slices in different directions, up to {angle:.3g} degrees apart{_MIXED}")
    _alike(frames, name, "of different sizes", lambda f: f.size, "pixels")
    _alike(frames, name, "of different channels", lambda f: (f.channels,), "a pixel")
    _alike(frames, name, "of pixels of different sizes", lambda f: f.spacing, "mm")
    _alike(frames, name, "of different rescaling", lambda f: f.rescale, "(slope, intercept)")
    if len(kinds := sorted({frame.photometric for frame in frames})) > 1:
        raise ScanFault(f"{name} has slices of different photometric interpretation (0028,0004), {' and '.join(kinds)}: some "
                        f"would be read inverted{_CONVERT_ALL}")  # fmt: skip
    normal = np.cross(*first.direction.T)
    order = sorted(range(len(frames)), key=lambda k: float(frames[k].position @ normal))
    places = np.array([frames[k].position for k in order])
    steps = np.diff(places, axis=0)
    step = (places[-1] - places[0]) / (len(places) - 1)
    if step @ normal < ALIKE:
        raise ScanFault(f"{name} has slices that lie at one place: a film, or slices without a position; not a volume.")
    length = float(np.linalg.norm(step))
    unevenness = float(np.linalg.norm(steps - step, axis=1).max()) / length
    if unevenness > UNEVEN[1]:
        raise ScanFault(
            f"{name} has slices at unequal distances (up to {unevenness:.0%} off the mean of {length:.4g} mm): "
            "a slice is missing, or several scans are mixed in it."
        )
    across = float(np.linalg.norm(step - normal * (step @ normal)))
    third = step / length if across > TILTED * length else normal
    direction = np.column_stack([first.direction, third])
    return Stack(order, places[0], (*first.spacing, length), direction, unevenness)


_MIXED = ": several scans are mixed in it, not one volume; keep one of them, or convert it to NIfTI."
_CONVERT_ALL = ". Export the series anew with one for all slices, or convert it to NIfTI (dcm2niix does)."


def _alike(
    frames: Sequence[Frame], name: str, how: str, values: Callable[[Frame], tuple[float, ...]], unit: str
) -> None:
    expected = values(frames[0])
    other = next((v for f in frames if not np.allclose(v := values(f), expected, rtol=ALIKE, atol=1e-6)), None)
    if other is not None:
        raise ScanFault(f"{name} has slices {how}, {_numbers_text(expected)} and {_numbers_text(other)} {unit}{_MIXED}")


def _numbers_text(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:.6g}" for number in numbers).join("()" if len(numbers) > 1 else ("", ""))


def frames_of(path: Path, size: tuple[int, ...], count: int) -> list[Frame]:
    """The frames of one file, by its functional groups, in the order of the file.

    ITK takes the first frame's position, and 1 mm for the distance where the file's order is not that of the places.

    Args:
        size, count: pixels along a row and a column of a frame; how many frames there are.

    Raises:
        ScanFault: frames without a position: a film, or a form of file that is not read here.
    """
    try:
        found = _top(path.read_bytes())
        shared: dict[int, Any] = next(iter(found.get(SHARED, [])), {})
        groups = [{**shared, **own} for own in found.get(PER_FRAME, [])]
        frames = [_frame(own, size) for own in groups]
    except (LookupError, ValueError, struct.error, zlib.error) as error:
        raise ScanFault(f"{path.name} has {count} frames whose places cannot be read{_CONVERT}") from error
    if len(frames) != count:
        placed = f"{len(frames) or 'none'} with a place"
        raise ScanFault(f"{path.name} has {count} frames, {placed}: a film, or of a form that is not read{_CONVERT}")
    return frames


_CONVERT = ". Convert it to NIfTI (dcm2niix does), or to a file a slice."


def _frame(groups: dict[int, Any], size: tuple[int, ...]) -> Frame:
    position = _numbers(groups[POSITION][0][0x00200032], 3)
    direction = np.reshape(_numbers(groups[ORIENTATION][0][0x00200037], 6), (2, 3)).T
    rows, columns = _numbers(groups[MEASURES][0][0x00280030], 2)  # distance of rows first
    rescale = groups.get(RESCALE, [{}])[0]
    slope, intercept = (_numbers(rescale[tag], 1)[0] if tag in rescale else default
                        for tag, default in ((0x00281053, 1.0), (0x00281052, 0.0)))  # fmt: skip
    return Frame(np.array(position), direction, (columns, rows), size, rescale=(slope, intercept))


def _numbers(text: bytes, count: int) -> list[float]:
    numbers = [float(number) for number in text.decode("ascii").strip(" \0").split("\\")]
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{count} numbers expected, found {text!r}")
    return numbers


# ITK gives no element that lies in a sequence, and functional groups are sequences.


def _top(raw: bytes) -> dict[int, Any]:
    """Elements before the pixels by tag: bytes, or of a sequence a list of such dicts."""
    if raw[128:136] != b"DICM\x02\0\0\0":
        raise ValueError("no header")
    start = 144 + struct.unpack_from("<L", raw, 140)[0]
    syntax = _dataset(raw, 144, start, True)[0][0x00020010].decode("ascii").strip(" \0")
    if not syntax.startswith(SYNTAXES):
        raise ValueError(f"transfer syntax {syntax}")
    if syntax == DEFLATED:
        raw, start = zlib.decompress(raw[start:], -zlib.MAX_WBITS), 0
    return _dataset(raw, start, len(raw), syntax != IMPLICIT, top=True)[0]


def _dataset(raw: bytes, at: int, end: int, explicit: bool, top: bool = False) -> tuple[dict[int, Any], int]:
    """Elements from ``at`` on, and where they end; at the top to the pixels, beside which an icon may have its own."""
    found: dict[int, Any] = {}
    while at < end:
        group, number, kind, length = struct.unpack_from("<HH2sH", raw, at)
        tag = group << 16 | number
        if tag == ITEM_END:
            return found, at + 8
        if tag == PIXELS and top:
            return found, end
        at += 8
        if not explicit:
            (length,) = struct.unpack_from("<L", raw, at - 4)
        elif kind in LONG:
            (length,) = struct.unpack_from("<L", raw, at)
            at += 4
        if tag == PIXELS and length == UNDEFINED:
            at = _behind_fragments(raw, at)
        elif length == UNDEFINED or tag in GROUPS or (explicit and kind == b"SQ"):
            found[tag], at = _items(raw, at, length, explicit and kind != b"UN")
        else:
            found[tag], at = raw[at : at + length], at + length
    return found, at


def _behind_fragments(raw: bytes, at: int) -> int:
    """Where compressed pixels end."""
    while True:
        group, number, size = struct.unpack_from("<HHL", raw, at)
        at += 8
        if group << 16 | number == SEQUENCE_END:
            return at
        at += size


def _items(raw: bytes, at: int, length: int, explicit: bool) -> tuple[list[dict[int, Any]], int]:
    end, items = len(raw) if length == UNDEFINED else at + length, []
    while at < end:
        group, number, size = struct.unpack_from("<HHL", raw, at)
        tag, at = group << 16 | number, at + 8
        if tag == SEQUENCE_END:
            break
        if tag != ITEM:
            raise ValueError(f"no item at byte {at - 8}")
        item, at = _dataset(raw, at, end if size == UNDEFINED else at + size, explicit)
        items.append(item)
    return items, at
