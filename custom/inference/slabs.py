"""Logits of a scan slab by slab: those of all its voxels and classes never exist at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from monai.data.utils import compute_importance_map, dense_patch_slices, get_valid_patch_size
from monai.inferers import SliceInferer, SlidingWindowInferer
from monai.networks.utils import eval_mode
from monai.utils import PytorchPadMode, ensure_tuple_rep, fall_back_tuple, look_up_option
from torch import Tensor, nn

from ..pace import shown

EVERY_S = 60.0  # between two lines of a log


class LogitSlabs:
    """What a sliding-window inferer of MONAI makes of an image, in slabs along one axis.

    Windows, their order along that axis, weights and sums are the inferer's, which cannot hand out what is done: its
    buffers (``buffer_steps``) end in a tensor of the whole, and MONAI's mergers know no weights. Along the first axis
    the logits are those of the inferer; along another one they are too, except for the order of the sums.

    Args:
        image: ``(1, C, *spatial)``, on the device of the network.
        network: gives ``(B, K, *window)`` for ``(B, C, *window)``.
        inferer: whose windows are taken.
        axis: spatial, along which slabs are cut; None: that of the thinnest slab in relation to the image.
        name: of the scan, in lines that say how far it is.

    Shape:
        - slabs: ``(K, *spatial)`` except for ``axis``, whose length differs.
    """

    ndim = 0  # with item(): how MONAI's decollate_batch takes a thing for one that it leaves as it is

    def item(self) -> LogitSlabs:
        return self

    def __init__(
        self,
        image: Tensor,
        network: nn.Module,
        inferer: SlidingWindowInferer,
        axis: int | None = None,
        name: str = "scan",
    ) -> None:
        self.image, self.network, self.inferer, self.name = torch.as_tensor(image), network, inferer, name
        self.spatial = tuple(image.shape[2:])
        self.roi = window(inferer, self.spatial)
        self.axis = slab_axis(self.roi, self.spatial) if axis is None else axis
        self.watchers: list[Callable[[Tensor], None]] = []
        """Are called with each slab."""

    def slabs(self) -> Iterator[Tensor]:
        """The slabs in their order along :attr:`axis`; each is computed when it is asked for."""
        sums: Tensor | None = None
        margins = [(max(roi - length, 0) // 2, length) for roi, length in zip(self.roi, self.spatial, strict=True)]
        done, weights = 0, self._weights()
        for place, logits in self._windows():
            start = place[self.axis].start
            if sums is None:
                shape = [max(roi, length) for roi, length in zip(self.roi, self.spatial, strict=True)]
                shape[self.axis] = self.roi[self.axis]
                sums = logits.new_zeros((len(logits) + 1, *shape), dtype=self.image.dtype)  # the last one: of weights
            if start > done:
                yield self._finished(sums, start - done, done, margins)
                sums, done = self._moved(sums, start - done), start
            here = (
                slice(None),
                *(slice(p.start - done, p.stop - done) if a == self.axis else p for a, p in enumerate(place)),
            )
            sums[:-1][here] += logits * weights
            sums[-1:][here] += weights
        assert sums is not None
        yield self._finished(sums, self.roi[self.axis], done, margins)

    def _finished(self, sums: Tensor, count: int, done: int, margins: list[tuple[int, int]]) -> Tensor:
        """The first ``count`` planes, which no later window reaches, without what pads a small image."""
        for axis, (before, length) in enumerate(margins):
            first, last = (before, before + length) if axis != self.axis else (max(before - done, 0), count)
            last = min(last, before + length - done) if axis == self.axis else last
            sums = sums.narrow(1 + axis, first, last - first)
        slab = sums[:-1] / sums[-1:]
        for watch in self.watchers:
            watch(slab)
        return slab

    def _moved(self, sums: Tensor, count: int) -> Tensor:
        """What is left when the first planes are finished, moved to the front."""
        kept = max(self.roi[self.axis] - count, 0)
        if kept:
            sums.narrow(1 + self.axis, 0, kept).copy_(sums.narrow(1 + self.axis, count, kept).clone())
        sums.narrow(1 + self.axis, kept, self.roi[self.axis] - kept).zero_()
        return sums

    def _windows(self) -> Iterator[tuple[tuple[slice, ...], Tensor]]:
        """Each window's place in the padded image, and its logits ``(K, *window)``."""
        size = tuple(max(roi, length) for roi, length in zip(self.roi, self.spatial, strict=True))
        overlap = ensure_tuple_rep(self.inferer.overlap, len(size))
        steps = [r if r == s else max(int(r * (1 - o)), 1) for r, s, o in zip(self.roi, size, overlap, strict=True)]
        places = sorted(dense_patch_slices(size, self.roi, steps), key=lambda place: place[self.axis].start)
        count = self.inferer.sw_batch_size
        batches = [places[first : first + count] for first in range(0, len(places), count)]
        for batch in shown(batches, self.name, len(batches), "batch of windows", every_s=EVERY_S):
            with eval_mode(self.network):
                logits = predict(self.inferer, self.network, torch.cat([self._cut(place) for place in batch]))
            yield from zip(batch, logits, strict=True)

    def _cut(self, place: tuple[slice, ...]) -> Tensor:
        """``(1, C, *window)``; an image that is smaller than the window along an axis is padded there as MONAI does it."""
        inside: list[slice] = []
        pad: list[int] = []
        for part, roi, length in zip(place, self.roi, self.spatial, strict=True):
            before = max(roi - length, 0) // 2
            inside.append(slice(max(part.start - before, 0), min(part.stop - before, length)))
            pad = [before, max(roi - length, 0) - before, *pad]
        cut = self.image[(slice(None), slice(None), *inside)]
        mode = look_up_option(self.inferer.padding_mode, PytorchPadMode)
        return F.pad(cut, pad, mode=mode, value=self.inferer.cval) if any(pad) else cut

    def _weights(self) -> Tensor:
        """``(1, *window)``."""
        how: Any = self.inferer
        patch = get_valid_patch_size(self.roi, self.roi)
        options = {"sigma_scale": how.sigma_scale, "device": self.image.device, "dtype": self.image.dtype}
        return compute_importance_map(patch, mode=how.mode, **options)[None]


def predict(inferer: SlidingWindowInferer, network: nn.Module, windows: Tensor) -> Tensor:
    """Logits ``(B, K, *window)`` of windows ``(B, C, *window)``, as the inferer asks for them."""
    if isinstance(inferer, SliceInferer):
        return inferer.network_wrapper(network, windows)  # type: ignore[return-value]
    return network(windows)


def window(inferer: SlidingWindowInferer, spatial: tuple[int, ...]) -> tuple[int, ...]:
    """The size of a window on an image of so many voxels, as the inferer has it."""
    roi: Any = inferer.roi_size
    if isinstance(inferer, SliceInferer):
        roi = list(inferer.orig_roi_size)
        roi.insert(inferer.spatial_dim, 1)
    return tuple(fall_back_tuple(roi, spatial))


def slab_axis(roi: tuple[int, ...], spatial: tuple[int, ...]) -> int:
    """The axis across which a slab of windows is the smallest part of the image; of equal ones the first."""
    return min(range(len(roi)), key=lambda axis: roi[axis] / spatial[axis])
