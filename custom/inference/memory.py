"""How a scan is segmented within the memory that a user gives: at once, slab by slab, or not at all; told before it is tried.

Bytes a voxel were measured with the transforms of the tasks here and are a little above what was found.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from monai.networks.utils import eval_mode
from monai.transforms import Compose
from torch import Tensor, nn

from ..cohort.formats.nifti import HELD
from ..cohort.mapped import release_pages
from ..cohort.resampling import Size, bytes_at_once, gigabytes, physical_memory
from ..cohort.words import plural
from ..errors import UserError
from ..memory import bound_bytes, free_memory, resident_bytes, return_freed_memory
from .in_pieces import TILE, steps
from .label_map import in_slabs
from .slab_resampling import VOXELS
from .slabs import LogitSlabs, predict, slab_axis, window

LINES = 12  # scans that an error names
SPARE = 1.1  # of what is reckoned


class TooLarge(UserError, MemoryError):
    """A scan does not fit in the memory that there is, in any way."""


@dataclass(frozen=True)
class Need:
    """Memory of one scan, bytes.

    Args:
        reading: to read, turn, resample and scale it.
        whole: with the logits of the whole.
        slabs: with those of a slab at a time.
        writing: of its label map, beside the next scan.
        pieces: to read it in pieces into a mapped file, :mod:`.in_pieces`, whose pages do not count.
        mapped: with the logits of a slab at a time, its image in that file.
    """

    reading: float
    whole: float
    slabs: float
    writing: float
    pieces: float
    mapped: float


def need(size: Size, classes: int, roi: Sequence[int], value_bytes: int = 1) -> Need:
    """What a scan needs on a network of that many classes with windows of ``roi`` voxels."""
    own, seen, c, k = size.own, math.prod(size.seen), size.channels, classes
    resampled = own != seen
    image = 4 * c * seen
    reading = c * max(8 * own, 4 * own + (8 * own + 36 * seen if resampled else 4 * own), 17 * seen)
    axis = slab_axis(tuple(roi), size.seen)
    part = min(roi[axis] / size.seen[axis], 1) * math.prod(max(r, s) for r, s in zip(roi, size.seen, strict=True))
    piece = max(VOXELS, own / max(size.seen[axis], 1)) * (20 * k + 24) if resampled else 0
    label = value_bytes * own
    slab = 4 * (k + 1) * part + 4 * k * part * (3 if resampled else 1) + piece
    planes = 100 * max(VOXELS, seen / size.seen[0]) if resampled else 0  # that are resampled at once
    pieces = HELD + 4 * min(TILE, own) * (4 if resampled else 2) + planes  # a tile, and its pages or copies
    windows = 4 * c * part  # of the image, whose pages are held while a slab is computed
    mapped = windows + max(slab + label, 3 * label)
    return Need(reading, bytes_at_once(size, classes), image + slab + 3 * label, 3 * label, pieces, mapped)


class Memory:
    """Decides how each scan is segmented, and whether the next one is read meanwhile.

    With a bound of the user's own the process hands freed memory back, and one batch of windows goes through the network
    first, to find out what that takes.

    Args:
        memory_gb: of the whole process, GB (1e9 bytes); None: what the machine, or its container, has; what of it is free now
            decides then which scans go slab by slab.
        sizes: of the scans, in their order.
        label_values: of the network's classes.
        channels: of the network.
        inferer: of the task.
        network: on its device.
        transform: the preprocessing; only where it is given, and can be done so, scans are read in pieces.

    Raises:
        TooLarge: scans that do not fit in any way, in one text.
        BoundError: ``memory_gb`` is not above 0.
    """

    def __init__(
        self,
        memory_gb: float | None,
        sizes: Sequence[Size],
        label_values: Sequence[int],
        channels: int,
        inferer: Callable[..., Any],
        network: nn.Module,
        transform: Compose | None = None,
    ) -> None:
        bound = bound_bytes(memory_gb)
        self.inferer = inferer
        self.given = memory_gb is not None
        self.bound = bound if self.given else physical_memory()
        self.at_once = self.bound if self.given else min(self.bound, free_memory())
        self.ahead: list[bool] = []
        """For each scan whether the next one is read while it is segmented."""
        self.work = [size.own for size in sizes]
        """Voxels of each scan."""
        self._slabs: set[str] = set()
        self._pieces: set[str] = set()
        windows = isinstance(inferer, SlidingWindowInferer)
        self._streamed = [
            windows and size.streamed and transform is not None and steps(transform) is not None for size in sizes
        ]
        if not sizes:
            return
        value_bytes = 1 if min(label_values) >= 0 and max(label_values) < 256 else 4
        needs = [need(size, len(label_values), self._roi(size.seen), value_bytes) for size in sizes]
        self.base = self._base(network, channels, max(sizes, key=lambda size: math.prod(size.seen)))
        self._judge(sizes, needs)
        took = []
        for number, size in enumerate(sizes):
            took.append(self._whole(needs, number))
            if took[-1] > self.at_once and windows:
                self._slabs.add(size.file)
                took[-1] = self._with(needs, number, needs[number].slabs)
            if took[-1] > self.at_once and self._streamed[number]:
                self._pieces.add(size.file)
                took[-1] = self._in_pieces(needs[number])
        for number in range(len(sizes)):
            after = needs[number + 1].reading if number + 1 < len(needs) else 0
            apart = number + 1 < len(needs) and sizes[number + 1].file in self._pieces
            self.ahead.append(not apart and took[number] + SPARE * after <= self.at_once)

    def in_pieces(self, file: str) -> bool:
        """Whether the scan with this first file is read in pieces: its image would not fit."""
        return file in self._pieces

    def in_slabs(self, image: MetaTensor) -> bool:
        """Whether an image ``(C, *spatial)`` as the network sees it is segmented slab by slab.

        Raises:
            TooLarge: it would have to be, and the way back of its result cannot be gone so.
        """
        file = str(image.meta.get("filename_or_obj", ""))
        if file not in self._slabs:
            return False
        if not in_slabs(image):
            raise TooLarge(
                f"{Path(file).name} does not fit in {gigabytes(self.at_once)} of memory at once, and what preprocessing does "
                "to it (more than turning, padding and one resampling) cannot be undone slab by slab. Give more memory_gb, "
                "or take a machine with more memory."
            )
        return True

    def _roi(self, seen: tuple[int, ...]) -> tuple[int, ...]:
        return window(self.inferer, seen) if isinstance(self.inferer, SlidingWindowInferer) else seen

    def _base(self, network: nn.Module, channels: int, largest: Size) -> float:
        """What the process has before it reads a scan, and what the network takes of a batch of windows."""
        if not self.given:
            return 0.0  # as the check of scans reckons: the machine's memory is not a sharp bound
        return_freed_memory()
        before = resident_bytes()
        if not isinstance(self.inferer, SlidingWindowInferer):
            return before
        device = next((p.device for p in network.parameters()), torch.device("cpu"))
        peak = _Peak()
        with eval_mode(network):
            windows = torch.zeros(self.inferer.sw_batch_size, channels, *self._roi(largest.seen), device=device)
            predict(self.inferer, network, windows)
        del windows
        took = max(peak.bytes() - before, 0)
        return_freed_memory()
        return resident_bytes() + took

    def _least(self, needs: Sequence[Need], number: int) -> float:
        way = needs[number].slabs if isinstance(self.inferer, SlidingWindowInferer) else needs[number].whole
        least = self._with(needs, number, way)
        return min(least, self._in_pieces(needs[number])) if self._streamed[number] else least

    def _in_pieces(self, need: Need) -> float:
        """Nothing is being written then, the reading waits for it."""
        return self.base + SPARE * max(need.pieces, need.mapped)

    def _whole(self, needs: Sequence[Need], number: int) -> float:
        return self._with(needs, number, needs[number].whole)

    def _with(self, needs: Sequence[Need], number: int, way: float) -> float:
        """Bytes together with those of the scan before, which is being written."""
        before = needs[number - 1].writing if number else 0
        return self.base + before + SPARE * max(needs[number].reading, way)

    def _judge(self, sizes: Sequence[Size], needs: Sequence[Need]) -> None:
        large = [number for number in range(len(sizes)) if self._least(needs, number) > self.bound]
        if not large:
            return
        lines = []
        for number in large[:LINES]:
            streamed, of = self._streamed[number], needs[number]
            parts = {
                "to read and resample it": of.pieces if streamed else of.reading,
                "for a slab of logits and the result": of.mapped if streamed else of.slabs,
            }
            what = max(parts, key=parts.__getitem__)
            lines.append(f"{Path(sizes[number].file).name}: {gigabytes(self._least(needs, number))}, "
                         f"of which {gigabytes(SPARE * parts[what])} {what}")  # fmt: skip
        most = max(self._least(needs, number) for number in large)
        rest = f"\n  and {len(large) - LINES} more" if len(large) > LINES else ""
        whose = "memory_gb allows" if self.given else "this machine has"
        raise TooLarge(
            f"{plural(len(large), 'scan')} of {len(sizes)} need more memory than the {gigabytes(self.bound)} that {whose}, "
            "even slab by slab:\n  "
            + "\n  ".join(lines)
            + f"{rest}\nGive memory_gb {math.ceil(most / 1e8) / 10} on a machine that has it, "
            f"smaller windows (inferer::roi_size), or store these scans with larger voxels{self._or_as_nifti(sizes, large)}."
        )

    def _or_as_nifti(self, sizes: Sequence[Size], large: Sequence[int]) -> str:
        return "" if all(sizes[number].streamed for number in large) else " or as NIfTI, which is read in pieces"


class BoundedInferer:
    """The task's inferer, or slabs where the logits of the whole would not fit.

    Args:
        inferer: of the task.
        memory: decides.

    Shape:
        - image ``(B, C, *spatial)``; gives logits ``(B, K, *spatial)``, or a list of one :class:`.slabs.LogitSlabs`.
    """

    def __init__(self, inferer: Callable[..., Any], memory: Memory) -> None:
        self.inferer, self.memory = inferer, memory

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Any:
        images: list[Any] = [inputs[number] for number in range(len(inputs))] if isinstance(inputs, MetaTensor) else []
        if len(images) == 1 and self.memory.in_slabs(images[0]):
            name = Path(str(images[0].meta["filename_or_obj"])).name
            slabs = LogitSlabs(inputs, network, self.inferer, name=name)  # type: ignore[arg-type] # memory has seen that it has windows
            slabs.watchers.append(lambda _: release_pages())
            return [slabs]
        return self.inferer(inputs, network, *args, **kwargs)


class _Peak:
    """The most memory that this process had since now, where Linux tells it."""

    def __init__(self) -> None:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")

    def bytes(self) -> int:
        try:
            status = Path("/proc/self/status").read_text()
        except OSError:
            return 0
        return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:")), 0)
