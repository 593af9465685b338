"""Whether a scan can be resampled to a task's spacing, and its result back: told before it is tried, from the header alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..memory import physical_memory
from .facts import Facts
from .formats.opened import by

MOST = 64  # times as many voxels as the scan has
FLAT = 8  # voxels of an axis that may not become a single one
FLOAT_BYTES = 4
REMEDY = "Correct the voxel sizes, or their unit, in its header, or set spacing_mm in the task to what the scans are"


@dataclass(frozen=True)
class Size:
    """What a scan takes: its first file, channels, voxels on its own grid and along each axis as the network sees it; whether its
    files can be read in slabs."""

    file: str
    channels: int
    own: int
    seen: tuple[int, ...]
    streamed: bool = False


def resampled_shape(
    shape: Sequence[int], spacing_mm: Sequence[float], wanted_mm: Sequence[float] | float
) -> tuple[int, ...]:
    """Voxels along each axis after MONAI's ``Spacing``: a size that is not above 0 keeps its axis, the last one also
    holds for the axes after it."""
    wanted = np.atleast_1d(wanted_mm).tolist()
    wanted += wanted[-1:] * len(shape)
    return tuple(
        round((length - 1) * size / new + 1) if new > 0 else length
        for length, size, new in zip(shape, spacing_mm, wanted, strict=False)
    )


def unfit(found: Facts, wanted_mm: Sequence[float] | float, volumes: int, memory_bytes: float | None = None) -> str:
    """What is wrong with resampling a scan, in a sentence that lacks the scan's name; empty where it can be done.

    Args:
        volumes: that are held as float32 at once: channels and classes.
        memory_bytes: of the machine; None asks it.
    """
    shape = resampled_shape(found.shape, found.spacing_mm, wanted_mm)
    factor = math.prod(shape) / math.prod(found.shape)
    needed, memory = math.prod(shape) * FLOAT_BYTES * volumes, memory_bytes or physical_memory()
    if factor > MOST:
        why = f"{factor:.3g} times as many, more than {MOST}"
    elif needed > memory:
        why = f"more than this machine's {gigabytes(memory)} of memory"
    elif any(before >= FLAT and after == 1 for before, after in zip(found.shape, shape, strict=True)):
        why = "nothing to be seen"
    else:
        return ""
    target, size = by(np.atleast_1d(wanted_mm).tolist()), f"{gigabytes(needed)} for channels and classes"
    return (f"has {by(found.shape)} voxels of {by(found.spacing_mm)} mm; resampled to spacing_mm {target} it would have "
            f"{by(shape)} ({size}): {why}. {REMEDY}")  # fmt: skip


def bytes_at_once(size: Size, classes: int) -> float:
    """Memory that a scan takes while its logits, all of them at once, are brought back to its own grid: with the image as the
    network sees it, the logits there, and what undoing the resampling copies. Measured with the transforms of the tasks here."""
    own, seen, k = size.own, math.prod(size.seen), classes
    back = 8 * k * seen + (12 * k + 24) * own if own != seen else 4 * k * own
    return FLOAT_BYTES * (size.channels + k + 1) * seen + back + 12 * own


def unfit_back(
    found: Facts, seen: Sequence[int], channels: int, classes: int, memory_bytes: float | None = None
) -> str:
    """What is wrong with bringing a scan's result back to its own grid, in a sentence that lacks the scan's name; empty where
    it can be done.

    Args:
        seen: voxels along each axis as the network sees it.
        channels: of the network.
        classes: whose logits are float32 on both grids, all of them at once.
        memory_bytes: of the machine; None asks it.
    """
    needed = bytes_at_once(Size("", channels, math.prod(found.shape), tuple(seen)), classes)
    memory = memory_bytes or physical_memory()
    if needed <= memory:
        return ""
    return (f"has {by(found.shape)} voxels: bringing its result back to this grid takes {gigabytes(needed)} for {classes} "
            f"classes, more than this machine's {gigabytes(memory)} of memory. Store the scan with larger voxels or cut it, or "
            "take a machine with more memory")  # fmt: skip


def gigabytes(number: float) -> str:
    """``57.6 GB``, of bytes."""
    return f"{number / 1e9:.3g} GB"
