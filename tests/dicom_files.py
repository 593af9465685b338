"""DICOM files written byte by byte, so that any element may say anything."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

CT, MR, ENHANCED_CT, SECONDARY = (f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("2", "4", "2.1", "7.2"))
EXPLICIT, IMPLICIT, DEFLATED = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.1.99"
LONG = ("OB", "OW", "SQ", "UN", "UT")
Elements = Mapping[str, Any]  # "0020|0032 DS": value; a list of such is a sequence


def dicom(
    path: Path, pixels: np.ndarray, elements: Elements, kind: str = CT, number: int = 0, syntax: str = EXPLICIT
) -> Path:
    """Write ``(columns, rows)`` or ``(columns, rows, frames)`` whole numbers; an element that is None is left out."""
    frames = {"0028|0008 IS": pixels.shape[2]} if pixels.ndim == 3 else {}
    own = {
        "0008|0016 UI": kind, "0008|0018 UI": f"1.2.3.4.{number}", "0008|0060 CS": "CT", "0020|000D UI": "1.2.3",
        "0020|000E UI": "1.2.3.4", "0020|0013 IS": number, "0028|0002 US": 1, "0028|0004 CS": "MONOCHROME2",
        "0028|0010 US": pixels.shape[1], "0028|0011 US": pixels.shape[0], "0028|0100 US": 8 * pixels.itemsize,
        "0028|0101 US": 8 * pixels.itemsize, "0028|0102 US": 8 * pixels.itemsize - 1,
        "0028|0103 US": int(pixels.dtype.kind == "i"), "7FE0|0010 OW": pixels.T.tobytes(),
    }  # fmt: skip
    meta = _encoded({"0002|0002 UI": kind, "0002|0003 UI": f"1.2.3.4.{number}", "0002|0010 UI": syntax})
    start = _encoded({"0002|0000 UL": len(meta)}) + meta
    content = _encoded({**own, **frames, **elements}, explicit=syntax != IMPLICIT)
    if syntax == DEFLATED:
        packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        content = packer.compress(content) + packer.flush()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(128) + b"DICM" + start + content)
    return path


def placed(position: Sequence[float], direction: np.ndarray, spacing: Sequence[float] = (1.0, 1.0)) -> dict[str, Any]:
    """Elements of a frame: its first pixel (LPS, mm), the directions of its axes in columns, its pixels (x, y)."""
    return {
        "0020|0032 DS": _text(position),
        "0020|0037 DS": _text(np.asarray(direction)[:, :2].T.ravel()),
        "0028|0030 DS": _text((spacing[1], spacing[0])),  # between rows first
    }


def grouped(frame: Elements, rescale: Sequence[float] = ()) -> dict[str, Any]:
    """What :func:`placed` gives, and slope and intercept, as the functional groups of a frame of an enhanced file."""
    groups = {"0020|9113 SQ": "0020|0032 DS", "0020|9116 SQ": "0020|0037 DS", "0028|9110 SQ": "0028|0030 DS"}
    found = {group: [{key: frame[key]}] for group, key in groups.items()}
    if rescale:
        found["0028|9145 SQ"] = [{"0028|1052 DS": rescale[1], "0028|1053 DS": rescale[0], "0028|1054 LO": "US"}]
    return found


def _text(numbers: Sequence[float]) -> str:
    return "\\".join(f"{number:.10g}" for number in numbers)


def _encoded(elements: Elements, explicit: bool = True) -> bytes:
    return b"".join(_element(key, value, explicit) for key, value in sorted(elements.items()) if value is not None)


def _element(key: str, value: Any, explicit: bool) -> bytes:
    kind = key[10:]
    if kind == "SQ":  # of undefined length, its items of a defined one: both are met
        items = (_encoded(item, explicit) for item in value)
        content = b"".join(struct.pack("<HHL", 0xFFFE, 0xE000, len(item)) + item for item in items)
        content += struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    elif isinstance(value, bytes):
        content = value
    elif kind in ("US", "UL"):
        content = struct.pack({"US": "<H", "UL": "<L"}[kind], value)
    else:
        content = str(value).encode()
    content += (b"\0" if kind == "UI" else b" ") * (len(content) % 2)
    tag, length = struct.pack("<HH", int(key[:4], 16), int(key[5:9], 16)), 0xFFFFFFFF if kind == "SQ" else len(content)
    if not explicit:
        return tag + struct.pack("<L", length) + content
    return (
        tag
        + kind.encode()
        + struct.pack("<HL" if kind in LONG else "<H", *([0] if kind in LONG else []), length)
        + content
    )
