"""One slice of each evaluated case, small enough to keep: what a report shows of a volume."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..files import write_atomically


class ShownSlices:
    """Collect the slice of each case that a page shows, and write them to one compressed file."""

    def __init__(self) -> None:
        self._cases: list[str] = []
        self._arrays: dict[str, NDArray[Any]] = {}

    def add(
        self,
        case: str,
        image: NDArray[Any],
        label: NDArray[Any],
        pred: NDArray[Any],
        spacing_mm: Sequence[float],
        axis_codes: str,
    ) -> None:
        """Keep the slice with the largest labelled area (of an empty label, with the largest predicted area).

        Args:
            case: its name.
            image: ``(C, *spatial)``. Three channels of a 2D image with whole values in 0..255 are kept in colour, of
                everything else the first channel in grey, 0..255 between its 0.5 and 99.5 percentiles in the slice.
            label, pred: class indices ``(*spatial)``, uint8, two or three axes.
            spacing_mm: the voxel's size along each axis, in mm.
            axis_codes: where the axes point to, as nibabel's ``aff2axcodes`` says; the slice is kept upright, axis 0 to
                the right and axis 1 downwards.

        Raises:
            ValueError: an image on another grid than the label.
        """
        if image.shape[1:] != label.shape:
            raise ValueError(f"case {case}: image {image.shape[1:]} and label {label.shape} differ in shape")
        index = slice_to_show(label, {"pred": pred})
        picture = image if _is_photograph(image) else _grey(image[0][index])
        i = len(self._cases)
        self._cases.append(case)
        for name, array in (("image", picture), ("label", label[index]), ("pred", pred[index])):
            self._arrays[f"{name}_{i}"] = np.ascontiguousarray(for_display(array, 2, axis_codes)).astype(np.uint8)
        self._arrays[f"spacing_{i}"] = np.array(spacing_mm[:2], dtype=float)

    def write(self, path: Path) -> None:
        """Write a ``.npz`` with ``cases`` ``(N,)`` and, for case i, ``image_i`` ``(X, Y)`` or ``(3, X, Y)``, ``label_i`` and
        ``pred_i`` ``(X, Y)``, all uint8, and ``spacing_i`` ``(2,)`` in mm; to be read without pickle."""
        write_atomically(path, partial(np.savez_compressed, cases=np.array(self._cases, dtype=str), **self._arrays))  # type: ignore[arg-type]


def _is_photograph(image: NDArray[Any]) -> bool:
    return bool(
        image.ndim == 3 and len(image) == 3 and image.min() >= 0 and image.max() <= 255 and (image % 1 == 0).all()
    )


def _grey(values: NDArray[Any]) -> NDArray[Any]:
    known = values[np.isfinite(values)]
    low, high = np.percentile(known, [0.5, 99.5]) if known.size else (0.0, 1.0)
    return np.nan_to_num(np.clip((values - low) / max(high - low, 1e-12), 0, 1) * 255).round()


def slice_to_show(label: NDArray[Any], predictions: dict[str, NDArray[Any]]) -> tuple[Any, ...]:
    """The index that makes a slice of a volume: most label, else most prediction, else the middle."""
    if label.ndim == 2:
        return (slice(None), slice(None))
    for masks in ([label], list(predictions.values())):
        area = sum((np.count_nonzero(mask, axis=(0, 1)) for mask in masks), np.zeros(label.shape[-1], dtype=int))
        if area.any():
            return (slice(None), slice(None), int(area.argmax()))
    return (slice(None), slice(None), label.shape[-1] // 2)


def for_display(array: NDArray[Any], spatial_axes: int, axis_codes: str) -> NDArray[Any]:
    """Flips the two axes of the picture where they point to the right, the front or the head of the patient."""
    return np.flip(array, tuple(i - spatial_axes for i, code in enumerate(axis_codes[:2]) if code in "RAS"))
