"""The next scan is read in a thread while the network works on this one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from monai.data import DataLoader

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
        super().__init__(dataset, **options)
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
