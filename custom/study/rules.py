"""The numbers of a task file by rules over what was seen of the scans, each with its reason.

A patch as large as the field, and a field that is seen whole, are worth more than any method: so the grid is as coarse
as it takes for a patch that two processor cores carry to see most of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..cohort.case import THICK
from ..cohort.resampling import resampled_shape
from ..cohort.words import plural
from .places import sides
from .seen import Seen

FLAT = 3.0  # times the pixel: slices so far apart have little to say of each other
FEW_SLICES, FLAT_SIZE = 32, 4  # where spacing is nominal: slices, and pixels of the shorter side for each slice
PATCH = {2: 224 * 224, 3: 200_000}  # voxels that two cores carry
SHARE = 2 / 3  # of the median scan, that a patch should see
KEPT = {2: 45, 3: 300}  # pixels, voxels that the smallest class keeps on a coarser grid: some 6.7 across in each
COARSEST = 3.0  # times the scans' own spacing
LITTLE = 1.05  # times: not worth resampling a scan
LONG_SIDE = 192  # pixels of a picture
STEP = 16  # of a picture's sides
PIECES = 9  # patches' worth of voxels that a picture may have for the sake of its smallest class
SQUASHED = 1.25  # times that a picture's one side may be drawn out against the other
LEVELS = {2: 5, 3: 4}
LOWEST = {2: 6, 3: 4}  # voxels across the coarsest level
WIDEST = 256
SMALL_PATCH = 100_000  # voxels in 3D, of which four fit a batch
SLICE = 320  # pixels of a slice's side that are seen at once
DROPOUT = (0.0, 0.0, 0.1, 0.2, 0.3)


@dataclass(frozen=True)
class Number:
    """A value of a task file and why it is that."""

    value: Any
    reason: str = ""


@dataclass(frozen=True)
class Sight:
    """How finely, and how much of a scan, a patch sees.

    Args:
        spacing: millimetres.
        field: voxels of the median scan at this spacing; of pictures, those that hold each of them.
        patch: voxels.
        levels: of the network.
    """

    spacing: Number
    field: Number
    patch: list[int]
    levels: int


@dataclass(frozen=True)
class Grid:
    """What the network sees.

    Args:
        dimensions: of the network.
        slices: of volumes.
        orientation: of volumes; empty of pictures.
        size, spacing_mm: median scan, in the order of the orientation.
        why: 2D or 3D.
    """

    dimensions: int
    slices: bool
    orientation: str
    size: tuple[float, ...]
    spacing_mm: tuple[float, ...]
    why: str


def numbers(seen: Seen, room: float = 1.0) -> dict[str, Number]:
    """The numbers of a task, each with a reason, in the order of a task file; ``data_list``, ``steps`` and
    ``val_interval`` are a budget's.

    Args:
        room: times the voxels of a patch that two processor cores carry; above 1 on a GPU.

    Raises:
        ValueError: ``room`` is not above 0.
    """
    if room <= 0:
        raise ValueError(f"room is a factor above 0, got {room}")
    grid = grid_of(seen)
    sight, usual = _sight(grid, seen, room), _sight(grid, seen, 1.0)
    patch, levels = sight.patch, sight.levels
    spacing, why = sight.spacing.value, sight.spacing.reason
    why += _room_reason(room) if spacing != usual.spacing.value else ""
    why += "; slices as they are" if grid.dimensions == 2 else ""
    reason = _patch_reason(grid, sight) + (_room_reason(room) if patch != usual.patch else "")
    return {
        **_batches(grid, patch, room),
        "patch": Number(patch, reason),
        **_augmentation(grid, seen, sight),
        **({} if seen.pictures else {"spacing_mm": Number(spacing, why)}),
        **_network(grid, patch, levels, room),
        **_names(seen),
        "dimensions": Number(grid.dimensions, grid.why),
        "slices": Number(grid.slices, _slices_reason(grid)),
        "orientation": Number(grid.orientation, _orientation_reason(grid)),
        "preprocessing": _preprocessing(seen, sight),
        "inferer": _inferer(grid, patch, levels, sight.field.value),
    }


def _sight(grid: Grid, seen: Seen, room: float) -> Sight:
    spacing = _spacing(grid, seen, room)
    field = _field(grid, spacing, seen, room)
    patch, levels = patch_of(field.value, round(PATCH[grid.dimensions] * room), grid.dimensions)
    return Sight(spacing, field, patch, levels)


def scan_voxels(seen: Seen, room: float = 1.0) -> float:
    """Voxels of the median scan, of slices those of one, on the grid that :func:`numbers` plans."""
    return float(math.prod(_sight(grid_of(seen), seen, room).field.value))


def _room_reason(room: float) -> str:
    """Why it is not what two processor cores carry."""
    return " (what time and memory allow)" if room < 1 else " (a GPU carries more)"


# the grid


def grid_of(seen: Seen) -> Grid:
    """2D or 3D, and which axis comes last: the one that slices are stacked along."""
    if seen.pictures:
        return Grid(2, False, "", seen.size, seen.spacing_mm, "pictures")
    last = max(range(3), key=lambda axis: seen.spacing_mm[axis])
    nominal = seen.spacing_mm[last] < THICK * sorted(seen.spacing_mm)[1]
    if nominal:  # which axis is the thickest is an accident of rounding
        shortest = min(range(3), key=lambda axis: seen.size[axis])
        last = shortest if _few(seen.size[shortest], [n for a, n in enumerate(seen.size) if a != shortest]) else 2
    order = [axis for axis in range(3) if axis != last] + [last]
    size, spacing = (tuple(row[axis] for axis in order) for row in (seen.size, seen.spacing_mm))
    orientation = "".join("RAS"[axis] for axis in order)
    pixel, apart = math.sqrt(spacing[0] * spacing[1]), spacing[2]
    if apart >= FLAT * pixel:
        why = f"slices are {apart:.3g} mm apart, {apart / pixel:.1f} times a pixel: 2D"
        return Grid(2, True, orientation, size, spacing, why)
    if _few(size[2], size[:2]):
        why = f"{plural(round(size[2]), 'slice')} of {_by(size[:2])} pixels, whatever the spacing says: 2D"
        return Grid(2, True, orientation, size, spacing, why)
    return Grid(3, False, orientation, size, spacing, f"voxels of {_by(spacing)} mm, nearly cubic: 3D")


def _few(slices: float, pixels: Sequence[float]) -> bool:
    return slices <= FEW_SLICES and min(pixels) >= FLAT_SIZE * slices


def _orientation_reason(grid: Grid) -> str:
    if not grid.orientation:
        return "pictures stay as they are"
    if grid.orientation == "RAS":
        return "to the right, the front and the head, as is usual"
    return f"the axis {'that slices are stacked along' if grid.slices else 'with the thickest voxels'} comes last"


def _slices_reason(grid: Grid) -> str:
    if not grid.orientation:
        return "pictures have none"
    return "each is seen by itself" if grid.slices else "volumes are seen as they are"


def _spacing(grid: Grid, seen: Seen, room: float) -> Number:
    """The median scan's, square in the plane of rotations, as coarse as it takes for a patch to see its share."""
    pixel = math.sqrt(grid.spacing_mm[0] * grid.spacing_mm[1])
    axes = grid.dimensions
    own = [pixel, pixel, grid.spacing_mm[-1]][:axes]
    extent = [n * mm for n, mm in zip(grid.size[:axes], grid.spacing_mm[:axes], strict=True)]
    wanted = coarsened(extent, own, PATCH[axes] * room / SHARE)
    factor = min(wanted) / min(own)
    if factor < LITTLE:
        factor, wanted = 1.0, own
    kept = _coarser(grid, seen)
    limit = min(kept, COARSEST)
    if factor > limit:
        wanted = [max(mm, min(own) * limit) for mm in own]
    final = [float(f"{mm:.3g}") for mm in wanted]
    value = final if axes == 3 else [*final, -1]
    reason = f"median of the cohort {_by(own)} mm"
    if min(wanted) > min(own):
        why = f" so that a patch sees {SHARE:.0%} of a scan"
        if factor > limit:
            why = ", the most" if limit == COARSEST else f", as far as the smallest class allows: {_left(grid, seen)}"
        reason += f", made coarser {min(wanted) / min(own):.2g} times{why}"
    elif factor > limit:
        reason += f", not made coarser for the smallest class: {_left(grid, seen)}"
    return Number(value, reason)


