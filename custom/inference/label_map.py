"""Turns logits on the network's grid into the values of label files on the image's own.

Named in configs as ``{_target_: scripts.inference.label_map.LabelMapd, transform: '@preprocessing', label_values:
'@label_values'}``.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import AsDiscreted, Compose, Invertd, MapLabelValued, MapTransform, Spacingd
from monai.utils import TraceKeys
from torch import Tensor

from .invert import InvertLogitsd, linear
from .slab_resampling import SlabResampling
from .slabs import LogitSlabs

COPIES = (
    "Orientation",
    "Flip",
    "Rotate90",
    "SpatialPad",
    "BorderPad",
    "Pad",
    "SpatialCrop",
    "CenterSpatialCrop",
    "CropForeground",
)
"""Transforms that move voxels and compute none: their way back is the same for logits and for classes."""


class LabelMapd(MapTransform):
    """The class of each voxel under ``pred``, from logits that are first brought back to the grid of ``image``.

    Logits of the whole take the way of MONAI's transforms (``Invertd``, ``AsDiscreted``, ``MapLabelValued``). Of
    :class:`.slabs.LogitSlabs` each slab is resampled and decided before the next is computed.

    Args:
        transform: that made the network's image of the file.
        label_values: of the classes, in their order.

    Shape:
        - pred: logits ``(K, *spatial)``; becomes ``(1, *spatial)`` on the image's own grid.
    """

    def __init__(self, transform: Compose, label_values: Sequence[int]) -> None:
        super().__init__("pred")
        self.transform, self.values = transform, list(label_values)
        self.whole = Compose([
            InvertLogitsd("pred", transform, "image", nearest_interp=False, to_tensor=True),
            AsDiscreted("pred", argmax=True),
            MapLabelValued("pred", list(range(len(self.values))), self.values),
        ])  # fmt: skip

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        if isinstance(data["pred"], LogitSlabs):
            return {**data, "pred": self._of_slabs(data["pred"], data["image"])}
        return self.whole(data)  # type: ignore[return-value]

    def _of_slabs(self, logits: LogitSlabs, image: MetaTensor) -> MetaTensor:
        resampled = resampling(image, logits.axis)
        shape = resampled.shape if resampled else logits.spatial
        classes = _decided(resampled(logits.slabs()) if resampled else logits.slabs(), shape, logits.axis, self.values)
        steps = self.transform.flatten().transforms
        operations = image.applied_operations[:-1] if resampled else image.applied_operations
        meta = deepcopy(image.meta)
        if resampled:
            meta["affine"] = image.applied_operations[-1][TraceKeys.EXTRA_INFO]["src_affine"]
        carrier = MetaTensor(torch.zeros(1, *[1] * len(shape)), meta=meta, applied_operations=operations)
        back = Compose([step for step in steps if not (resampled and isinstance(step, Spacingd))])
        invert = Invertd("pred", back, "image", nearest_interp=True, to_tensor=True)
        return invert({"image": carrier, "pred": MetaTensor(classes)})["pred"]


def in_slabs(image: MetaTensor) -> bool:
    """Whether the way back of an image's result can be gone slab by slab: at most one resampling, the last of what was done."""
    *before, last = [str(operation[TraceKeys.CLASS_NAME]) for operation in image.applied_operations] or [COPIES[0]]
    if any(name not in COPIES for name in before):
        return False
    return last in COPIES or (last == "SpatialResample" and isinstance(_info(image)["mode"], str))


def resampling(image: MetaTensor, axis: int) -> SlabResampling | None:
    """The way back through the last of what was done, where that is a resampling."""
    operations = image.applied_operations
    if not operations or operations[-1][TraceKeys.CLASS_NAME] != "SpatialResample":
        return None
    return SlabResampling.back(linear(operations[-1]), image, axis)


def _info(image: MetaTensor) -> Mapping[str, Any]:
    return image.applied_operations[-1][TraceKeys.EXTRA_INFO]


def _decided(slabs: Any, shape: Sequence[int], axis: int, values: Sequence[int]) -> Tensor:
    """The value of the largest logit, ``(1, *shape)``, in the smallest number format that torch turns and pads."""
    kind = torch.uint8 if min(values) >= 0 and max(values) < 256 else torch.int32
    table, found, done = torch.tensor(values, dtype=kind), torch.empty((1, *shape), dtype=kind), 0
    for slab in slabs:
        for plane in slab.split(1, 1 + axis):
            found.narrow(1 + axis, done, 1).copy_(table[plane.argmax(dim=0, keepdim=True).cpu()])
            done += 1
    return found
