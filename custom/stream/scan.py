"""One case after preprocessing, as compact tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from ..cohort.intensities import Intensities

FOREGROUND_VOXELS = 2000  # kept per class and item: enough to choose patch centres from, small beside the image

Foreground = list[dict[int, Tensor]]
"""Row-major positions of foreground voxels, ``(n,)`` int32, by class, for each item of a case."""


class Kept(Protocol):
    """A case as a bank keeps it, wherever that is. With slices the slice axis comes first: one slice is one block.

    Attributes:
        shape: of the image, ``(C, *spatial)``, or ``(Z, C, X, Y)`` with slices.
        present: ``(C,)`` bool, False for a modality that the case lacks.
        spacing_mm: of the voxels, an entry an axis; None where it is not known.
        intensities: of each channel that is there.
        foreground: where the label's classes are; empty without a label.
        bytes: of image and label.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def present(self) -> Tensor: ...
    @property
    def spacing_mm(self) -> tuple[float, ...] | None: ...
    @property
    def intensities(self) -> dict[str, Intensities]: ...
    @property
    def foreground(self) -> Foreground: ...
    @property
    def bytes(self) -> int: ...

    def voxels(self) -> tuple[Tensor, Tensor | None]:
        """Image, float16; label ``(*spatial)`` or ``(Z, X, Y)``, uint8, or None."""

    def whole(self) -> tuple[Tensor, Tensor | None]:
        """The same where all of it is read: their checksum is compared, once a run, and a damaged scan made anew."""

    def soon(self, plane: int, box: Sequence[slice]) -> None:
        """Say that a box of the spatial axes, of one slice or (-1) of all, is read next: it can be on its way."""

    def digest(self) -> str:
        """SHA-256 of shapes and values."""


@dataclass
class Scan:
    """A :class:`Kept` case in memory."""

    image: Tensor
    label: Tensor | None
    present: Tensor
    spacing_mm: tuple[float, ...] | None = None
    intensities: dict[str, Intensities] = field(default_factory=dict)
    foreground: Foreground = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.image.shape)

    @property
    def bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in self._tensors())

    def voxels(self) -> tuple[Tensor, Tensor | None]:
        return self.image, self.label

    def whole(self) -> tuple[Tensor, Tensor | None]:
        return self.image, self.label

    def soon(self, plane: int, box: Sequence[slice]) -> None:
        """It is there."""

    def digest(self) -> str:
        state = hashlib.sha256()
        for tensor in self._tensors():
            state.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
            state.update(tensor.cpu().contiguous().numpy().data)
        return state.hexdigest()

    def to(self, device: torch.device) -> Scan:
        label = None if self.label is None else self.label.to(device)
        return replace(self, image=self.image.to(device), label=label)

    def _tensors(self) -> list[Tensor]:
        return [self.image] if self.label is None else [self.image, self.label]


def foreground_table(label: Tensor, slices: bool, limit: int = FOREGROUND_VOXELS) -> Foreground:
    """Row-major positions of up to ``limit`` foreground voxels of each item and class, evenly spaced among all of them.

    Args:
        label: ``(*spatial)``, or ``(Z, X, Y)`` with ``slices``, where each of the Z slices is an item.
    """
    planes = label if slices else label[None]
    where = planes.flatten().nonzero().squeeze(1)
    area = planes[0].numel()
    key = where // area * 256 + planes.flatten()[where]  # one number for item and class
    order = key.argsort(stable=True)
    keys, counts = key[order].unique_consecutive(return_counts=True)
    table: Foreground = [{} for _ in planes]
    for both, positions in zip(keys.tolist(), (where % area)[order].split(counts.tolist()), strict=True):
        kept = min(limit, len(positions))
        table[both // 256][both % 256] = positions[torch.arange(kept) * len(positions) // kept].int()
    return table