def _coarser(grid: Grid, seen: Seen) -> float:
    """How many times coarser a grid may be for the smallest class to keep :data:`KEPT`; at least 1, infinite without any."""
    smallest = _smallest(grid, seen)
    return max((smallest / KEPT[grid.dimensions]) ** (1 / grid.dimensions), 1.0) if smallest > 0 else math.inf


def _smallest(grid: Grid, seen: Seen) -> float:
    """Voxels of the smallest class in what the network sees at once: a volume, a slice or a picture."""
    return seen.in_slices["RAS".index(grid.orientation[-1])] if grid.slices else seen.smallest


def _left(grid: Grid, seen: Seen, keeps: float | None = None) -> str:
    """How much there is of the smallest class, and how much is left where that is less.

    Args:
        keeps: voxels that are left; None: as many as are wanted.
    """
    smallest = _smallest(grid, seen)
    kept = KEPT[grid.dimensions] if keeps is None else keeps
    of = f"{smallest:.0f} {'voxels' if grid.dimensions == 3 else 'pixels'} {_seen_at_once(grid)}"
    return f"{kept:.0f} of its {of} stay" if smallest > kept else f"it has {of}"


def _seen_at_once(grid: Grid) -> str:
    return "a slice" if grid.slices else "a picture" if not grid.orientation else "a scan"


