"""Intensities scaled between two percentiles, also of a scan that is one value nearly all over.

Named in configs as ``{_target_: scripts.cohort.scaling.ScalePercentilesd, keys: image, lower: 0.5, upper: 99.5, ...}``.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, ScaleIntensityRange, ScaleIntensityRangePercentiles
from monai.transforms.utils_pytorch_numpy_unification import percentile
from monai.utils import convert_to_tensor
from numpy.typing import NDArray
from torch import Tensor

from .mapped import release_pages
from .percentiles import percentiles

AT_ONCE = 2**22  # voxels that are scaled at once
COPIED = 10**6  # voxels of which percentiles are taken of a copy: MONAI's own are others up to there


class ScalePercentiles(ScaleIntensityRangePercentiles):
    """MONAI's transform, except where both percentiles are one value: MONAI then leaves the intensities unscaled.

    Such a scan is that value nearly all over (background, as in a scan of a few bright voxels). It is scaled between the
    percentiles of its other voxels, a range that is widened to that value: background stays where it is in other scans.
    A scan that is one value all over becomes ``b_min``.

    Shape:
        - image ``(C, *spatial)``; returns the same, float32.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.relative:
            raise ValueError(
                "relative scaling is not for ScalePercentiles; use MONAI's ScaleIntensityRangePercentilesd"
            )

    def _normalize(self, img: Any) -> Any:
        low, high = self._range(img)
        scaler = ScaleIntensityRange(low, high, self.b_min, self.b_max, self.clip, self.dtype)
        plain: Tensor = convert_to_tensor(img, track_meta=False)
        if plain.numel() <= AT_ONCE:
            return convert_to_tensor(scaler(plain), track_meta=False)
        scaled = torch.empty(plain.shape, dtype=torch.float32)
        for before, after in zip(
            *(of.split(max(AT_ONCE * len(of) // of.numel(), 1)) for of in (plain, scaled)), strict=True
        ):
            after.copy_(scaler(before))  # plane by plane: its steps would each take a copy of the whole
        return scaled

    def scale_in_place(self, img: Tensor) -> None:
        """The same of an image ``(C, *spatial)`` that is too large for copies: float32, in the order of C."""
        for part in img if self.channel_wise else [img]:
            flat = part.view(-1)
            low, high = self._range_in_pieces(flat)
            scale_range_in_place(flat, ScaleIntensityRange(low, high, self.b_min, self.b_max, self.clip, self.dtype))

    def _range(self, img: Tensor) -> tuple[float, float]:
        low, high = (float(percentile(img, q)) for q in (self.lower, self.upper))
        if low < high:
            return low, high
        return self._widened(low, high, img[img != low])

    def _widened(self, low: float, high: float, others: Tensor) -> tuple[float, float]:
        if not others.numel():
            return low, low + 1  # any width: all of it becomes b_min
        return min(low, float(percentile(others, self.lower))), max(high, float(percentile(others, self.upper)))

    def _range_in_pieces(self, flat: Tensor) -> tuple[float, float]:
        if flat.numel() <= COPIED:
            return self._range(flat)
        low, high = percentiles(lambda: _pieces(flat), (self.lower, self.upper))
        if low < high:
            return low, high
        others = sum(int((piece != low).sum()) for piece in _pieces(flat))
        if others <= COPIED:
            left = [piece[piece != low] for piece in _pieces(flat)]
            return self._widened(low, high, torch.from_numpy(np.concatenate(left)))
        lower, upper = percentiles(lambda: (piece[piece != low] for piece in _pieces(flat)), (self.lower, self.upper))
        return min(low, lower), max(high, upper)


def scale_range_in_place(img: Tensor, scaler: ScaleIntensityRange) -> None:
    """MONAI's transform of an image that is too large for copies: float32, in the order of C."""
    for piece in img.view(-1).split(AT_ONCE):
        piece.copy_(scaler(piece))
        release_pages()


def _pieces(flat: Tensor) -> Iterator[NDArray[np.float32]]:
    for piece in flat.split(AT_ONCE // 4):
        yield piece.numpy()
        release_pages()


class ScalePercentilesd(MapTransform):
    """:class:`ScalePercentiles` of the images under ``keys``."""

    def __init__(self, keys: KeysCollection, *args: Any, allow_missing_keys: bool = False, **options: Any) -> None:
        super().__init__(keys, allow_missing_keys)
        self.scaler = ScalePercentiles(*args, **options)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        return {**data, **{key: self.scaler(data[key]) for key in self.key_iterator(dict(data))}}
