"""The next scan is read in a thread while the network works on this one."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from monai.data import DataLoader

END = object()


class AheadDataLoader(DataLoader):
    """MONAI's ``DataLoader`` that reads one batch ahead, in one thread; order and batches are its own.

    What reading raises is raised where the batch would come. (MONAI's ``ThreadDataLoader`` ends the epoch there as if it were
    over.)
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override] # torch's names the class of its own
        batches = super().__iter__()
        with ThreadPoolExecutor(1, thread_name_prefix="reading") as thread:
            coming = thread.submit(next, batches, END)
            while (batch := coming.result()) is not END:
                coming = thread.submit(next, batches, END)
                yield batch
                del batch
