"""What files hold, remembered beside the list: an unchanged file is not read again. May be deleted at any time."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import math
import os
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .. import code, cores
from ..files import LITTER, FileError, write_text
from ..memory import bound_bytes, free_memory, resident_bytes, return_freed_memory
from ..pace import Pace, shown
from .facts import Facts, ScanFault, read
from .formats import files_of, held_bytes, load_libraries
from .formats.nifti import HELD, is_nifti
from .resampling import gigabytes

MOST_THREADS = 4  # zlib, hashlib and numpy let go of the interpreter, all else does not
EVERY_S = 60.0  # of reading, from one writing to the next: what is lost by kill -9
TICK_S = 0.02  # of a kernel's clock of files, at most; two writings within one tick have one time
COARSE_TICK_S = 2.0  # of a file system that keeps whole seconds
PATIENCE_S = 10.0  # for another process that writes the same record
READING = ("facts.py", "formats/*.py", "words.py", "../placeholders.py", "../errors.py")
LIBRARIES = ("numpy", "nibabel", "itk-io", "itk-core", "pillow", "monai")

logger = logging.getLogger(__name__)


class TooLarge(ScanFault):
    """A file that would take more memory than the process may have; nothing is known to be wrong with it."""


class Record:
    """Facts of files by path, kept in a JSON file; a file that changed is read again.

    A file has changed when its size, its inode, its time of writing or its time of change is another: the last cannot be
    put back, so an overwritten file is noticed even where the time of writing was restored. A file so young that another
    writing could get the same times is waited for before it is read, 0.02 s, or not recorded. A fault is never recorded,
    and nothing is believed that other code or other libraries read (:func:`reader`).

    The file is replaced as a whole, once a minute while files are read. What other processes recorded meanwhile is kept:
    each adds to what is there, one after the other. A record that cannot be read is made anew; one that cannot be written
    is reported once and stops nothing.

    Args:
        path: of the record; None keeps it in memory alone.
        again: believe nothing of it: each file is read once more.
    """

    def __init__(self, path: str | Path | None = None, again: bool = False) -> None:
        self.path = None if path is None else Path(path)
        self._files: dict[str, Any] = _load(self.path) if self.path and not again else {}
        self._facts: dict[str, Facts] = {}
        self._failure_logged = False

    def facts(
        self,
        paths: Sequence[str],
        workers: int | None = None,
        labels: Collection[str] = (),
        memory_gb: float | None = None,
    ) -> dict[str, Facts | ScanFault]:
        """Facts, or the fault, of each file; what is not in the record, or changed, is read and then recorded.

        Args:
            workers: threads that read; by default one a core, at most :data:`MOST_THREADS`, and fewer where as many files
                would not fit in memory.
            labels: those of ``paths`` whose values are counted; of an image they are kept where it was a label before.
            memory_gb: bound of the whole process, GB (1e9 bytes). No voxel is read of a file whose reading would take more
                than is left of it: its fault is :class:`TooLarge`.

        Raises:
            BoundError: ``memory_gb`` is not above 0.
        """
        bound = bound_bytes(memory_gb)
        wanted = list(dict.fromkeys(str(path) for path in paths))
        labels = set(map(str, labels))
        found: dict[str, Facts | ScanFault] = {p: known for p in wanted if (known := self.known(p, p in labels))}
        unread = [path for path in wanted if path not in found]
        if unread:
            load_libraries(unread)
            threads = min(cores.count(), MOST_THREADS) if workers is None else max(workers, 1)
            found |= self._read(unread, threads, labels, bound)
        return {path: found[path] for path in wanted}

    def known(self, path: str, label: bool = False) -> Facts | None:
        """The facts of an unchanged file without reading it, if they are recorded; of a label with its values."""
        key = _key(path)
        entry = self._files.get(key)
        if entry is None or entry["signature"] != _signature(path)[0] or (label and not entry["facts"]["counted"]):
            return None
        if key not in self._facts:
            self._facts[key] = Facts(**{name: _tuples(value) for name, value in entry["facts"].items()})
        return self._facts[key]

    def _read(
        self, paths: Sequence[str], threads: int, labels: Collection[str], bound: float
    ) -> dict[str, Facts | ScanFault]:
        # taken before reading: a file that is written meanwhile has changed
        signatures = _settled(paths)
        found: dict[str, Facts | ScanFault] = {}
        pace, unsaved = Pace(EVERY_S), False
        left = _left_of(bound)
        pool, room = ThreadPoolExecutor(threads), _Room(min(free_memory(), left))

        def read_one(path: str) -> Facts | ScanFault:
            file, label = Path(_key(path)), path in labels
            needed = held_bytes(file, not label, left)
            if needed > left:
                return TooLarge(_too_large(file, label, needed, left, bound))
            with room.of(needed):
                return _read_or_fault(_key(path), label, left)

        try:
            results = shown(pool.map(read_one, paths), "reading scans", len(paths), "scan")
            for path, result in zip(paths, results, strict=True):
                found[path] = result
                if isinstance(result, Facts):
                    unsaved = self._keep(_key(path), signatures[path], result) or unsaved
                if unsaved and pace.due():
                    self._write()
                    unsaved = False
        finally:  # also of Ctrl-C: what was read need not be read again
            pool.shutdown(cancel_futures=True)
            if unsaved:
                self._write()
        return found

    def _keep(self, key: str, signature: str | None, facts: Facts) -> bool:
        if signature is None:
            return False
        self._files[key], self._facts[key] = {"signature": signature, "facts": asdict(facts)}, facts
        return True

    def _write(self) -> None:
        # an inference makes its folder when its scans are found to be good
        if self.path is None or not self.path.parent.exists():
            return
        try:
            with _alone(self.path):
                files = {**_load(self.path), **self._files}
                write_text(self.path, json.dumps({"reader": reader(), "files": files}))
        except FileError as error:
            if not self._failure_logged:
                logger.info("What was read is not recorded, the next check reads every scan again: %s", error)
            self._failure_logged = True


def reader() -> str:
    """Digest of the code and of the libraries that read files, so that a record of others is not believed."""
    room = Path(__file__).parent
    return code.digest(tuple(file for pattern in READING for file in room.glob(pattern)), LIBRARIES)


class _Room:
    """Lets threads read files side by side as far as there is memory for what they take; one at a time always."""

    def __init__(self, free: float) -> None:
        self._free, self._taken, self._changed = free, 0.0, threading.Condition()

    @contextlib.contextmanager
    def of(self, needed: float) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._taken or self._taken + needed <= self._free)
            self._taken += needed
        try:
            yield
        finally:
            with self._changed:
                self._taken -= needed
                self._changed.notify_all()


def _left_of(bound: float) -> float:
    """Bytes of a bound beside those that the process has; what it has freed is handed back first."""
    if math.isinf(bound):
        return bound
    return_freed_memory()
    return max(0.0, bound - resident_bytes())


def _too_large(file: Path, label: bool, needed: float, left: float, bound: float) -> str:
    most = math.ceil((bound - left + needed) / 1e8) / 10
    other = "" if label or is_nifti(file) or left < HELD else ", or store it as NIfTI, which is read in pieces"
    expected = (
        f"expected at most the {gigabytes(left)} that are left of memory_gb {bound / 1e9:g} beside what the process has"
    )
    remedy = f"Give memory_gb {most} on a machine that has it{other}"
    return f"{file.name} takes {gigabytes(needed)} while it is read, {expected}. {remedy}"


def _read_or_fault(path: str, label: bool, room: float) -> Facts | ScanFault:
    try:
        return read(path, label=label, room=room)
    except ScanFault as fault:
        return fault
    except Exception as error:  # a bug in a reader must not lose what was found in the other files
        first = next(iter(str(error).strip().splitlines()), "")
        return ScanFault(f"{Path(path).name} cannot be read: {type(error).__name__}: {first}")


def _key(path: str) -> str:
    return os.path.abspath(path)


# whether a file changed


def signature(path: str) -> str | None:
    """Names, sizes, inodes and times of a scan's files as one digest; None where one is missing."""
    return _signature(path)[0]


