"""Where the voxels of a phantom are, and noise over them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

Array = np.ndarray
Random = np.random.Generator


@dataclass(frozen=True)
class Grid:
    """Where the voxels are, in mm from the middle of the field of view; axes broadcast to ``(X, Y, Z * thick)``.

    A slice is ``thick`` thin sheets whose mean is taken at the end: that is the partial volume along the last axis.
    In the plane it is the soft edge of :meth:`inside`, one voxel wide.
    """

    size: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    thick: int

    def axes(self) -> tuple[Array, Array, Array]:
        """x ``(X, 1, 1)``, y ``(1, Y, 1)`` and z ``(1, 1, Z * thick)`` in mm."""
        counts = (self.size[0], self.size[1], self.size[2] * self.thick)
        steps = (self.spacing_mm[0], self.spacing_mm[1], self.spacing_mm[2] / self.thick)
        x, y, z = ((np.arange(n, dtype=np.float32) - (n - 1) / 2) * s for n, s in zip(counts, steps, strict=True))
        return x[:, None, None], y[None, :, None], z[None, None, :]

    def inside(self, distance_mm: Array) -> Array:
        """Covered fraction of a voxel whose centre is ``distance_mm`` outside (negative: inside) an edge."""
        return np.clip(0.5 - distance_mm / self.spacing_mm[0], 0, 1).astype(np.float32)

    def slices(self, sheets: Array) -> Array:
        """Mean over the sheets of each slice: ``(X, Y, Z * thick)`` to ``(X, Y, Z)``."""
        full = np.broadcast_to(sheets, (*self.size[:2], self.size[2] * self.thick))
        return full.reshape(*self.size, self.thick).mean(axis=-1)


def smooth_noise(random: Random, size: tuple[int, ...], sigma: float | tuple[float, ...]) -> Array:
    """Gaussian noise of zero mean and unit deviation, smoothed over ``sigma`` voxels."""
    noise = gaussian_filter(random.standard_normal(size, dtype=np.float32), sigma, truncate=2.5, mode="wrap")
    return (noise - noise.mean()) / (noise.std() + 1e-6)
