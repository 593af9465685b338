"""One output folder belongs to one run at a time."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
import tempfile
from datetime import datetime
from pathlib import Path
from types import TracebackType

from ..errors import UserError

TAKEN = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}
NO_LOCKS_HERE = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}

logger = logging.getLogger(__name__)


class RunFolderError(UserError, RuntimeError):
    """The output folder cannot be written, or another run has it."""


class RunFolder:
    """Holds ``path`` for one run, from ``open()`` (or ``with``) to ``close()`` or the end of the process.

    The lock is the kernel's (flock on ``<path>/.lock``), not a file with a pid in it: it ends with the process, kill -9
    included, and loader workers do not inherit it. The file only says who holds it.

    Args:
        path: the output folder; nothing is touched before ``open()``.
        option: what the user calls it, for the texts of errors.
    """

    def __init__(self, path: str | Path, option: str = "output_dir") -> None:
        self.path, self.option = Path(path), option
        self._descriptor: int | None = None

    def open(self) -> RunFolder:
        """Make the folder, try to write in it, and take the lock; does nothing when this object has it already.

        Raises:
            RunFolderError: the folder cannot be written, or another run (or another object of this process) has it.
        """
        if self._descriptor is not None:
            return self
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            _try_to_write(self.path)
            descriptor = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise RunFolderError(_cannot_write(self.option, self.path, error)) from error
        try:
            self._lock(descriptor)
            _say_who(descriptor)
        except OSError as error:
            os.close(descriptor)
            raise RunFolderError(_cannot_write(self.option, self.path, error)) from error
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        _held.add(self)
        return self

    def close(self) -> None:
        """Let another run have the folder; does nothing when it is not held."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        _held.discard(self)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        except OSError:  # closing releases it as well
            pass
        finally:
            os.close(descriptor)

    def __enter__(self) -> RunFolder:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _lock(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in TAKEN:
                raise RunFolderError(_in_use(self.option, self.path, descriptor)) from None
            if error.errno not in NO_LOCKS_HERE:
                raise
            logger.warning(
                "%s %s is on a file system without locks (%s): see to it that no other run writes there.",
                self.option,
                self.path,
                error.strerror,
            )

    def _forget(self) -> None:
        """Let go of the descriptor in a forked child, so that the lock ends with the run and not with its workers."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)  # without LOCK_UN, which would release the parent's lock


_held: set[RunFolder] = set()


def _forget_all() -> None:
    for folder in list(_held):
        folder._forget()


os.register_at_fork(after_in_child=_forget_all)


def _try_to_write(folder: Path) -> None:
    """A lock file that is there already says nothing about new files, so make one; it has no name to leave behind."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"x")


def _cannot_write(option: str, path: Path, error: OSError) -> str:
    return f"{option} {path} cannot be written: {error.strerror or error}. Choose another --{option}."


def _say_who(descriptor: int) -> None:
    since = datetime.now().astimezone().isoformat(timespec="seconds")
    text = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since})
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode(), 0)


def _in_use(option: str, path: Path, descriptor: int) -> str:
    try:
        who = json.loads(os.pread(descriptor, 4096, 0))
        holder = f"pid {int(who['pid'])} on host {who['host']} (since {_clock(who['since'])})"
    except (OSError, ValueError, KeyError, TypeError):  # read between its lock and its first line
        holder = "another run"
    return f"{option} {path} is in use by {holder}. Wait for it, stop it, or choose another --{option}."


def _clock(since: str) -> str:
    """``10:02``, with the date in front when it is not today's."""
    started = datetime.fromisoformat(since).astimezone()
    today = started.date() == datetime.now().astimezone().date()
    return f"{started:%H:%M}" if today else f"{started:%Y-%m-%d %H:%M}"
