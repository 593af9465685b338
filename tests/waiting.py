"""The one place where a test waits: for a sign of another thread or process, never for a time."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

# How a process of a test goes on until it is ended; the process that it belongs to is long gone then.
FOR_LONG = "import threading; threading.Event().wait(60)"


def until(
    there: Callable[[], T], *processes: subprocess.Popen[Any], log: Path | None = None, seconds: float = 120.0
) -> T:
    """What ``there`` returns, once it is true, while all ``processes`` run.

    Raises:
        AssertionError: a process has ended, or the time is over; with the end of ``log``.
    """
    deadline = time.monotonic() + seconds
    while not (found := there()):
        said = log.read_text(encoding="utf-8")[-3000:] if log else f"not there after {seconds:g} s"
        assert time.monotonic() < deadline, said
        assert all(process.poll() is None for process in processes), said
        time.sleep(0.01)
    return found
