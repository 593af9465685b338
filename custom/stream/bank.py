"""A cohort's scans, read once and kept in memory as compact tensors: a training step opens no file."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..cohort.formats import load_libraries
from ..cohort.formats.itk_image import is_picture
from ..cohort.intensities import Intensities, measure
from ..cohort.names import case_names
from ..errors import UserError
from ..pace import shown

logger = logging.getLogger(__name__)

FOREGROUND_VOXELS = 2000  # kept per class and item: enough to choose patch centres from, small beside the image


class ListError(UserError, ValueError):
    """A list of cases that lacks something; seen without opening a file."""


class ScanError(UserError, RuntimeError):
    """A file that cannot be read, or is not what the task says."""


@dataclass
class Scan:
    """One case in memory; with slices the slice axis comes first, so that one slice is one block of memory.

    Args:
        image: ``(C, *spatial)`` float16, or ``(Z, C, X, Y)`` with slices.
        label: ``(*spatial)`` uint8, or ``(Z, X, Y)`` with slices, or None.
        present: ``(C,)`` bool, False for a modality that the case lacks.
        spacing_mm: of the voxels, an entry an axis; None where it is not known.
        intensities: of each channel that is there.
    """

    image: Tensor
    label: Tensor | None
    present: Tensor
    spacing_mm: tuple[float, ...] | None = None
    intensities: dict[str, Intensities] = field(default_factory=dict)

    def tensors(self) -> list[Tensor]:
        return [self.image] if self.label is None else [self.image, self.label]

    def to(self, device: torch.device) -> Scan:
        label = None if self.label is None else self.label.to(device)
        return replace(self, image=self.image.to(device), label=label)


class Bank(Dataset):
    """A cohort's scans, read once, kept as compact tensors (float16 images, uint8 labels).

    Constructing reads nothing; the first use reads every case (:meth:`load`). An *item* is what a patch is cut from:
    a whole case or, with ``slices``, one 2D slice along the last axis of a case.

    Args:
        data: cases, ``{"patient": "p01", "image": path, "label": path}``; a case of several modalities has
            ``"image": {"flair": path, "t1ce": path}``, any of which may be missing (its channel is 0). May be empty.
        transform: gives the tensors, channels first, of the paths below ``keys``: a MONAI ``Compose``. Images are
            expected to be scaled so that 0 is background. It runs once a case, so it must not be random.
        keys: what of a case the transform gets; ``("image",)`` is the unlabelled stream, which never sees a label.
        slices: cases are stacks of 2D slices along their last axis.
        device: where the tensors are kept, if they fit into half of its free memory; else CPU memory.
        workers: threads that read files; the result does not depend on it.
        name: of the stream, for the log.
        channels: names of the channels in order; needed where images are dicts of modalities.

    Raises:
        ListError: on first use, a case without image, without label where ``keys`` wants one, or without any of
            ``channels``.
        ScanError: on first use, when a case cannot be read or does not fit the description above.
    """

    def __init__(
        self,
        data: Sequence[dict],
        transform: Callable,
        keys: Sequence[str] = ("image", "label"),
        slices: bool = False,
        device: str | torch.device = "cpu",
        workers: int = 0,
        name: str = "labelled",
        channels: Sequence[str] = (),
    ) -> None:
        self.data, self.transform, self.keys, self.slices = list(data), transform, tuple(keys), slices
        self.device, self.workers, self.name, self.channels = torch.device(device), workers, name, tuple(channels)
        self.names = case_names(self.data, self.channels)
        self._scans: list[Scan] | None = None
        self._items = torch.zeros(0, 2, dtype=torch.long)
        self._foreground: list[dict[int, Tensor]] = []
        self._digest: str | None = None

    # ---- what a bank tells -----------------------------------------------------------------------------------------

    @property
    def labelled(self) -> bool:
        return "label" in self.keys

    @property
    def items(self) -> Tensor:
        """``(N, 2)``: case and slice of each item; slice is -1 where an item is a whole case."""
        self.load()
        return self._items

    @property
    def num_channels(self) -> int:
        """C of every image. Reads nothing where channels are named; an empty bank without names has one."""
        if self.channels or not self.data:
            return len(self.channels) or 1
        return self._scan(0).present.numel()

    def case_name(self, case: int) -> str:
        """A readable name, unique in this bank: the image file's, after the patient's where that is not part of it."""
        return self.names[case]

    def item_name(self, item: int) -> str:
        case, plane = self.items[item].tolist()
        return self.names[case] if plane < 0 else f"{self.names[case]} slice {plane}"

    def shape(self, item: int) -> tuple[int, ...]:
        """Spatial shape of an item, ``(X, Y)`` or ``(X, Y, Z)``."""
        return tuple(self._item(item)[0].shape[1:])

    def spacing_mm(self, case: int) -> tuple[float, ...] | None:
        """Length of a voxel along each axis as the transform left it; None of PNG and JPEG, and without an affine."""
        return self._scan(case).spacing_mm

    def intensities(self, case: int) -> dict[str, Intensities]:
        """Of each channel that the case has, as the transform left them; channels without a name by their number."""
        return self._scan(case).intensities

    def foreground(self, item: int) -> dict[int, Tensor]:
        """Class -> ``(n,)`` int32, row-major positions of foreground voxels in the item; at most 2,000 a class."""
        self.load()
        return self._foreground[item]

    def present(self, items: Tensor) -> Tensor:
        """``(B, C)`` bool on the CPU: False where the item's case lacks that modality."""
        return torch.stack([self._scan(case).present for case in self.items[items, 0].tolist()])

    def digest(self) -> str:
        """SHA-256 over names, shapes and values of all cases in order; moving the files does not change it."""
        if self._digest is None:
            self.load()
            state = hashlib.sha256()
            for index, name in enumerate(self.names):
                for tensor in self._scan(index).tensors():
                    state.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
                    state.update(tensor.cpu().contiguous().numpy().data)
            self._digest = state.hexdigest()
        return self._digest

    # ---- what a bank gives -----------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """A whole case: image ``(C, *spatial)`` float32, label ``(1, *spatial)`` uint8, case, present ``(C,)``."""
        scan = self._scan(index)
        case = {"image": self._whole(scan.image).float(), "case": self.names[index], "present": scan.present}
        if scan.label is not None:
            case["label"] = self._whole(scan.label)[None]
        return case

    def crops(self, items: Tensor, centres: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """Cut a box from each item; what lies outside the image is 0. It begins at ``centre - size // 2``.

        Shape:
            - items: ``(B,)`` rows of the item table. centres: ``(B, D)`` voxels. size: D voxels.
            - returns: image ``(B, C, *size)`` float32; label ``(B, 1, *size)`` uint8, or None.

        Raises:
            ValueError: ``size`` or ``centres`` of another number of axes than the items have.
        """
        self.load()
        axes = len(self.shape(0)) if self.data else len(size)
        if not len(size) == centres.shape[1] == axes:
            raise ValueError(
                f"{self.name}: items have {axes} spatial axes, the box {tuple(size)} and the centres "
                f"{tuple(centres.shape)} do not agree; set patch to {axes} numbers"
            )
        batch = len(items)
        image = self._zeros((batch, self.num_channels, *size), torch.float32)
        label = self._zeros((batch, 1, *size), torch.uint8) if self.labelled else None
        for row, (item, centre) in enumerate(zip(items.tolist(), centres.tolist(), strict=True)):
            voxels, classes = self._item(item)
            source, target = _overlap(centre, size, voxels.shape[1:])
            image[row][(slice(None), *target)] = voxels[(slice(None), *source)]
            if label is not None and classes is not None:
                label[row, 0][target] = classes[source]
        return image, label

    # ---- reading ---------------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Read every case, once; later calls do nothing."""
        if self._scans is not None:
            return
        if faults := self._faults():
            raise ListError(f"{self.name} data: " + "\n".join(faults))
        scans = self._read_all()
        self.device, why = _home(self.device, sum(_megabytes(scan) for scan in scans))
        rows: list[tuple[int, int]] = []
        foreground: list[dict[int, Tensor]] = []
        for case, scan in enumerate(scans):
            planes = range(scan.image.shape[0]) if self.slices else [-1]
            rows += [(case, plane) for plane in planes]
            foreground += [{} for _ in planes] if scan.label is None else foreground_table(scan.label, self.slices)
            scans[case] = scan.to(self.device)
        self._items = torch.tensor(rows, dtype=torch.long).reshape(-1, 2)
        self._scans, self._foreground = scans, foreground
        planes_text = f", {len(self._items)} slices" if self.slices else ""
        size = f"{sum(_megabytes(scan) for scan in scans):.1f} MB in memory on {self.device}{why}"
        logger.info(f"{self.name}: {len(scans)} scans{planes_text}, {size}")

    def _read_all(self) -> list[Scan]:
        """Read all cases in order, whatever the number of threads; says how far it is where that takes long."""
        if self.workers:
            load_libraries(file for case in self.data for key in self.keys for file in _paths(case[key]))
        with ThreadPoolExecutor(max(self.workers, 1)) as pool:
            reader = pool.map if self.workers else map
            scans = reader(self._read, range(len(self.data)))
            return list(shown(scans, f"reading {self.name}", len(self.data), "scan"))

    def _read(self, index: int) -> Scan:
        case = {key: self.data[index][key] for key in self.keys}
        files, present = self._files(case["image"])
        case["image"] = files
        try:
            tensors = self.transform(case)
            image = self._image(_plain(tensors["image"]), present)
            label = self._label(_plain(tensors["label"]), image) if self.labelled else None
            spacing = _spacing_mm(tensors["image"], files)
            there = self._present(image, present)
            seen = {
                name: known for (name, known), has in zip(self._measured(image), there.tolist(), strict=True) if has
            }
            if not self.slices:
                return Scan(image, label, there, spacing, seen)
            if image.ndim != 4:
                raise ValueError(f"slices needs a volume (C, X, Y, Z), found {tuple(image.shape)}; set slices to false")
            label = None if label is None else label.movedim(-1, 0).contiguous()
            return Scan(image.movedim(-1, 0).contiguous(), label, there, spacing, seen)
        except Exception as error:
            paths = ", ".join(str(case[key]) for key in self.keys)
            text = f"{self.name} case {self.names[index]}: cannot use {paths}: {_root(error)}"
            raise ScanError(text) from error

    def _files(self, image: Any) -> tuple[Any, list[bool]]:
        """What the transform gets below "image": a path, or the paths of the modalities that are there, in order."""
        if not isinstance(image, Mapping):
            return image, []
        present = [bool(image.get(channel)) for channel in self.channels]
        return [image[channel] for channel, there in zip(self.channels, present, strict=True) if there], present

    def _image(self, image: Tensor, present: list[bool]) -> Tensor:
        """``(C, *spatial)`` float16, with zeros for the modalities that are missing."""
        found, expected = image.shape[0], sum(present) or len(self.channels) or image.shape[0]
        if found != expected:
            names = [name for name, there in zip(self.channels, present, strict=False) if there] or self.channels
            raise ValueError(
                f"the image has {found} channels (shape {tuple(image.shape)}), expected {expected}: "
                f"{', '.join(names)}; correct the task's channels or the files"
            )
        half = image.half()
        if not half.isfinite().all():
            raise ValueError(
                f"image values from {image.min():g} to {image.max():g} do not fit float16 or are not finite; "
                "scale intensities in the preprocessing (scripts.cohort.scaling.ScalePercentilesd)"
            )
        if not present or all(present):
            return half.contiguous()
        full = half.new_zeros(len(present), *half.shape[1:])
        full[torch.tensor(present)] = half
        return full

    def _label(self, label: Tensor, image: Tensor) -> Tensor:
        """``(*spatial)`` uint8."""
        if label.shape != (1, *image.shape[1:]):
            raise ValueError(
                f"label {tuple(label.shape)} does not fit the image {tuple(image.shape)}, expected "
                f"{(1, *image.shape[1:])}: one channel on the image's grid"
            )
        small = label[0].to(torch.uint8)
        if not torch.equal(small.to(label.dtype), label[0]):
            wrong = label[0][small.to(label.dtype) != label[0]].unique()[:5].tolist()
            raise ValueError(
                f"the label has the values {wrong}, expected whole numbers 0..255; read labels with "
                "whole: true, and resample them by nearest"
            )
        return small.contiguous()

    def _measured(self, image: Tensor) -> list[tuple[str, Intensities]]:
        return list(measure(image, self.channels or [str(number) for number in range(len(image))]).items())

    @staticmethod
    def _present(image: Tensor, present: list[bool]) -> Tensor:
        return torch.tensor(present or [True] * image.shape[0])

    def _faults(self) -> list[str]:
        """What can be seen to be wrong without opening a file, one line a case."""
        faults = []
        for case, name in zip(self.data, self.names, strict=True):
            for key in self.keys:
                if not case.get(key):
                    faults.append(f"case {name}: no {key}, found the keys {sorted(case)}; add a path below {key!r}")
            image = case.get("image")
            if isinstance(image, Mapping) and image and not any(image.get(channel) for channel in self.channels):
                wanted = ", ".join(self.channels) or "none; name them in the task"
                faults.append(f"case {name}: has the modalities {sorted(image)}, the task's channels are: {wanted}")
        return faults

    # ---- small helpers ---------------------------------------------------------------------------------------------

    def _scan(self, index: int) -> Scan:
        self.load()
        assert self._scans is not None
        return self._scans[index]

    def _item(self, item: int) -> tuple[Tensor, Tensor | None]:
        """Image ``(C, *spatial)`` and label ``(*spatial)`` of one item; views, nothing is copied."""
        case, plane = self.items[item].tolist()
        scan = self._scan(case)
        if plane < 0:
            return scan.image, scan.label
        return scan.image[plane], None if scan.label is None else scan.label[plane]

    def _whole(self, tensor: Tensor) -> Tensor:
        return tensor.movedim(0, -1).contiguous() if self.slices else tensor

    def _zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Page-locked where a GPU will fetch it, so that the copy need not be waited for."""
        pinned = self.device.type == "cpu" and torch.cuda.is_available()
        return torch.zeros(shape, dtype=dtype, device=self.device, pin_memory=pinned)


def foreground_table(label: Tensor, slices: bool, limit: int = FOREGROUND_VOXELS) -> list[dict[int, Tensor]]:
    """Per item and class, row-major positions of up to ``limit`` foreground voxels, evenly spaced among all of them.

    Args:
        label: ``(*spatial)``, or ``(Z, X, Y)`` with ``slices``, where each of the Z slices is an item.
    """
    planes = label if slices else label[None]
    where = planes.flatten().nonzero().squeeze(1)
    area = planes[0].numel()
    key = where // area * 256 + planes.flatten()[where]  # one number for item and class
    order = key.argsort(stable=True)
    keys, counts = key[order].unique_consecutive(return_counts=True)
    table: list[dict[int, Tensor]] = [{} for _ in planes]
    for both, positions in zip(keys.tolist(), (where % area)[order].split(counts.tolist()), strict=True):
        kept = min(limit, len(positions))
        table[both // 256][both % 256] = positions[torch.arange(kept) * len(positions) // kept].int()
    return table


def _overlap(
    centre: Sequence[int], size: Sequence[int], extent: Sequence[int]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """The part of a box that lies in an image: where it is in the image, and where in the box."""
    source, target = [], []
    for middle, length, limit in zip(centre, size, extent, strict=True):
        start = middle - length // 2
        low = min(max(start, 0), limit)
        high = max(min(start + length, limit), low)
        source.append(slice(low, high))
        target.append(slice(low - start, high - start))
    return tuple(source), tuple(target)


def _paths(value: Any) -> list[str | Path]:
    """The files of an entry's image or label."""
    files = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else [value]
    return [file for file in files if isinstance(file, str | Path)]


def _plain(value: Any) -> Tensor:
    """The tensor without MONAI's metadata: every operation on a MetaTensor would cost some 40 microseconds more."""
    return value.as_tensor() if hasattr(value, "as_tensor") else torch.as_tensor(value)


def _spacing_mm(image: Any, files: Any) -> tuple[float, ...] | None:
    """Voxel sizes by MONAI's affine. A picture has pixels, but no size."""
    paths = files if isinstance(files, list) else [files]
    if not hasattr(image, "pixdim") or any(is_picture(path) for path in paths):
        return None
    return tuple(float(size) for size in image.pixdim[: image.ndim - 1])


def _root(error: BaseException) -> str:
    """The innermost cause: MONAI wraps each error in 'applying transform ...'."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"


def _megabytes(scan: Scan) -> float:
    return sum(tensor.numel() * tensor.element_size() for tensor in scan.tensors()) / 1e6


def _home(device: torch.device, megabytes: float) -> tuple[torch.device, str]:
    """Where to keep that much, and why it is not where it was wanted: training needs the other half of a GPU."""
    if device.type != "cuda":
        return device, ""
    free = torch.cuda.mem_get_info(device)[0] / 1e6
    if megabytes <= free / 2:
        return device, ""
    return torch.device("cpu"), f" (more than half of the {free:.0f} MB free on {device}; patches are copied to it)"
