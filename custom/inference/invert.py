"""Logits back on the grid of their image, without the steps of the network's coarser one.

Named in configs as ``{_target_: scripts.inference.invert.InvertLogitsd, keys: pred, transform: '@preprocessing', ...}``.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from monai.data import MetaTensor
from monai.transforms import Invertd
from monai.utils import ensure_tuple

IN_BLOCKS = ("area", "nearest", "nearest-exact")  # enlarge a pixel to a block


class InvertLogitsd(Invertd):
    """MONAI's ``Invertd`` with ``nearest_interp: false``, which enlarges with the mode that shrank the image: ``area``,
    right for shrinking, makes stairs of a mask. What was resized so is enlarged (bi-, tri-)linearly here; all else is
    MONAI's."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        images = {key: data[key] for key in ensure_tuple(self.orig_keys) if isinstance(data.get(key), MetaTensor)}
        smooth = {
            key: MetaTensor(image.as_tensor(), meta=image.meta, applied_operations=linear(image.applied_operations))
            for key, image in images.items()
        }
        return {**super().__call__({**data, **smooth}), **images}


def linear(operations: Any) -> Any:
    """What was applied, with another mode where it makes blocks. MONAI takes ``bilinear`` for its form in 3D as well."""
    if isinstance(operations, Mapping):
        return {
            key: "bilinear" if key == "mode" and isinstance(value, str) and value in IN_BLOCKS else linear(value)
            for key, value in operations.items()
        }
    return (
        [linear(item) for item in operations]
        if isinstance(operations, Sequence) and not isinstance(operations, str)
        else operations
    )
