"""Out of memory: what was under way, how large it was, and which number to lower. Nothing is tried again."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence

import torch

from ..errors import UserError

# What torch's allocators and CUDA's libraries say where they raise a plain RuntimeError.
_SIGNS = ("out of memory", "allocate memory", "not enough memory", "ALLOC_FAILED")
_AMOUNT = re.compile(r"[Tt]ried to allocate ([\d.]+ \w+)")


class OutOfMemory(UserError, MemoryError):
    """The device, or the machine, has no more memory."""


@contextlib.contextmanager
def explained(tell: Callable[[], str]) -> Iterator[None]:
    """Give an out-of-memory error of the block the text ``tell()``, which begins with what was under way.

    Raises:
        OutOfMemory: instead of the error of CUDA, of torch on a CPU, or of Python; others pass.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, UserError) or not _ran_out(error):
            raise
        asked = _AMOUNT.search(str(error))
        raise OutOfMemory(f"Out of memory{f' (asked for {asked[1]})' if asked else ''} {tell()}") from error


def report(where: str, labelled: int, unlabelled: int, patch: Sequence[int], resumable: bool) -> str:
    """What a user needs to go on.

    Args:
        where: what was under way.
        labelled, unlabelled: patches in the batch.
        patch: ``(C, *spatial)``.
        resumable: whether an epoch was finished and its checkpoint written.
    """
    return (
        f"{where}: batch of {labelled} labelled + {unlabelled} unlabelled, patch {'x'.join(map(str, patch[1:]))}, network "
        f"input {(labelled + unlabelled, *patch)}. Lower labelled_batch and unlabelled_batch (a higher accumulate keeps "
        "what one optimiser step sees) or patch. "
    ) + (
        "The last checkpoint is intact: --resume true goes on from it with the numbers it was written with, where more "
        "memory is free; other numbers are a new run."
        if resumable
        else "No epoch was finished yet: there is nothing to resume."
    )


def _ran_out(error: BaseException) -> bool:
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(sign in str(error) for sign in _SIGNS)