def coarsened(extent_mm: Sequence[float], own_mm: Sequence[float], most: float) -> list[float]:
    """The spacing at which an extent has at most ``most`` voxels: fine axes become coarser before the others do."""
    low, high = min(own_mm), max(max(own_mm), max(extent_mm))

    def spacing(finest: float) -> list[float]:
        return [max(mm, finest) for mm in own_mm]

    for _ in range(50):  # halved: to 1e-15 of the range
        middle = math.sqrt(low * high)
        voxels = math.prod(length / mm for length, mm in zip(extent_mm, spacing(middle), strict=True))
        low, high = (middle, high) if voxels > most else (low, middle)
    return spacing(high)


def _field(grid: Grid, spacing: Number, seen: Seen, room: float) -> Number:
    """Voxels of the median scan as the network sees it."""
    if not seen.pictures:
        shape = resampled_shape([round(n) for n in grid.size], grid.spacing_mm, spacing.value)
        return Number(list(shape[: grid.dimensions]), f"of {_by(shape[: grid.dimensions])} at this spacing")
    longest, why = _longest(grid, seen, room)
    if _keeps_aspect(seen):
        longest = max(round(longest / STEP), 2) * STEP
        shares = [min(seen.aspects[1], 1.0), min(1 / seen.aspects[0], 1.0)]
        sides = [max(math.ceil(longest * share / STEP - 1e-6), 2) * STEP for share in shares]
        low, high = (f"{aspect:.2f} : 1" for aspect in seen.aspects)
        how = f"the longer side becomes {longest} pixels{why}; from {low} to {high}, each keeps its shape"
        return Number(sides, f"{how}, and what it leaves of a patch is 0")
    sides = [max(round(n * longest / max(grid.size) / STEP), 2) * STEP for n in grid.size]
    drawn = squashed(seen.aspects, grid.size[0] / grid.size[1])
    to = f" to {_by(sides)}{why}" if why else ""
    note = f"; pictures of another shape are distorted by up to {drawn:.2f} times" if drawn >= LITTLE else ""
    return Number(sides, f"the median one, {_by(grid.size)}, resized{to}{note}")


