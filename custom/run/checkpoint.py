"""Checkpoints that survive being killed, cut short or tampered with: ``last_0007.pt``, two of them kept.

A finished file is never changed in place. A new one is written beside it, forced to the disk and renamed, and only
then is an older one removed, so that a kill at any moment leaves a whole checkpoint. They are read with
``weights_only=True`` alone. Assembled by a trainer as::

    sweep(folder)                          # litter of a killed run
    found = newest(folder)                 # (state, path), or None in a new folder
    ...
    save(state, folder, epoch)             # at the end of each epoch, one process alone
"""

from __future__ import annotations

import logging
import re
import zipfile
from collections import OrderedDict
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError
from ..files import FileError, entries, write_atomically

CHECKPOINT = re.compile(r"last_(\d{4,})\.pt")
ABSENT = object()

# What torch.load(weights_only=True) gives back. Exact types: it refuses subclasses (numpy.float64, defaultdict).
PLAIN = {type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size}
CONTAINERS = {list, tuple, set}
MAPPINGS = {dict, OrderedDict}
TENSORS = {torch.Tensor, torch.nn.Parameter}


logger = logging.getLogger(__name__)


class CheckpointError(UserError, RuntimeError):
    """A checkpoint could not be written, or there are some and none can be read."""


# Writing


def save(state: dict[str, Any], folder: Path, epoch: int, keep: int = 2) -> Path:
    """Write ``last_{epoch:04d}.pt`` whole, then remove the oldest before it, so that ``keep`` up to ``epoch`` remain.

    Checkpoints of later epochs are never removed: they are there only when they could not be read, and are replaced
    as training reaches them.

    Args:
        state: tensors and plain types only, nested in dicts, lists, tuples.
        folder: exists, and is held by one writer (``RunFolder``).
        epoch: finished epochs, >= 0.
        keep: how many to keep, >= 1; with 1 an unreadable newest has nothing behind it.

    Returns:
        The path written.

    Raises:
        ValueError: ``epoch`` or ``keep`` out of range.
        TypeError: ``state`` holds what could not be read back; names the entry. Nothing is written.
        CheckpointError: it cannot be written; the earlier ones are all still there.
    """
    if epoch < 0:
        raise ValueError(f"epoch is a number of finished epochs >= 0, got {epoch}")
    if keep < 1:
        raise ValueError(f"keep is a number of checkpoints >= 1, got {keep}")
    needed = _size_bytes(state)
    path = Path(folder) / f"last_{epoch:04d}.pt"
    kept = next((old.name for old in _checkpoints(path.parent)), "")
    try:
        write_atomically(path, lambda file: torch.save(state, file), needed=needed, kept=kept)
    except FileError as error:
        raise CheckpointError(str(error)) from error
    older = [old for old in _checkpoints(path.parent) if _epoch(old) < epoch]  # newest first
    for old in older[keep - 1 :]:
        try:
            old.unlink(missing_ok=True)
        except OSError as error:  # one file too many is not worth stopping a training for
            logger.warning("%s cannot be removed: %s.", old.name, error.strerror)
    return path


def _size_bytes(state: Any) -> int:
    """Bytes of the distinct tensor storages, which is nearly the size of the file; checks every entry on the way."""
    storages: dict[int, int] = {}
    for where, value in _entries_of(state, "state"):
        if type(value) in TENSORS:
            storages.update(_storage(value))
        elif type(value) not in PLAIN:
            kind = f"{type(value).__module__}.{type(value).__qualname__}"
            raise TypeError(f"{where} is a {kind}: a checkpoint holds tensors and plain types alone. Convert it first.")
    return sum(storages.values())


