"""A cohort's scans, read once and kept as compact tensors, and patches of them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..cohort.intensities import Intensities
from .preprocessed import ListError, Preprocessed
from .scan import Kept, Scan
from .storage import Storage

logger = logging.getLogger(__name__)


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
        storage: where the scans are kept, if not in memory.

    Raises:
        ListError: on first use, a case without image, without label where ``keys`` wants one, or without any of
            ``channels``.
        ScanError: on first use, when a case cannot be read or does not fit the description above.
        CacheError: on first use, when there is room for the scans neither in memory nor on the disk.
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
        storage: Storage | None = None,
    ) -> None:
        self.cases = Preprocessed(data, transform, keys, slices, name, channels)
        self.device, self.workers, self.storage = torch.device(device), workers, storage or Storage()
        self._scans: Sequence[Kept] | None = None
        self._items = torch.zeros(0, 2, dtype=torch.long)
        self._foreground: list[dict[int, Tensor]] = []
        self._digest: str | None = None

    # ---- what a bank tells -----------------------------------------------------------------------------------------

    @property
    def data(self) -> list[dict]:
        return self.cases.data

    @property
    def name(self) -> str:
        return self.cases.name

    @property
    def names(self) -> list[str]:
        """Readable, unique names of the cases: the image file's, after the patient's where that is not part of it."""
        return self.cases.names

    @property
    def channels(self) -> tuple[str, ...]:
        return self.cases.channels

    @property
    def labelled(self) -> bool:
        return self.cases.labelled

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
        return self.names[case]

    def item_name(self, item: int) -> str:
        case, plane = self.items[item].tolist()
        return self.names[case] if plane < 0 else f"{self.names[case]} slice {plane}"

    def shape(self, item: int) -> tuple[int, ...]:
        """Spatial shape of an item, ``(X, Y)`` or ``(X, Y, Z)``."""
        case, plane = self.items[item].tolist()
        return self._scan(case).shape[1 if plane < 0 else 2 :]

    def spacing_mm(self, case: int) -> tuple[float, ...] | None:
        """Length of a voxel along each axis as the transform left it; None for PNG and JPEG, and without an affine."""
        return self._scan(case).spacing_mm

    def intensities(self, case: int) -> dict[str, Intensities]:
        """Intensities of each channel that the case has, as the transform left them; unnamed ones by their number."""
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
                state.update(f"{name} {self._scan(index).digest()}\n".encode())
            self._digest = state.hexdigest()
        return self._digest

    # ---- what a bank gives -----------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """A whole case: image ``(C, *spatial)`` float32, label ``(1, *spatial)`` uint8, case, present ``(C,)``."""
        scan = self._scan(index)
        image, label = scan.whole()
        case = {"image": self._whole(image).float(), "case": self.names[index], "present": scan.present}
        if label is not None:
            case["label"] = self._whole(label)[None]
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
        boxes = [
            (item, *_overlap(centre, size, self.shape(item)))
            for item, centre in zip(items.tolist(), centres.tolist(), strict=True)
        ]
        for item, source, _ in boxes:  # all of them are on their way before the first is waited for
            case, plane = self.items[item].tolist()
            self._scan(case).soon(plane, source)
        for row, (item, source, target) in enumerate(boxes):
            voxels, classes = self._item(item)
            image[row][(slice(None), *target)] = voxels[(slice(None), *source)]
            if label is not None and classes is not None:
                label[row, 0][target] = classes[source]
        return image, label

    # ---- reading ---------------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Read every case, once; later calls do nothing."""
        if self._scans is not None:
            return
        if faults := self.cases.faults():
            raise ListError(f"{self.name} data: " + "\n".join(faults))
        scans, note = self.storage.keep(self.cases, self.workers)
        rows: list[tuple[int, int]] = []
        for case, scan in enumerate(scans):
            planes = range(scan.shape[0]) if self.cases.slices else [-1]
            rows += [(case, plane) for plane in planes]
            self._foreground += scan.foreground or [{} for _ in planes]
        self._items = torch.tensor(rows, dtype=torch.long).reshape(-1, 2)
        megabytes = sum(scan.bytes for scan in scans) / 1e6
        in_memory = [scan for scan in scans if isinstance(scan, Scan)]
        if len(in_memory) == len(scans):
            self.device, why = _home(self.device, megabytes)
            self._scans, place = [scan.to(self.device) for scan in in_memory], f"in memory on {self.device}{why}"
        else:
            self._scans, self.device, place = scans, torch.device("cpu"), "on disk"
        planes_text = f", {len(self._items)} slices" if self.cases.slices else ""
        logger.info(f"{self.name}: {len(scans)} scans{planes_text}, {megabytes:.1f} MB {place}{note}")

    # ---- small helpers ---------------------------------------------------------------------------------------------

    def _scan(self, index: int) -> Kept:
        self.load()
        assert self._scans is not None
        return self._scans[index]

    def _item(self, item: int) -> tuple[Tensor, Tensor | None]:
        """Image ``(C, *spatial)`` and label ``(*spatial)`` of one item; views, nothing is copied."""
        case, plane = self.items[item].tolist()
        image, label = self._scan(case).voxels()
        return (image, label) if plane < 0 else (image[plane], None if label is None else label[plane])

    def _whole(self, tensor: Tensor) -> Tensor:
        return tensor.movedim(0, -1).contiguous() if self.cases.slices else tensor

    def _zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Page-locked where a GPU will fetch it, so that the copy need not be waited for."""
        pinned = self.device.type == "cpu" and torch.cuda.is_available()
        return torch.zeros(shape, dtype=dtype, device=self.device, pin_memory=pinned)


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


def _home(device: torch.device, megabytes: float) -> tuple[torch.device, str]:
    """Where to keep that much, and why it is not where it was wanted: training needs the other half of a GPU."""
    if device.type != "cuda":
        return device, ""
    free = torch.cuda.mem_get_info(device)[0] / 1e6
    if megabytes <= free / 2:
        return device, ""
    return torch.device("cpu"), f" (more than half of the {free:.0f} MB free on {device}; patches are copied to it)"