def _longest(grid: Grid, seen: Seen, room: float) -> tuple[float, str]:
    """Pixels of a picture's longer side, and why where the smallest class asks for more than a patch carries."""
    own, few = max(grid.size), LONG_SIDE * math.sqrt(room)
    least = own / _coarser(grid, seen)
    if least <= few:
        return min(few, own), ""
    # rounded up: rounded down less than is wanted would be kept
    longest = min(math.ceil(least / STEP) * STEP, own)
    most = math.sqrt(PIECES * PATCH[2] * room * own / min(grid.size))
    if most < longest:
        return most, f", as fine as time allows: {_left(grid, seen, _smallest(grid, seen) * (most / own) ** 2)}"
    return longest, f", as coarse as the smallest class allows: {_left(grid, seen)}"


def too_coarse(seen: Seen, room: float = 1.0) -> str:
    """A sentence on a smallest class of pictures that keeps fewer than :data:`KEPT` pixels; empty where it keeps them."""
    grid = grid_of(seen)
    if not seen.pictures or not seen.smallest > 0:
        return ""
    longest, _ = _longest(grid, seen, room)
    keeps = seen.smallest * min(longest / max(grid.size), 1.0) ** 2
    if keeps >= min(seen.smallest, 0.99 * KEPT[2]):
        return ""
    name = seen.classes.get(seen.least, "the smallest class")
    return (
        f"the smallest outline, of {name}, has {seen.smallest:.0f} pixels in a picture of {_by(grid.size)} and keeps "
        f"{keeps:.0f} on this grid, where {KEPT[2]} are wanted. Allow more time, or cut the pictures out round it"
    )


def _keeps_aspect(seen: Seen) -> bool:
    """Whether one size for all pictures would draw some out: portraits among landscapes."""
    low, high = seen.aspects
    return seen.pictures and squashed(seen.aspects, math.sqrt(low * high)) >= SQUASHED


def squashed(aspects: tuple[float, float], aspect: float) -> float:
    """How many times, at most, one side of pictures is drawn out against the other where all become ``aspect``."""
    return max(aspect / aspects[0], aspects[1] / aspect)


# patch and network


def patch_of(field: Sequence[int], budget: int, dimensions: int) -> tuple[list[int], int]:
    """The patch and the number of levels: the whole field where it fits into the budget, else all axes in equal shares.

    Sides are multiples of ``2 ** (levels - 1)``; the coarsest level is not smaller than the network needs.
    """
    for levels in range(LEVELS[dimensions], 1, -1):
        step, lowest = 2 ** (levels - 1), LOWEST[dimensions]
        whole = [math.ceil(n / step) * step for n in field]
        if min(whole) >= step * lowest and (step * lowest) ** len(whole) <= budget:
            break
    patch = [min(step * lowest, side) for side in whole]
    while grown := [
        axis
        for axis, side in enumerate(patch)
        if side < whole[axis] and math.prod(patch) // side * (side + step) <= budget
    ]:
        axis = min(grown, key=lambda axis: patch[axis] / field[axis])
        patch[axis] += step
    return patch, levels


def _patch_reason(grid: Grid, sight: Sight) -> str:
    why = sight.field.reason
    if not grid.orientation:
        return f"a whole picture: {why}" if _whole(sight) else f"{_percent(_share(sight))} of a picture: {why}"
    part = "the whole" if _whole(sight) else f"{_percent(_share(sight))} of the"
    return f"{part} median {'slice' if grid.slices else 'scan'} {why}"


def _share(sight: Sight) -> float:
    """Of the field, that a patch sees."""
    return math.prod(min(p / n, 1) for p, n in zip(sight.patch, sight.field.value, strict=True))


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.1 else f"{100 * share:.2g}%"


