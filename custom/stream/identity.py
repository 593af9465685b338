"""What makes two preprocessed scans the same: the bytes of their files, the transforms with their settings, and the code."""

from __future__ import annotations

import enum
import functools
import hashlib
import inspect
import json
import os
import sys
import threading
import time
import types
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..cohort.formats import files_of
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
SETTLED_S = 2.0  # a file younger than that might be written again within the same tick of its times


class Contents:
    """SHA-256 of files, remembered in a file of lines; one that did not change is not read again.

    A file has changed when its size, its time of writing or its time of change is another. Any number of processes
    add lines; a line that cannot be read is as if it were not there.

    Args:
        path: of the file of lines.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[str, tuple[list[int], str]] = {}
        for line in _lines(path):
            try:
                name, signature, digest = json.loads(line)
                self._known[name] = list(signature), str(digest)
            except (ValueError, TypeError):
                continue

    def of(self, scan: Path) -> str:
        """SHA-256 over the files of a scan, their endings and bytes.

        Raises:
            OSError: one cannot be read.
        """
        state = hashlib.sha256()
        for file in files_of(typed(str(scan))):
            state.update(f"{''.join(file.suffixes).lower()} {self._of_file(file)}\n".encode())
        return state.hexdigest()

    def _of_file(self, file: Path) -> str:
        stat, name = file.stat(), os.path.abspath(file)
        signature = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
        known = self._known.get(name)
        if known and known[0] == signature:
            return known[1]
        state = hashlib.sha256()
        with file.open("rb") as opened:
            while block := opened.read(2**20):
                state.update(block)
        digest = state.hexdigest()
        if time.time() - max(stat.st_mtime, stat.st_ctime) > SETTLED_S:
            self._known[name] = signature, digest
            line = json.dumps([name, signature, digest]) + "\n"
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            with os.fdopen(descriptor, "ab", buffering=0) as opened:
                opened.write(line.encode())  # at once, so that lines of other processes are not torn
        return digest


def preprocessing(transform: Any, **settings: Any) -> str:
    """SHA-256 of a transform: its classes and settings, the code of this package that reads, the libraries' versions.

    Random generators are left out: a preprocessing must not be random. So is what a transform keeps of its last case.
    """
    state = hashlib.sha256()
    for part in (*_describe(transform, set()), *_describe(settings, set()), *_versions(), *_own_code()):
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


@functools.cache
def _versions() -> list[str]:
    found = {part.metadata["Name"].lower(): part.version for part in metadata.distributions() if part.metadata["Name"]}
    return [f"{name} {found.get(name, '')}" for name in LIBRARIES]


@functools.cache
def _own_code() -> list[str]:
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(OWN_CODE)]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
