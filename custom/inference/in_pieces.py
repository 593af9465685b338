"""An image that does not fit in memory: read and preprocessed in pieces, voxel for voxel what the task's transforms make of it.

Its metadata come from these transforms, run on an image without a channel; its voxels go from the file, slab by slab,
into a mapped temporary file as they are turned and resampled, and are scaled there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import Dataset, MetaTensor
from monai.transforms import Compose, LoadImage, LoadImaged, Orientationd, ScaleIntensityRanged, Spacingd
from monai.transforms.inverse import TraceableTransform
from monai.utils import LazyAttr, TraceKeys, convert_to_numpy, ensure_tuple
from numpy.typing import NDArray
from torch import Tensor

from ..cohort.formats.counts import finite
from ..cohort.formats.streamed import StreamedVoxels
from ..cohort.mapped import mapped, release_pages
from ..cohort.reader import HeaderReader, ScanReader, as_scan_fault, streamed
from ..cohort.scaling import ScalePercentilesd, scale_range_in_place
from ..files import under
from .saving import SavePredictiond
from .slab_resampling import SlabResampling

TILE = 2**27  # voxels that are turned at once; for each the file is read once, a packed one unpacked


class InPieces(Dataset):
    """MONAI's ``Dataset``, which reads what is too large in pieces.

    Args:
        data, transform: as of the ``Dataset``.
        in_pieces: whether the scan with this first file is read so.
        saving: is waited for before such a scan is read.
        cache_dir: where the temporary files lie, below ``root`` or absolute; "": in ``output_dir``.
        output_dir: of the predictions.
        root: of the bundle.

    Raises:
        FileError: there is no space for a temporary file; when the scan is read.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Compose,
        in_pieces: Callable[[str], bool],
        saving: SavePredictiond,
        cache_dir: str = "",
        output_dir: str | Path = "",
        root: str | Path = ".",
    ) -> None:
        super().__init__(data, transform)
        self.in_pieces, self.saving = in_pieces, saving
        self.folder = under(root, cache_dir or output_dir)

    def _transform(self, index: int) -> Any:
        entry = self.data[index]
        if not self.in_pieces(str(ensure_tuple(entry["image"])[0])):
            return super()._transform(index)
        self.saving.finish()
        return read_in_pieces(entry, self.transform, self.folder)


@dataclass(frozen=True)
class Steps:
    """What a task does to its images, in this order."""

    load: LoadImaged
    turn: list[Orientationd]
    resample: Spacingd | None
    scale: list[ScalePercentilesd | ScaleIntensityRanged]


def steps(transform: Compose) -> Steps | None:
    """The steps of a task's preprocessing; None where it cannot be done in pieces, being other than loading, turning,
    at most one resampling and scaling, in this order, by the transforms that :class:`Steps` names."""
    load, *others = [step for step in transform.flatten().transforms if "image" in getattr(step, "keys", ["image"])]
    order = [next((k for k, kind in enumerate(KINDS) if isinstance(step, kind)), -1) for step in others]
    if not isinstance(load, LoadImaged) or not _as_tasks(load):
        return None
    if order != sorted(order) or -1 in order or order.count(1) > 1:
        return None
    resample = next((step for step in others if isinstance(step, Spacingd)), None)
    if resample is not None and not isinstance(resample.mode[resample.keys.index("image")], str):
        return None
    turn, scale = ([step for step, k in zip(others, order, strict=True) if k == kind] for kind in (0, 2))
    return Steps(load, turn, resample, scale)  # type: ignore[arg-type] # by the numbers of their kinds


KINDS: tuple[Any, ...] = (Orientationd, Spacingd, (ScalePercentilesd, ScaleIntensityRanged))


def _as_tasks(load: LoadImaged) -> bool:
    channels_first, kind = load._loader.ensure_channel_first, load._loader.dtype
    return isinstance(_reader(load), ScanReader) and not _reader(load).whole and channels_first and kind == np.float32


def _reader(load: LoadImaged) -> Any:
    return load._loader.readers[-1]


def read_in_pieces(entry: Mapping[str, Any], transform: Compose, folder: Path) -> dict[str, Any]:
    """What ``transform`` makes of an entry without label, its image ``(C, *spatial)`` in a mapped file of ``folder``.

    Raises:
        ScanFault: a file that cannot be read; several that do not lie on one grid.
        FileError: there is no space in ``folder``.
    """
    task = steps(transform)
    assert task is not None  # as Memory has seen
    files = [Path(file) for file in ensure_tuple(entry["image"])]
    image: Any = _header(files)
    stored = image
    for turn in task.turn:
        image = turn({"image": image})["image"]
    layout = Layout.of(stored, image)
    resampling = None
    if task.resample is not None:
        image, resampling = _resampled(task.resample, image)
    channels = [(file, channel) for file in files for channel in streamed(file)]
    voxels = mapped((len(channels), *image.shape[1:]), folder, files[0].name)
    filling = {file: _filling(file) if _reader(task.load).fill_nonfinite else None for file in files}
    for into, (file, channel) in zip(voxels, channels, strict=True):
        with as_scan_fault(file):
            tiles, done = layout.tiles(channel, filling[file]), 0
            for tile in resampling(tiles) if resampling else tiles:
                into[done : done + tile.shape[1]] = tile[0].numpy()
                done += tile.shape[1]
                release_pages()
    whole = torch.from_numpy(voxels)
    for step in task.scale:
        if isinstance(step, ScalePercentilesd):
            step.scaler.scale_in_place(whole)
        else:
            scale_range_in_place(whole, step.scaler)
    return {**entry, "image": MetaTensor(whole, meta=image.meta, applied_operations=image.applied_operations)}


