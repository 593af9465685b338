"""Logits resampled slab by slab, as MONAI's ``SpatialResample`` resamples them at once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.data.utils import AFFINE_TOL, to_affine_nd
from monai.networks.layers import AffineTransform
from monai.transforms.utils import resolves_modes
from monai.utils import TraceKeys, convert_to_numpy, get_torch_dtype_from_string
from torch import Tensor

VOXELS = 2**18  # of a plane or several that are resampled at once, if a single one has not more


class SlabResampling:
    """Resamples slabs from one grid to another.

    Args:
        info: of a ``SpatialResample`` in the operations of an image: how it interpolates.
        before, shape: spatial, of what comes and of the result.
        source, target: their affines.
        axis: spatial, along which slabs are cut.
    """

    def __init__(
        self, info: Mapping[str, Any], before: Sequence[int], source: Any, shape: Sequence[int], target: Any, axis: int
    ) -> None:
        rank = len(before)
        source, target = (to_affine_nd(rank, convert_to_numpy(a)) for a in (source, target))
        self.axis, self.before = axis, tuple(int(length) for length in before)
        self.shape = tuple(int(length) for length in shape)
        self.mapping = np.linalg.solve(
            source.astype(float), target.astype(float)
        )  # voxel of the result to voxel of the image
        near = (
            np.allclose(source, target, atol=AFFINE_TOL),
            np.allclose(self.mapping, np.eye(rank + 1), atol=AFFINE_TOL),
        )
        self.unchanged = self.before == self.shape and any(near)
        corners = info["align_corners"]
        _, mode, padding, _ = resolves_modes(info["mode"], info["padding_mode"])
        self._transform = AffineTransform(normalized=False, mode=mode, padding_mode=padding, reverse_indexing=True,
                                          align_corners=False if corners == TraceKeys.NONE else corners)  # fmt: skip
        self._dtype = get_torch_dtype_from_string(info["dtype"])

    @classmethod
    def back(cls, operation: Mapping[str, Any], image: MetaTensor, axis: int) -> SlabResampling:
        """The resampling from a network's grid back to the one before it was resampled.

        Args:
            operation: what was applied to the image, a ``SpatialResample`` in its ``applied_operations``.
            image: after it, ``(C, *spatial)``.
        """
        info = operation[TraceKeys.EXTRA_INFO]
        shape = operation[TraceKeys.ORIG_SIZE]
        return cls(info, image.shape[1:], image.affine, shape, info["src_affine"], axis)

    def __call__(self, slabs: Iterator[Tensor]) -> Iterator[Tensor]:
        """Consecutive slabs ``(K, *spatial)`` of the image's grid to consecutive slabs of the result's, float32."""
        if self.unchanged:
            yield from slabs
            return
        held, first, done = torch.empty(0), 0, 0  # planes of the image, where they begin; planes that are given
        for slab in slabs:
            held = torch.cat([held, slab], dim=1 + self.axis) if held.numel() else slab
            there = first + held.shape[1 + self.axis]
            while done < self.shape[self.axis]:
                stop = min(done + self.at_once, self.shape[self.axis])
                low, high = self.needs(done, stop)
                if high > there:
                    break
                yield self._resampled(held.narrow(1 + self.axis, low - first, high - low), low, done, stop)
                done = stop
            low = self.needs(done, min(done + 1, self.shape[self.axis]))[0] if done < self.shape[self.axis] else there
            if low > first:
                held, first = held.narrow(1 + self.axis, low - first, there - low).clone(), low

    @property
    def at_once(self) -> int:
        """Planes of the result that are computed at once."""
        return max(VOXELS * self.shape[self.axis] // math.prod(self.shape), 1)

    def needs(self, start: int, stop: int) -> tuple[int, int]:
        """Planes of the image, from and to, of which planes ``start`` to ``stop`` of the result are interpolated."""
        ends = [(0, length - 1) for length in self.shape]
        ends[self.axis] = (start, stop - 1)
        places = [float(self.mapping[self.axis] @ (*corner, 1)) for corner in itertools.product(*ends)]
        last = self.before[self.axis] - 1
        low, high = (min(max(math.floor(place), 0), last) for place in (min(places) - 1e-6, max(places) + 1e-6))
        return low, min(high + 1, last) + 1

    def _resampled(self, held: Tensor, low: int, start: int, stop: int) -> Tensor:
        size = [*self.shape]
        size[self.axis] = stop - start
        theta = torch.as_tensor(_shift(-low, self) @ self.mapping @ _shift(start, self)).to(held.device, self._dtype)
        return self._transform(held.to(self._dtype)[None], theta=theta, spatial_size=size)[0].float()


def _shift(count: int, of: SlabResampling) -> np.ndarray:
    matrix = np.eye(len(of.shape) + 1)
    matrix[of.axis, -1] = count
    return matrix
