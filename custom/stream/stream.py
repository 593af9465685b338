"""A stream hands out batches of augmented patches: which item, where in it, and the views."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from .. import distributed
from ..methods.batch import Batch, StrongView
from ..seeds import derive
from .augment import Augmentation
from .bank import Bank
from .mixing import CutMix


class Stream:
    """Random patches of a bank, batch by batch.

    The items of a run follow random permutations of the item table, one after another across the ends of epochs: every
    item is seen before any is repeated, however short an epoch is. A patch lies anywhere in the item with equal
    probability or, with probability ``foreground``, round a voxel of a class drawn among those of the item. The
    permutations follow from ``(seed, rank, name)``, every other random number from ``(seed, epoch, rank, name)``.

    Args:
        bank: where patches are cut from.
        batch: patches a batch.
        patch: size in voxels, one number for each spatial axis of the bank's items.
        augmentation: an :class:`Augmentation`, or the list of its parts.
        mixing: of the strong views within a batch, a box each; None mixes nothing.
        foreground: how often a patch is drawn round foreground, a probability in [0, 1]; 0 for unlabelled items.
        seed: of the run.
        name: of the stream; streams of other names draw other numbers.
        rank: of the process; by default that in its process group.
        device: of the batches.

    Raises:
        ValueError: ``foreground`` outside [0, 1], or above 0 in a bank without labels; ``batch`` below 1.
    """

    def __init__(
        self,
        bank: Bank,
        batch: int,
        patch: Sequence[int],
        augmentation: Augmentation | Sequence = (),
        foreground: float = 0.0,
        seed: int = 0,
        name: str = "labelled",
        rank: int | None = None,
        device: str | torch.device = "cpu",
        mixing: CutMix | None = None,
    ) -> None:
        if not 0 <= foreground <= 1:
            raise ValueError(f"{name} stream: foreground is a probability in [0, 1], got {foreground}")
        if foreground and not bank.labelled:
            raise ValueError(f"{name} stream: foreground is {foreground}, but its bank reads no label; set it to 0")
        if batch < 1:
            raise ValueError(f"{name} stream: batch must be at least 1, got {batch}")
        self.bank, self.batch, self.patch, self.foreground = bank, batch, tuple(patch), foreground
        self.augmentation = augmentation if isinstance(augmentation, Augmentation) else Augmentation(augmentation)
        self.seed, self.name, self.device, self.mixing = seed, name, torch.device(device), mixing
        self.rank = distributed.rank() if rank is None else rank
        self.field = self.augmentation.field(self.patch)
        self._kept = -1, torch.zeros(0, dtype=torch.long)
        self.start(0)

    def start(self, epoch: int, drawn: int = 0) -> None:
        """Begin an epoch: what it draws is a function of seed, epoch, rank, name and ``drawn`` alone.

        Args:
            epoch: seeds what is random, except the order of the items.
            drawn: batches of all epochs before this one, after which the order goes on.
        """
        self.generator = Generator().manual_seed(derive(self.seed, epoch, self.rank, self.name))
        self._position = drawn * self.batch

    def draw(self, strong_views: int = 0) -> Batch:
        """The next batch, on ``device``: image float32, label int64 (which every loss wants, so converted once).

        Raises:
            ValueError: an empty bank; a patch of another number of axes than the items; no strong parts.
        """
        if len(self.bank.items) == 0:
            raise ValueError(
                f"{self.name} stream: nothing to draw from, its data list is empty; add cases to "
                f"{self.name!r} in the data list, or set the weights of the terms that need them to 0"
            )
        items = self._next_items()
        image, label = self.bank.crops(items, self._centres(items), self.field)
        image = image.to(self.device, non_blocking=True)
        label = None if label is None else label.to(self.device, non_blocking=True)
        image, label, strong = self.augmentation(image, label, self.patch, self.generator, strong_views)
        present = self.bank.present(items)
        names = tuple(self.bank.item_name(item) for item in items.tolist())
        return Batch(
            image=self._finish(image, present),
            label=None if label is None else label.long(),
            strong=tuple(self._strong_view(view, present) for view in strong),
            present=present.to(self.device, non_blocking=True),
            cases=names,
        )

    def _strong_view(self, image: Tensor, present: Tensor) -> StrongView:
        if self.mixing is None:
            return StrongView(self._finish(image, present))
        mix = self.mixing.draw(present, self.patch, self.generator)
        return StrongView(self._finish(mix(image), present), mix)

    def empty(self) -> Batch:
        """A batch of no patches: what a method gets where no wanted term needs this stream."""
        channels = self.bank.num_channels
        return Batch(
            image=torch.zeros(0, channels, *self.patch, device=self.device),
            label=torch.zeros(0, 1, *self.patch, dtype=torch.long, device=self.device) if self.bank.labelled else None,
            present=torch.zeros(0, channels, dtype=torch.bool, device=self.device),
        )

    def _next_items(self) -> Tensor:
        """``(batch,)`` rows of the item table, from as many permutations as it takes."""
        places = [divmod(self._position + i, len(self.bank.items)) for i in range(self.batch)]
        self._position += self.batch
        return torch.stack([self._permutation(number)[place] for number, place in places])

    def _permutation(self, number: int) -> Tensor:
        """The rows of the item table in the order in which they are drawn for the ``number``-th time, from 0 on."""
        if self._kept[0] != number:
            generator = Generator().manual_seed(derive(self.seed, "order", number, self.rank, self.name))
            self._kept = number, torch.randperm(len(self.bank.items), generator=generator)
        return self._kept[1]

    def _centres(self, items: Tensor) -> Tensor:
        """``(batch, D)`` voxels. As many numbers are drawn whichever way a centre is chosen."""
        dims = len(self.patch)
        chance = torch.rand(len(items), 3 + dims, generator=self.generator, dtype=torch.float64).tolist()
        centres = []
        for item, (toss, kind, place, *axes) in zip(items.tolist(), chance, strict=True):
            shape = self.bank.shape(item)
            if len(shape) != dims:
                raise ValueError(
                    f"{self.name} stream: patch {self.patch} has {dims} axes, {self.bank.item_name(item)} has the "
                    f"shape {shape}; set patch to {len(shape)} numbers, or slices to {str(dims == 2).lower()}"
                )
            voxels = self.bank.foreground(item) if toss < self.foreground else {}
            if voxels:
                positions = voxels[sorted(voxels)[int(kind * len(voxels))]]
                centre = _inside(_unravel(int(positions[int(place * len(positions))]), shape), shape, self.patch)
            else:
                centre = _anywhere(axes, shape, self.patch)
            centres.append(centre)
        return torch.tensor(centres)

    def _finish(self, image: Tensor, present: Tensor) -> Tensor:
        """Absent channels are 0 again (noise falls on them too), and the memory format is the network's fastest."""
        if not present.all():
            mask = present.to(image.device).reshape(*present.shape, *[1] * len(self.patch))
            image = image * mask
        if image.ndim == 4 and image.device.type == "cpu":
            return image.contiguous(memory_format=torch.channels_last)
        return image


