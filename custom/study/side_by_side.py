"""Commands side by side, each on cores of its own: what a study and a comparison of many runs are made of."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from .. import cores
from ..cores import Share

Result = TypeVar("Result")

GRACE_S = 30.0  # from SIGTERM to SIGKILL
LOOK_S = 0.2  # between two looks at a command
PARENT = "POOL_PROCESS"  # variable of a command's environment: the process that started it
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # the last: a terminal, or a session of ssh, was closed


class Stopped(Exception):
    """The commands were asked to end, by SIGTERM, SIGHUP or Ctrl-C."""


class Late(Exception):
    """A command was ended at its deadline.

    Args:
        peak_mb: largest memory of what was ended.
    """

    def __init__(self, peak_mb: int) -> None:
        super().__init__(f"stopped; so far {peak_mb} MB")
        self.peak_mb = peak_mb


class Pool:
    """So many tasks at a time, each with a :class:`~..cores.Share` of the cores; a context manager.

    A task is a function that gets its share and starts commands by :meth:`command`. What one raises is its future's alone:
    the others go on. On SIGTERM, SIGHUP or Ctrl-C, while the ``with`` holds, and where its block raises, every command is asked
    to end and killed after :data:`GRACE_S`; the tasks that did not begin are cancelled. No command outlives the block. Where
    this process is killed nothing of that happens: a command can see it, by :data:`PARENT`, and end by itself. ``nohup`` holds:
    a SIGHUP that is ignored stays so.

    Args:
        jobs: tasks at a time.
        threads: of each command; by default as :func:`~..cores.shares` says.

    Raises:
        ValueError: ``jobs`` below 1.
    """

    def __init__(self, jobs: int, threads: int | None = None) -> None:
        self.shares = [Share(share.cores, threads or share.threads) for share in cores.shares(jobs)]
        self.caught: int | None = None
        self._free: queue.SimpleQueue[Share] = queue.SimpleQueue()
        for share in self.shares:
            self._free.put(share)
        self._end = threading.Event()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Pool:
        self._executor = ThreadPoolExecutor(len(self.shares))
        if threading.current_thread() is threading.main_thread():
            for number in STOPPING:
                if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                    continue
                self._before[number] = signal.signal(number, lambda caught, _: self.stop(caught))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.stop()
        self._executor.shutdown(cancel_futures=self.stopped)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def stopped(self) -> bool:
        return self._end.is_set()

    def stop(self, caught: int | None = None) -> None:
        """Ask every command to end, and start no other; ``caught`` is the signal that asked for it."""
        self.caught = self.caught or caught
        self._end.set()

    def submit(self, task: Callable[[Share], Result]) -> Future[Result]:
        """Begin the task as soon as a share is free; one that begins after :meth:`stop` raises :class:`Stopped`."""
        return self._executor.submit(self._with_share, task)

    def _with_share(self, task: Callable[[Share], Result]) -> Result:
        if self.stopped:
            raise Stopped
        share = self._free.get()
        try:
            return task(share)
        finally:
            self._free.put(share)

    def command(
        self,
        command: Sequence[str],
        share: Share,
        folder: Path,
        log: Path,
        deadline: float = float("inf"),
    ) -> tuple[int, int]:
        """Run a command on the cores of a share; what it prints is added to ``log``, which begins with those cores.

        Args:
            folder: where it runs.
            deadline: on ``time.monotonic()``'s clock.

        Returns:
            Its exit code and its largest memory in MB.

        Raises:
            Stopped: it was ended, or not begun, because the pool was asked to stop.
            Late: it was ended at its deadline.
        """
        if self.stopped:
            raise Stopped
        variables = {**os.environ, "TQDM_DISABLE": "1", PARENT: str(os.getpid()), **share.environment()}
        with log.open("ab") as output:
            output.write(f"On {share}.\n".encode())
            output.flush()
            child = subprocess.Popen(command, cwd=folder, env=variables, stdout=output, stderr=output,
                                     stdin=subprocess.DEVNULL, start_new_session=True)  # Ctrl-C: by stop() alone  # fmt: skip
        try:
            share.hold(child.pid)
            return self._wait(child, deadline)
        except (Stopped, Late):
            raise
        except BaseException:
            child.kill()
            child.wait()
            raise

    def _wait(self, child: subprocess.Popen[bytes], deadline: float) -> tuple[int, int]:
        asked: type[Stopped] | type[Late] | None = None
        while True:
            pid, status, usage = os.wait4(child.pid, os.WNOHANG)
            if pid:
                child.returncode = os.waitstatus_to_exitcode(status)
                peak_mb = round(usage.ru_maxrss / 1024)
                if asked and child.returncode:
                    raise Stopped if asked is Stopped else Late(peak_mb)
                return child.returncode, peak_mb
            now = time.monotonic()
            if asked is None and (self.stopped or now > deadline):
                child.terminate()
                asked, kill_at = (Stopped if self.stopped else Late), now + GRACE_S
            elif asked is not None and now > kill_at:
                child.kill()
            self._end.wait(LOOK_S) if asked is None else time.sleep(LOOK_S)