def _whole(sight: Sight) -> bool:
    """Whether a patch is all of the field."""
    return all(side >= n for side, n in zip(sight.patch, sight.field.value, strict=True))


def _batches(grid: Grid, patch: Sequence[int], room: float) -> dict[str, Number]:
    if grid.dimensions == 2:
        count, why = 8, "2D patches"
    else:
        count = 4 if math.prod(patch) <= SMALL_PATCH * room else 2
        why = f"3D patches of {math.prod(patch) // 1000} thousand voxels"
    return {
        "epoch_steps": Number(50 if grid.dimensions == 2 else 30, "steps between two checkpoints"),
        "labelled_batch": Number(count, why),
        "unlabelled_batch": Number(count, "as many"),
    }


def _network(grid: Grid, patch: Sequence[int], levels: int, room: float) -> dict[str, Number]:
    first = 16 if grid.dimensions == 2 or room >= 2 else 12
    coarsest = [side // 2 ** (levels - 1) for side in patch]
    batch = grid.dimensions == 2
    return {
        "widths": Number(
            [min(first * 2**level, WIDEST) for level in range(levels)], f"the coarsest level is {_by(coarsest)} voxels"
        ),
        "dropout": Number(list(DROPOUT[:levels]), "none at the two finest levels, the more the coarser a level is"),
        "norm": Number(
            "batch" if batch else "instance", f"a batch in {'2D holds many' if batch else '3D holds few'} patches"
        ),
    }


# augmentation, names, intensities


def _augmentation(grid: Grid, seen: Seen, sight: Sight) -> dict[str, Number]:
    """No mirror image, and no half turn, of what has a side."""
    axes = ["RAS".index(letter) for letter in grid.orientation] or [0, 1]
    found = sides(seen.places, seen.classes, axes[: grid.dimensions])
    in_plane = [side for side in found if side.axis in axes[:2]]
    patients = len({place.patient for place in seen.places})
    free = (
        f"no class is known by its side in {patients} labelled patients"
        if patients > 1
        else "nothing is known of sides"
    )
    whole = seen.pictures and _whole(sight)
    return {
        "foreground": Number(
            0.0 if whole else 0.5,
            "a patch is a whole picture: nothing to centre"
            if whole
            else "share of labelled patches that are centred on a class",
        ),
        "rotate_degrees": Number(
            15 if in_plane else 180, in_plane[0].why if in_plane else "no side in the plane is known"
        ),
        "flip_prob": Number(0.0 if found else 0.5, found[0].why if found else free),
    }


def _names(seen: Seen) -> dict[str, Number]:
    unnamed = [value for value, name in seen.classes.items() if name == f"label {value}"]
    return {
        "channels": Number(
            [_plain(name) for name in seen.channels],
            "as the files, their folders or the data set name them"
            if len(seen.channels) > 1
            else "scans of one channel",
        ),
        "classes": Number(
            [_plain(name) for name in seen.classes.values()],
            "nobody names them" if unnamed else "as --classes, or the data set, names them",
        ),
        "label_values": Number(list(seen.classes), "in label files, in the order of classes"),
    }


def _plain(name: str) -> str:
    """A name that a config does not take for a reference or an expression."""
    return name.lstrip("$@% ") or "unnamed"


PERCENTILES = {"_target_": "scripts.cohort.scaling.ScalePercentilesd", "keys": "image", "lower": 0.5, "upper": 99.5,
               "b_min": 0.0, "b_max": 1.0, "clip": True, "channel_wise": True}  # fmt: skip


def _preprocessing(seen: Seen, sight: Sight) -> Number:
    both: Mapping[str, Any] = {"keys": ["image", "label"]}
    absent: Mapping[str, Any] = {"allow_missing_keys": True}
    load = {"_target_": "LoadImaged", "reader": "scripts.cohort.reader.ScanReader", "ensure_channel_first": True}
    image = {**load, "keys": "image", "fill_nonfinite": "@fill_nonfinite"}
    label = {**load, "keys": "label", "whole": True, **absent}
    turn = {"_target_": "Orientationd", **both, "axcodes": "@orientation",
            "labels": [["L", "R"], ["P", "A"], ["I", "S"]], **absent}  # fmt: skip
    values = {"_target_": "MapLabelValued", "keys": "label", "orig_labels": "@label_values",
              "target_labels": "$list(range(len(@classes)))", **absent}  # fmt: skip
    if seen.pictures:
        grid = {"_target_": "Resized", **both, **_size(seen, sight), "mode": ["area", "nearest-exact"], **absent}
    else:
        grid = {"_target_": "Spacingd", **both, "pixdim": "@spacing_mm", "mode": ["bilinear", "nearest"], **absent}
    scale, why = _scaling(seen)
    turned = [] if seen.pictures else [turn]
    return Number({"_target_": "Compose", "transforms": [image, label, *turned, values, grid, scale]}, why)


def _size(seen: Seen, sight: Sight) -> dict[str, Any]:
    """What pictures are resized to: a patch, a larger field that patches are cut from, or a longer side."""
    if _keeps_aspect(seen):
        return {"spatial_size": max(sight.field.value), "size_mode": "longest"}
    return {"spatial_size": "@patch" if sight.patch == sight.field.value else sight.field.value}


def _scaling(seen: Seen) -> tuple[dict[str, Any], str]:
    if seen.pictures and seen.eight_bit:
        return _range(0, 255), "intensities from 0..255, as pictures of 8 bit have them"
    if seen.ct and seen.foreground and seen.foreground[0] < seen.foreground[1]:
        low, high = (float(f"{value:.4g}") for value in seen.foreground)
        return _range(low, high), f"intensities in HU, cut at 0.5 and 99.5 % of what is labelled: {low:g} and {high:g}"
    return dict(PERCENTILES), "intensities between 0.5 and 99.5 % of each scan: no unit that scans share"


def _range(low: float, high: float) -> dict[str, Any]:
    return {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": low, "a_max": high, "b_min": 0.0,
            "b_max": 1.0, "clip": True}  # fmt: skip


def _inferer(grid: Grid, patch: Sequence[int], levels: int, field: Sequence[int]) -> Number:
    step = 2 ** (levels - 1)
    if grid.slices:
        whole = [
            min(max(math.ceil(n / step) * step, side), max(SLICE, side)) for n, side in zip(field, patch, strict=True)
        ]
        return Number({"_target_": "SliceInferer", "roi_size": whole, "spatial_dim": 2, "sw_batch_size": 8,
                       "overlap": 0.25, "mode": "gaussian"}, "a slice at once, where it is not larger")  # fmt: skip
    small = grid.dimensions == 2 or math.prod(patch) <= SMALL_PATCH
    windows = {2: 8, 3: 4 if small else 1}[grid.dimensions]
    overlap = 0.5 if grid.dimensions == 3 and small else 0.25
    # a field of fewer voxels than a patch, which is padded, is seen at once too
    if all(n <= side for n, side in zip(field, patch, strict=True)):
        why = f"a {'whole picture' if not grid.orientation else 'scan of the median size'} at once"
    else:
        why = f"windows of a patch that overlap by {'half, as they are small' if overlap == 0.5 else 'a quarter'}"
    return Number({"_target_": "SlidingWindowInferer", "roi_size": "@patch", "sw_batch_size": windows,
                   "overlap": overlap, "mode": "gaussian"}, why)  # fmt: skip


def _by(numbers: Sequence[float]) -> str:
    """``0.625 x 0.625``, ``2000 x 1500``."""
    return " x ".join(f"{n:.3g}" if n < 100 else f"{n:.0f}" for n in numbers)