def _unravel(position: int, shape: Sequence[int]) -> list[int]:
    """Row-major position to one index an axis."""
    place = []
    for extent in reversed(shape):
        position, index = divmod(position, extent)
        place.append(index)
    return place[::-1]


def _anywhere(chance: Sequence[float], shape: Sequence[int], patch: Sequence[int]) -> list[int]:
    """Centre of a patch uniform over all places within the image; the middle where the image is the smaller."""
    starts = [
        int(number * (extent - side + 1)) if extent > side else (extent - side) // 2
        for number, extent, side in zip(chance, shape, patch, strict=True)
    ]
    return [start + side // 2 for start, side in zip(starts, patch, strict=True)]


def _inside(centre: Sequence[int], shape: Sequence[int], patch: Sequence[int]) -> list[int]:
    """The nearest centre whose patch lies within the image: a patch at the edge shows image, not padding."""
    lows = [min(0, (extent - side) // 2) for extent, side in zip(shape, patch, strict=True)]
    highs = [max(low, extent - side) for low, extent, side in zip(lows, shape, patch, strict=True)]
    starts = [
        min(max(middle - side // 2, low), high)
        for middle, side, low, high in zip(centre, patch, lows, highs, strict=True)
    ]
    return [start + side // 2 for start, side in zip(starts, patch, strict=True)]