def _header(files: Sequence[Path]) -> MetaTensor:
    """An image of no channel, as it is stored, with the metadata of the files."""
    image = LoadImage(HeaderReader(), image_only=True, ensure_channel_first=True)(files)
    if len(files) == 1 and int(image.meta["dim"][0]) == 3:
        image.meta["original_channel_dim"] = math.nan  # as of a file without an axis of channels
    return image


def _filling(file: Path) -> float | None:
    """What a NaN or infinite voxel of a file becomes, as :func:`..cohort.reader.filled` has it; None where there is none."""
    darkest, all_finite, channels = math.inf, True, streamed(file)
    if channels[0].dtype.kind != "f":
        return None
    with as_scan_fault(file):
        for values in (slab.ravel(order="K") for channel in channels for _, slab in channel.slabs()):
            good = finite(values)
            all_finite = all_finite and good.size == values.size
            darkest = min(darkest, float(good.min())) if good.size else darkest
    return None if all_finite else 0.0 if math.isinf(darkest) else darkest


@dataclass(frozen=True)
class Layout:
    """How the axes of a turned image lie in its file.

    Args:
        shape: spatial, turned.
        axes: of the file, for each turned one.
        flipped: whether a turned axis runs against that of the file.
    """

    shape: tuple[int, ...]
    axes: tuple[int, ...]
    flipped: tuple[bool, ...]

    @classmethod
    def of(cls, stored: MetaTensor, turned: MetaTensor) -> Layout:
        affines = (convert_to_numpy(image.affine).astype(float) for image in (stored, turned))
        steps = np.linalg.solve(*affines)[:3, :3]
        axes = np.abs(steps).argmax(axis=0)
        flipped = steps[axes, range(3)] < 0
        return cls(tuple(map(int, turned.shape[1:])), tuple(axes.tolist()), tuple(flipped.tolist()))

    def tiles(self, channel: StreamedVoxels, darkest: float | None = None) -> Iterator[Tensor]:
        """Consecutive slabs ``(1, n, *spatial[1:])`` along the first axis of the turned image, float32.

        Args:
            darkest: in place of values that are not finite; None: these stay.
        """
        length, size = self.shape[0], int(np.prod(self.shape))
        planes = max(TILE * length // size, 1)
        for start in range(0, length, planes):
            stop = min(start + planes, length)
            tile = np.empty((stop - start, *self.shape[1:]), np.float32)
            self._fill(self._as_stored(tile), channel, (start, stop), darkest)
            yield torch.from_numpy(tile)[None]

    def _fill(self, stored: NDArray, channel: StreamedVoxels, planes: tuple[int, int], darkest: float | None) -> None:
        """Voxels of the file's part of a tile, which lies as the file does."""
        first, last = (self.shape[0] - end for end in planes[::-1]) if self.flipped[0] else planes
        part = [slice(None)] * 3
        if self.axes[0] != 2:
            part[self.axes[0]] = slice(first, last)
            first, last = 0, stored.shape[2]
        for start, slab in channel.slabs(first, last):
            values = slab[tuple(part)]
            if darkest is not None:
                values = np.where(np.isfinite(values), values, darkest).astype(values.dtype)
            stored[..., start - first : start - first + slab.shape[2]] = values

    def _as_stored(self, tile: NDArray) -> NDArray:
        return np.flip(tile, tuple(axis for axis in range(3) if self.flipped[axis])).transpose(np.argsort(self.axes))


def _resampled(step: Spacingd, image: MetaTensor) -> tuple[MetaTensor, SlabResampling]:
    """What a resampling makes of an image without a channel, and the way of the voxels. MONAI gives the grid when it is
    asked to resample later, and what it notes as pending is noted here as done."""
    asked: Any = step({"image": image}, lazy=True)["image"]
    later = asked.pending_operations[-1]
    info, shape = later[TraceKeys.EXTRA_INFO], later[LazyAttr.SHAPE]
    target = image.affine.double() @ later[LazyAttr.AFFINE].double()
    resampling = SlabResampling(info, image.shape[1:], image.affine, shape, target, axis=0)
    done = TraceableTransform.track_transform_meta(
        image,
        sp_size=shape,
        affine=None if resampling.unchanged else later[LazyAttr.AFFINE],
        extra_info=info,
        orig_size=later[TraceKeys.ORIG_SIZE],
        transform_info={
            key: later[key] for key in (TraceKeys.CLASS_NAME, TraceKeys.ID, TraceKeys.TRACING, TraceKeys.DO_TRANSFORM)
        },
    )
    return MetaTensor(torch.empty(0, *shape)).copy_meta_from(done), resampling
