"""Candidates in processes of their own that run a few steps whenever it is their turn.

Machines differ from minute to minute, so candidates take turns and the medians of their rounds are compared. A process of its own
tells a candidate's memory, and spares it the others' allocations. The worker prints one line of JSON a turn.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

ROOT = Path(__file__).resolve().parents[2]
_STDOUT: list[TextIO] = []


class Worker:
    """A candidate in its process.

    Args:
        module: below the package; run with ``spec`` as JSON on its command line. A path is run as a file.
        threads: of the processor.
        log: file for what it prints beside its lines.
        package: that has the module; None: this one.
        python: of the environment that it runs in; None: this one.
    """

    def __init__(
        self,
        module: str | Path,
        spec: Mapping[str, Any],
        threads: int,
        log: Path,
        package: str | None = None,
        python: Path | None = None,
    ) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive", "TQDM_DISABLE": "1"}
        self.log = log
        named = [str(module)] if isinstance(module, Path) else ["-m", f"{package or __package__}.{module}"]
        with log.open("wb") as file:
            self._child = subprocess.Popen(
                [str(python or sys.executable), *named, json.dumps(spec)],
                cwd=ROOT, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file,
            )  # fmt: skip

    def turn(self) -> dict[str, Any]:
        """Let it run; returns its line.

        Raises:
            RuntimeError: it ended; the text has the end of its log.
        """
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        line = ""
        try:
            self._child.stdin.write("go\n")
            self._child.stdin.flush()
            line = self._child.stdout.readline()
        except BrokenPipeError:
            pass
        if not line:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
            raise RuntimeError(f"{self.log.stem} ended:\n{tail}")
        return json.loads(line)

    def end(self) -> None:
        self._child.kill()
        self._child.wait()


def keep_stdout() -> None:
    """Called first of all in a worker: its lines go to the caller, everything else that is printed to the log."""
    _STDOUT.append(os.fdopen(os.dup(1), "w"))
    os.dup2(2, 1)


def wait() -> None:
    """Wait, in a worker, until it is its turn; the process ends with its caller."""
    if not sys.stdin.readline():
        os._exit(0)


def answer(**values: Any) -> None:
    """End a turn, in a worker. ``peak`` are the bytes that the process has held at most."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(json.dumps({"peak": peak, **values}), file=_STDOUT[0], flush=True)
