"""Which voxels and which patches of labelled crops the ranked losses compare.

Everything here is a function of the label map and a generator alone, on the CPU: the same seed picks the same voxels on
every device. A patch is a tile of the crop, a square in 2D and a cube in 3D. Tiles that reach past the crop's far edge
hold fewer voxels; no voxel is left out. Positions are places in the flattened ``(B, *spatial)`` grid.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional

_POOL = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}


@dataclass
class Gallery:
    """What is compared: P voxels in R rows of up to N.

    Args:
        positions: ``(P,)`` of the voxels, in the order of ``filled``.
        filled: ``(R, N)`` bool, the places of the rows that hold a voxel.
        labels: ``(R, N)`` of the voxels, -1 in empty places, or ``(R,)`` of the rows.
    """

    positions: Tensor
    filled: Tensor
    labels: Tensor

    def arrange(self, embeddings: Tensor) -> Tensor:
        """``(R, N, D)`` from the voxels' embeddings ``(P, D)``; 0 in empty places."""
        places = self.filled.flatten().nonzero().flatten().to(embeddings.device)
        arranged = embeddings.new_zeros(self.filled.numel(), embeddings.shape[1]).index_copy(0, places, embeddings)
        return arranged.reshape(*self.filled.shape, embeddings.shape[1])


class IntraPatch:
    """Voxels round the boundaries: from each patch that holds more than one class, some of every class in it.

    Of each class at most ``pixels`` are taken at random, those first that have a voxel of another class within
    ``radius``.

    Args:
        tile: side of a patch in voxels; None is an eighth of the crop's shortest side, at least 2.
        pixels: n, voxels a class and patch.
        radius: r, in voxels.
        max_tiles: patches a step; where there are more, so many are drawn at random. It bounds time and memory.

    Raises:
        ValueError: ``tile`` below 2, ``pixels`` or ``max_tiles`` below 1, ``radius`` below 0.
    """

    def __init__(self, tile: int | None = None, pixels: int = 32, radius: float = 3, max_tiles: int = 256) -> None:
        _check_tile(tile)
        if pixels < 1 or max_tiles < 1 or radius < 0:
            raise ValueError(
                "expected pixels and max_tiles of at least 1 and a radius of at least 0, got "
                f"pixels {pixels}, max_tiles {max_tiles}, radius {radius}"
            )
        self.tile, self.pixels, self.radius, self.max_tiles = tile, pixels, radius, max_tiles

    def __call__(self, label: Tensor, generator: Generator) -> Gallery:
        """Cut labels ``(B, 1, *spatial)`` into patches: a row a patch, labels by voxel."""
        label = label[:, 0].cpu()
        positions = tiles(label.shape, tile_side(label.shape[1:], self.tile)).flatten(0, -2)  # (T, V)
        classes = _at(label, positions, outside=-1)
        mixed = classes.amax(dim=1) > torch.where(classes < 0, classes.amax(dim=1, keepdim=True), classes).amin(dim=1)
        chosen = mixed.nonzero().flatten()
        if len(chosen) > self.max_tiles:
            chosen = chosen[torch.randperm(len(chosen), generator=generator)[: self.max_tiles]]
        positions, classes = positions[chosen], classes[chosen]
        near = _at(near_boundary(label, self.radius), positions, outside=False)
        return self._choose(positions, classes, near, generator)

    def _choose(self, positions: Tensor, classes: Tensor, near: Tensor, generator: Generator) -> Gallery:
        """The first ``pixels`` of each class and row in the order: near a boundary, then by chance."""
        last = int(classes.max()) + 1 if classes.numel() else 0
        classes = classes.masked_fill(classes < 0, last)  # empty places sort behind all classes
        chance = torch.rand(classes.shape, generator=generator, dtype=torch.float64)
        order = (2 * classes + ~near + chance).argsort(dim=1)  # by class, near before far, by chance
        positions, classes = positions.gather(1, order), classes.gather(1, order)
        rank = torch.arange(classes.shape[1]) - torch.searchsorted(classes, classes)  # within the class
        kept = (rank < self.pixels) & (classes < last)
        longest = int(kept.sum(dim=1).max()) if len(kept) else 0
        front = (~kept).to(torch.uint8).argsort(dim=1, stable=True)[:, :longest]  # kept ones to the front
        labels = classes.masked_fill(~kept, -1).gather(1, front)
        return Gallery(positions.gather(1, front)[labels >= 0], labels >= 0, labels)


