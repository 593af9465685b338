"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

from custom.files import write_atomically


def test_two_threads_may_write_one_file(tmp_path, monkeypatch):
    """Two containers that share a folder do so: their processes and threads have the same numbers."""
    monkeypatch.setattr(threading, "get_native_id", lambda: 1)
    monkeypatch.setattr(os, "getpid", lambda: 1)
    both = threading.Barrier(2, timeout=30)

    def write(text: bytes) -> None:
        write_atomically(tmp_path / "a", lambda file: both.wait() is None or file.write(text))

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(write, (b"one", b"two")))
    assert (tmp_path / "a").read_bytes() in (b"one", b"two")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
