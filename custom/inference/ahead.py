"""The next scan is read in a thread while the network works on this one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from monai.data import DataLoader, MetaTensor
from monai.data.utils import list_data_collate

END = object()


class AheadDataLoader(DataLoader):
    """MONAI's ``DataLoader`` that reads one batch ahead, in one thread; order and batches are its own.

    What reading raises is raised where the batch would come. (MONAI's ``ThreadDataLoader`` ends the epoch there as if it were
    over.)

    Args:
        dataset, options: as of the ``DataLoader``.
        ahead: for each batch whether the next one may be read while it is in work; none: always.
    """

    def __init__(self, dataset: Any, ahead: Sequence[bool] = (), **options: Any) -> None:
        super().__init__(dataset, **{"collate_fn": collate, **options})
        self.ahead = ahead

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override] # torch's names the class of its own
        batches = super().__iter__()
        with ThreadPoolExecutor(1, thread_name_prefix="reading") as thread:
            coming, number = thread.submit(next, batches, END), 0
            while (batch := coming.result()) is not END:
                early = number >= len(self.ahead) or self.ahead[number]
                coming = thread.submit(next, batches, END) if early else coming
                yield batch
                del batch
                coming, number = coming if early else thread.submit(next, batches, END), number + 1


def collate(batch: Sequence[Any]) -> Any:
    """MONAI's ``list_data_collate``, except that a single entry's image is a view: it may be as large as memory."""
    if len(batch) != 1 or not isinstance(batch[0], Mapping):
        return list_data_collate(batch)
    images = {key: value for key, value in batch[0].items() if isinstance(value, MetaTensor)}
    small = {key: MetaTensor(torch.empty(1)).copy_meta_from(image) for key, image in images.items()}
    found = list_data_collate([{**batch[0], **small}])
    for key, image in images.items():
        found[key] = _of_batch(image, found[key])
    return found


def _of_batch(image: MetaTensor, small: MetaTensor) -> MetaTensor:
    view = MetaTensor(image.as_tensor()[None])
    view.copy_meta_from(small, copy_attr=False)
    view.spatial_ndim = min(image.spatial_ndim, image.ndim)
    return view
