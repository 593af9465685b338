"""What makes two preprocessed scans the same: the bytes of their files, the transforms with their settings, and the code."""

from __future__ import annotations

import contextlib
import enum
import functools
import hashlib
import inspect
import json
import os
import sys
import threading
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import code
from ..cohort.formats import files_of
from ..cohort.record import settled, signature
from ..files import typed

LIBRARIES = (
    "monai",
    "torch",
    "numpy",
    "scipy",
    "nibabel",
    "itk-io",
    "pillow",
)  # that read and resample, by their versions
BY_VERSION = {*LIBRARIES, *sys.stdlib_module_names}
HERE = Path(__file__).resolve().parent
OWN_CODE = (
    *(HERE.parent / "cohort").rglob("*.py"),
    HERE / "preprocessed.py",
    HERE / "scan.py",
)  # from a file to a tensor
LEFT_OUT = (
    np.random.RandomState,
    np.random.Generator,
    torch.Generator,
    threading.local,
)  # changes with use, not what is done
LAST_READ = ("filenames",)  # what MONAI's readers keep of the last file


class Contents:
    """SHA-256 of files, remembered in a file of lines; one that did not change is not read again.

    Whether one changed is :func:`..cohort.record.signature`'s to say. Any number of processes add lines; a line that cannot
    be read is as if it were not there.

    Args:
        path: of the file of lines.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[str, tuple[str, str]] = {}
        for line in _lines(path):
            try:
                name, before, digest = json.loads(line)
                self._known[name] = str(before), str(digest)
            except (ValueError, TypeError):
                continue

    def of(self, scan: Path) -> str:
        """SHA-256 over the files of a scan, their endings and bytes.

        Raises:
            OSError: one cannot be read.
        """
        path = typed(str(scan))
        name = os.path.abspath(path)
        known = self._known.get(name)
        if known and known[0] == signature(name):
            return known[1]
        before, state = settled(name), hashlib.sha256()
        for file in files_of(path):
            state.update(f"{''.join(file.suffixes).lower()} {file.stat().st_size}\n".encode())
            with file.open("rb") as opened:
                while block := opened.read(2**20):
                    state.update(block)
        if before is not None:
            self._keep(name, before, state.hexdigest())
        return state.hexdigest()

    def _keep(self, name: str, before: str, digest: str) -> None:
        self._known[name] = before, digest
        with contextlib.suppress(
            OSError
        ):  # a full disk, a folder that may only be read: it is found again the next time
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            with os.fdopen(descriptor, "ab", buffering=0) as opened:  # at once: lines of other processes are not torn
                opened.write((json.dumps([name, before, digest]) + "\n").encode())


def preprocessing(transform: Any, **settings: Any) -> str:
    """SHA-256 of a transform: its classes and settings, the code of this package that reads, the libraries' versions.

    Random generators are left out: a preprocessing must not be random. So is what a transform keeps of its last case.
    """
    state = hashlib.sha256()
    for part in (*_describe(transform, set()), *_describe(settings, set()), code.digest(OWN_CODE, LIBRARIES)):
        state.update(f"{part}\n".encode())
    return state.hexdigest()


def _describe(value: Any, above: set[int]) -> Iterable[str]:
    """Lines that are the same for two objects of the same types and settings, in any process."""
    if isinstance(value, np.ndarray | torch.Tensor):
        array = np.ascontiguousarray(torch.as_tensor(value).cpu().numpy())
        yield f"array {array.dtype} {array.shape} {hashlib.sha256(array.data).hexdigest()}"
    elif isinstance(
        value, enum.Enum | str | bytes | int | float | complex | Path | type(None) | torch.dtype | np.generic
    ):
        yield f"{type(value).__name__} {value!r}"
    elif isinstance(value, type | types.BuiltinFunctionType):
        yield f"{value.__module__}.{value.__qualname__} {_source(value)}"
    elif isinstance(value, types.CodeType):
        yield f"code {value.co_code.hex()} {value.co_names} {value.co_varnames}"
        yield from _describe(value.co_consts, above)
    elif id(value) in above:
        yield "again"
    else:
        below = above | {id(value)}
        yield f"{type(value).__module__}.{type(value).__qualname__} {_source(type(value))}"
        for name, part in _parts(value):
            yield f"{name}:"
            yield from _describe(part, below)


def _parts(value: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [(repr(key), part) for key, part in value.items()]
    if isinstance(value, list | tuple):
        return [(str(number), part) for number, part in enumerate(value)]
    if isinstance(value, set | frozenset):
        return [("", part) for part in sorted(value, key=repr)]
    if isinstance(value, functools.partial):
        return [("func", value.func), ("args", value.args), ("keywords", value.keywords)]
    if isinstance(value, types.MethodType):
        return [("func", value.__func__), ("self", value.__self__)]
    if isinstance(value, types.FunctionType):  # a lambda of a config has no file
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        return [("code", value.__code__), ("defaults", value.__defaults__), ("around", cells)]
    own = getattr(value, "__dict__", {})
    return [(name, own[name]) for name in sorted(own) if name not in LAST_READ and not isinstance(own[name], LEFT_OUT)]


def _source(what: Any) -> str:
    """The digest of the file that a class or function stands in; empty for those that a version tells of."""
    if (what.__module__ or "builtins").partition(".")[0] in BY_VERSION:
        return ""
    try:
        return hashlib.sha256(Path(inspect.getsourcefile(what) or "").read_bytes()).hexdigest()
    except (TypeError, OSError):  # of C, or typed in
        return ""


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
