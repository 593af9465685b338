"""Pictures that say how they are to be turned: viewers and drawing programs show them so, ITK does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from PIL.ExifTags import Base
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

# EXIF orientation: whether rows become columns, and which axes are then reversed
TURNS = {2: (False, (1,)), 3: (False, (0, 1)), 4: (False, (0,)), 5: (True, ()), 6: (True, (1,)), 7: (True, (0, 1)),
         8: (True, (0,))}  # fmt: skip
IN_PNG = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")  # without one of them Pillow need not decode it


def exif_orientation(path: Path) -> int:
    """The EXIF orientation of a PNG or JPEG: 1 as it is stored, 2 to 8 turned or mirrored; 1 where it says nothing valid."""
    try:
        if path.suffix.lower() == ".png":
            raw = path.read_bytes()
            exif = PngImageFile(path).getexif() if any(mark in raw for mark in IN_PNG) else {}
        else:
            exif = JpegImageFile(path).getexif()
    except Exception:  # a damaged note: Pillow's errors have no common class, and viewers pass over it
        return 1
    found = exif.get(Base.Orientation, 1)
    return int(found) if found in TURNS else 1


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels as viewers show them.

    Shape:
        - pixels: ``(rows, columns, ...)``; returns the same, or with rows and columns exchanged.
    """
    if orientation not in TURNS:
        return pixels
    exchanged, reversed_axes = TURNS[orientation]
    return np.flip(pixels.swapaxes(0, 1) if exchanged else pixels, reversed_axes)


def as_stored(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """The inverse of ``upright``: pixels as viewers show them, in the order of a file of this orientation."""
    if orientation not in TURNS:
        return pixels
    exchanged, reversed_axes = TURNS[orientation]
    turned = np.flip(pixels, reversed_axes)
    return turned.swapaxes(0, 1) if exchanged else turned


def exif_of(orientation: int) -> Image.Exif | None:
    """What a file says of its orientation, 2 to 8; None for 1, which needs no saying."""
    if orientation == 1:
        return None
    exif = Image.Exif()
    exif[Base.Orientation] = orientation
    return exif
