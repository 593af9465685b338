"""Pictures of what a network drew where there is no reference: one a scan, and one sheet of many."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cohort.formats import open_scan
from ..evaluation.slices import for_display, slice_to_show
from .plots import draw_contours, legend, legend_columns, pixels, save_png, show

MOST = 2**31  # voxels of a scan
_COLUMNS, _INCHES, _DPI = 6, 2.0, 110
_TITLE, _GAP = 0.42, 0.12  # inches: two lines above a picture, and between two of them


@dataclass(frozen=True)
class Preview:
    """A slice with what was drawn on it.

    Args:
        title: above it.
        picture: rows first, as imshow takes it.
        mask: classes ``(X, Y)``.
        aspect: height of a pixel over its width.
    """

    title: str
    picture: NDArray[Any]
    mask: NDArray[Any]
    aspect: float


def preview(image: Path, mask: NDArray[np.uint8], title: str) -> Preview:
    """The slice with most of what was drawn, upright.

    Args:
        image: file, or folder of a DICOM series.
        mask: classes ``(*spatial)`` on its grid.
        title: of the picture.

    Raises:
        ScanFault: the image cannot be read.
    """
    from nibabel.orientations import aff2axcodes

    scan = open_scan(image, MOST)
    voxels = np.moveaxis(scan.voxels, -1, 0) if scan.channels_last else scan.voxels[None]
    codes = "".join(aff2axcodes(scan.affine)) if mask.ndim == 3 else "LPS"
    voxels, mask = for_display(voxels, mask.ndim, codes), for_display(mask, mask.ndim, codes)
    shown = slice_to_show(mask, {})
    step = scan.spacing_mm
    return Preview(title, pixels(voxels, mask, shown), mask[shown], step[1] / step[0])


def write(one: Preview, classes: Sequence[str], png: Path) -> None:
    """Write one preview."""
    _figure([one], classes, columns=1, inches=4.0, png=png)


def write_sheet(many: Sequence[Preview], classes: Sequence[str], png: Path) -> None:
    """Write all of them on one sheet, in their order."""
    _figure(many, classes, columns=min(_COLUMNS, len(many)), inches=_INCHES, png=png)


def _figure(many: Sequence[Preview], classes: Sequence[str], columns: int, inches: float, png: Path) -> None:
    from matplotlib.figure import Figure

    rows = [many[first : first + columns] for first in range(0, len(many), columns)]
    heights = [inches * min(max(_tallest(row), 0.4), 2.0) for row in rows]
    wide = inches * columns
    below = 0.15 + 0.2 * math.ceil(len(classes) / legend_columns(classes, wide))  # the legend
    high = sum(heights) + _TITLE * len(rows) + below
    figure = Figure(figsize=(wide, high), dpi=_DPI)
    top = high  # placed by hand: a layout gives all rows the gaps of the tallest
    for row, height in zip(rows, heights, strict=True):
        top -= _TITLE + height
        for column, one in enumerate(row):
            place = (column * inches + _GAP / 2) / wide, top / high, (inches - _GAP) / wide, height / high
            axis = figure.add_axes(place)
            axis.set_axis_off()
            show(axis, one.picture, one.aspect)
            draw_contours(axis, one.mask, classes)
            axis.set_title(one.title, fontsize=7, pad=3)
    legend(figure, classes, reference=False)
    save_png(figure, png)


def _tallest(row: Sequence[Preview]) -> float:
    """Height over width."""
    return max(one.picture.shape[0] * one.aspect / one.picture.shape[1] for one in row)