def settled(path: str) -> str | None:
    """The :func:`signature` of a scan that another writing would change; None for one that was written a moment ago, or
    is missing."""
    digest, wait = _signature(path)
    return None if wait else digest


def _signature(path: str) -> tuple[str | None, float]:
    """Names, sizes, inodes and times of a scan's files as one digest, None where one is missing; and the seconds until
    another writing would get other times than these."""
    try:
        stats = [(file.name, file.stat()) for file in files_of(Path(path))]
    except OSError:
        return None, 0.0
    seen = [(name, s.st_size, s.st_ino, s.st_mtime_ns, s.st_ctime_ns) for name, s in stats]
    now = time.time_ns()
    waits = [_wait_s(now, at) for _, s in stats for at in (s.st_mtime_ns, s.st_ctime_ns)]
    return hashlib.sha256(repr(seen).encode()).hexdigest(), max(waits, default=0.0)


def _wait_s(now: int, at: int) -> float:
    """Seconds until a time of a file, in ns, is a tick ago; 0 for one more than a tick ahead, as clocks differ."""
    tick = COARSE_TICK_S if at % 10**9 == 0 else TICK_S
    age = (now - at) / 1e9
    return tick - age if abs(age) < tick else 0.0


def _settled(paths: Sequence[str]) -> dict[str, str | None]:
    """The signatures of files, those just written a tick later; None for one that is missing or is still written."""
    found = {path: _signature(path) for path in paths}
    young = [path for path, (_, wait) in found.items() if wait]
    if young:
        time.sleep(max(found[path][1] for path in young))
        found |= {path: _signature(path) for path in young}
    return {path: None if wait else digest for path, (digest, wait) in found.items()}


# the record's own file


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["reader"] != reader() or not all(map(_is_entry, content["files"].values())):
            return {}
        return content["files"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # absent, or not ours
        return {}


def _is_entry(entry: Any) -> bool:
    return isinstance(entry["signature"], str) and Facts.__dataclass_fields__.keys() == entry["facts"].keys()


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """No other process writes this record meanwhile, by a lock on its folder, which leaves no file; without it where
    there are no such locks. What killed writers left of it is removed."""
    folder = None
    with contextlib.suppress(OSError):  # no such folder: the writing tells
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if folder is not None and _locked(folder):
            _sweep(path)
        yield
    finally:
        if folder is not None:
            os.close(folder)  # and with it the lock


def _sweep(path: Path) -> None:
    with contextlib.suppress(OSError):
        for name in os.listdir(path.parent):
            if name.startswith(f".{path.name}.") and LITTER.fullmatch(name):
                os.unlink(path.with_name(name))


def _locked(descriptor: int) -> bool:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(0.02)
        except OSError:  # a file system without such locks
            return False
    return False