def _entries_of(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    """The leaves of nested containers, and the keys of the dicts, each with its place."""
    if type(value) in MAPPINGS:
        for key, item in value.items():
            yield f"key {key!r} of {where}", key
            yield from _entries_of(item, f"{where}[{key!r}]")
    elif type(value) in CONTAINERS:
        for index, item in enumerate(value):
            yield from _entries_of(item, f"{where}[{index}]")
    else:
        yield where, value


def _storage(tensor: torch.Tensor) -> dict[int, int]:
    try:
        storage = tensor.untyped_storage()  # saved as a whole, and once, whatever views of it there are
    except NotImplementedError:  # sparse
        return {id(tensor): tensor.numel() * tensor.element_size()}
    return {storage.data_ptr(): storage.nbytes()}


# Reading


def exist(folder: Path) -> bool:
    """Whether there is a checkpoint, readable or not."""
    return bool(_checkpoints(folder))


def newest(folder: Path) -> tuple[dict[str, Any], Path] | None:
    """The newest checkpoint that can be read, on the CPU, and its path; None where there is none at all.

    Each newer one that cannot be read (truncated, damaged, holding anything that would run code) is named in a warning
    with its reason.

    Raises:
        CheckpointError: there are checkpoints and none can be read: a new run must never begin silently.
    """
    refused: list[tuple[Path, str]] = []
    for path in _checkpoints(folder):
        try:
            state = _read(path)
        except _UnreadableError as error:
            refused.append((path, str(error)))
            continue
        for bad, reason in refused:
            logger.warning("%s cannot be read (%s). Resuming from %s.", bad.name, reason, path.name)
        return state, path
    if refused:
        listed = "; ".join(f"{path.name} ({reason})" for path, reason in refused)
        raise CheckpointError(
            f"No checkpoint in {folder} can be read: {listed}. Delete them to begin anew, or choose another output_dir."
        )
    return None


class _UnreadableError(Exception):
    """Why one checkpoint cannot be read, in a few words."""


def _read(path: Path) -> dict[str, Any]:
    try:
        _verify_checksums(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except _UnreadableError:
        raise
    except Exception as error:  # torch and pickle raise half a dozen types for a damaged file
        raise _UnreadableError(_reason(error)) from error
    if type(state) is not dict:
        raise _UnreadableError(f"holds a {type(state).__name__}, not a dict")
    return state


def _verify_checksums(path: Path) -> None:
    """torch reads a flipped bit without a word, although its file has a checksum for each record."""
    with path.open("rb") as file:
        start = file.read(2)
    if start not in (b"PK", b"P", b""):
        raise _UnreadableError("refused: it is not a file of torch.save, nothing was run")
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise _UnreadableError(f"damaged: the checksum of {damaged} is wrong")


def _reason(error: Exception) -> str:
    text = str(error)
    if "Weights only load failed" in text:
        found = re.search(r"GLOBAL (\S+)", text)
        return f"refused: it holds {found.group(1) if found else 'more than tensors and plain types'}, nothing was run"
    if isinstance(error, OSError):
        return error.strerror or text
    if isinstance(error, (zipfile.BadZipFile, EOFError)):
        return "truncated?"
    return (text.splitlines() or [type(error).__name__])[0][:120]


def _checkpoints(folder: Path) -> list[Path]:
    """Newest first."""
    return sorted((path for path in entries(folder) if CHECKPOINT.fullmatch(path.name)), key=_epoch, reverse=True)


def _epoch(path: Path) -> int:
    return int(path.stem.removeprefix("last_"))


# Comparing configs


def differences(written: dict[str, Any], now: dict[str, Any], free: Collection[str]) -> list[str]:
    """What a config changed since the checkpoint was written, a sentence each; empty when resume may go on.

    Args:
        written: the config in the checkpoint: dicts, lists and plain values.
        now: this run's config.
        free: paths such as ``"train::trainer::max_epochs"`` which, with all below them, may change.
    """
    before, after = dict(_flat(written)), dict(_flat(now))
    lines = []
    for path in [*before, *(path for path in after if path not in before)]:
        old, new = before.get(path, ABSENT), after.get(path, ABSENT)
        if _is_free(path, free) or _same(old, new):
            continue
        was = f"{path} absent" if old is ABSENT else f"{path}={old!r}"
        lines.append(f"written with {was}, this config has {'it absent' if new is ABSENT else repr(new)}")
    return lines


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves by their path. A list of plain numbers is one leaf, and so is an empty dict, or it would be lost."""
    if isinstance(value, (list, tuple)) and not all(isinstance(item, (int, float)) for item in value):
        value = dict(enumerate(value))
    if isinstance(value, dict) and (value or not path):
        for key, item in value.items():
            yield from _flat(item, f"{path}::{key}" if path else str(key))
    else:
        yield path, list(value) if isinstance(value, tuple) else value


def _is_free(path: str, free: Collection[str]) -> bool:
    return any(path == name or path.startswith(f"{name}::") for name in free)


def _same(old: Any, new: Any) -> bool:
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(map(_same, old, new))
    if isinstance(old, bool) != isinstance(new, bool):  # true and 1 are two things in a config
        return False
    return old == new or (old != old and new != new)  # nan is the same as nan