class InterPatch:
    """Whole patches of one class, from all crops of the batch: foreground ones, and as many of background.

    A patch belongs to the foreground class that covers at least ``share`` of it; it is background if no voxel of it is
    foreground; mixed ones are left out. A class that is in a crop but covers that much of none of its patches is
    represented by the patch with most of its voxels, of which these alone count. Background patches are drawn at
    random, as many as there are foreground ones, half of them (rounded up) among the neighbours of those: the eight
    adjoining patches, 26 in 3D. Where one half has too few, the other fills in.

    Args:
        tile: side of a patch in voxels; None is an eighth of the crop's shortest side, at least 2.
        share: in (0.5, 1], so that a patch belongs to one class.

    Raises:
        ValueError: ``tile`` below 2, ``share`` outside (0.5, 1].
    """

    def __init__(self, tile: int | None = None, share: float = 0.75) -> None:
        _check_tile(tile)
        if not 0.5 < share <= 1:
            raise ValueError(f"share is in (0.5, 1], got {share}")
        self.tile, self.share = tile, share

    def __call__(self, label: Tensor, generator: Generator) -> Gallery:
        """Cut labels ``(B, 1, *spatial)`` into patches: a row a patch, labels by row, foreground first."""
        label = label[:, 0].cpu()
        grid = tiles(label.shape, tile_side(label.shape[1:], self.tile))  # (B, *grid, V)
        classes = _at(label, grid, outside=-1)
        counts = torch.stack([(classes == k).sum(dim=-1) for k in range(int(label.max()) + 1)], dim=-1)
        voxels = (grid >= 0).sum(dim=-1)  # (B, *grid)
        filled = counts[..., 1:] >= self.share * voxels[..., None]  # (B, *grid, K - 1)
        fullest = _fullest(counts[..., 1:], ~filled.flatten(1, -2).any(dim=1))
        near, far = self._background(counts[..., 0] == voxels, (filled | fullest).any(dim=-1))
        near, far = (rows[torch.randperm(len(rows), generator=generator)] for rows in (near, far))
        wanted = int(filled.sum() + fullest.sum())
        close = min(len(near), max(math.ceil(wanted / 2), wanted - len(far)))
        background = torch.cat([near[:close], far[: wanted - close]])

        grid, classes = grid.flatten(0, -2), classes.flatten(0, -2)  # (T, V)
        whole, whole_class = filled.flatten(0, -2).nonzero().T
        part, part_class = fullest.flatten(0, -2).nonzero().T
        chosen = torch.cat([whole, part, background])
        inside = grid[chosen] >= 0
        inside[len(whole) : len(whole) + len(part)] &= classes[part] == part_class[:, None] + 1
        labels = torch.cat([whole_class + 1, part_class + 1, torch.zeros_like(background)])
        return Gallery(grid[chosen][inside], inside, labels)

    @staticmethod
    def _background(empty: Tensor, foreground: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of the background patches that adjoin a foreground one, and of the others; both ``(B, *grid)``."""
        around = _POOL[foreground.dim() - 1](foreground[:, None].float(), 3, stride=1, padding=1)[:, 0] > 0
        return tuple((empty & side).flatten().nonzero().flatten() for side in (around, ~around))  # type: ignore[return-value]


def tile_side(spatial: Sequence[int], tile: int | None = None) -> int:
    """Side of a patch of a crop: ``tile``, or an eighth of the shortest side, at least 2 voxels."""
    return max(2, min(spatial) // 8) if tile is None else tile


def tiles(shape: Sequence[int], side: int) -> Tensor:
    """``(B, *grid, side ** D)`` positions of every tile's voxels in ``shape`` = (B, *spatial); -1 past the edge."""
    batch, *spatial = shape
    positions = torch.arange(math.prod(shape)).reshape(*shape)
    padding = [n for extent in reversed(spatial) for n in (0, -extent % side)]
    positions = functional.pad(positions, padding, value=-1)
    grid = [extent // side for extent in positions.shape[1:]]
    dims = len(grid)
    positions = positions.reshape(batch, *[n for count in grid for n in (count, side)])  # (B, g1, s, g2, s, ..)
    positions = positions.permute(0, *range(1, 2 * dims, 2), *range(2, 2 * dims + 1, 2))  # (B, g1, g2, .., s, s, ..)
    return positions.reshape(batch, *grid, side**dims)


def near_boundary(label: Tensor, radius: float) -> Tensor:
    """``(B, *spatial)``: whether a voxel of another class lies within ``radius`` voxels, in straight line."""
    label = label.to(torch.int16)
    near = torch.zeros_like(label, dtype=torch.bool)
    for offset in _half_ball(radius, label.dim() - 1):
        here, there = _shifted(label.shape[1:], offset, -1), _shifted(label.shape[1:], offset, 1)
        differ = label[here] != label[there]
        near[here] |= differ
        near[there] |= differ
    return near


def _shifted(spatial: Sequence[int], offset: Sequence[int], sign: int) -> tuple[slice, ...]:
    """What remains of the grid when ``sign * offset`` is cut off: the voxels that have a partner at the offset."""
    moves = [(sign * step, extent) for step, extent in zip(offset, spatial, strict=True)]
    return (slice(None), *(slice(max(move, 0), max(extent + min(move, 0), 0)) for move, extent in moves))


def _half_ball(radius: float, dims: int) -> list[tuple[int, ...]]:
    """Whole-number offsets within ``radius``, one of each opposite pair."""
    reach = range(-int(radius), int(radius) + 1)
    origin = (0,) * dims
    return [o for o in itertools.product(reach, repeat=dims) if o > origin and sum(n * n for n in o) <= radius**2]


def _fullest(counts: Tensor, without: Tensor) -> Tensor:
    """``(B, *grid, K)`` bool: the patch with most voxels of each class, for the crops and classes in ``without`` (B, K)
    that have a voxel at all."""
    flat = counts.flatten(1, -2)  # (B, T, K)
    wanted = without & (flat.sum(dim=1) > 0)
    chosen = torch.zeros_like(flat, dtype=torch.bool).scatter_(1, flat.argmax(dim=1, keepdim=True), wanted[:, None])
    return chosen.reshape(counts.shape)


def _at(values: Tensor, positions: Tensor, outside: int | bool) -> Tensor:
    return values.flatten()[positions.clamp(min=0)].masked_fill(positions < 0, outside)


def _check_tile(tile: int | None) -> None:
    if tile is not None and tile < 2:
        raise ValueError(f"tile is the side of a patch in voxels, at least 2, got {tile}")
