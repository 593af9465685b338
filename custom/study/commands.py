"""Several commands of a bundle in one process, which imports and starts once: ``python -m scripts.study.commands FILE``.

Started in the folder of a bundle. FILE is JSON, a list of ``{"run_id", "config_file", "overrides"}``; beside it ``seconds.json``
says what each of them took, and ``memory.json`` the bytes of memory at most after the imports and at the end. It ends with the
process that started it: it has a session of its own, and nobody else would end it when that one is killed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import warnings
from pathlib import Path

from ..errors import show_plainly
from ..files import write_text
from .side_by_side import PARENT
from .space import memory_so_far

SECONDS, MEMORY, IMPORTS, PEAK = "seconds.json", "memory.json", "imports", "peak"
LOOK_S = 1.0  # between two looks whether the process is there that started this one


def end_with_parent() -> None:
    """Send this process SIGTERM as soon as the one that started it is gone: a killed process tells nobody."""
    parent = int(os.environ.get(PARENT) or os.getppid())

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_S)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="end with parent", daemon=True).start()


def main(file: Path) -> None:
    """Run them in their order; the first that fails ends the process."""
    end_with_parent()
    from monai.bundle import run

    show_plainly()
    warnings.filterwarnings("ignore", message="parsing config_file")
    seconds = {IMPORTS: round(time.time() - file.stat().st_mtime, 2)}  # the file was written just before
    memory = {IMPORTS: memory_so_far()}
    for command in json.loads(file.read_text(encoding="utf-8")):
        start = time.monotonic()
        run(run_id=command["run_id"], config_file=command["config_file"], **command["overrides"])
        seconds[command["config_file"][-1]] = round(time.monotonic() - start, 2)
        write_text(file.with_name(SECONDS), json.dumps(seconds) + "\n")
        write_text(file.with_name(MEMORY), json.dumps({**memory, PEAK: memory_so_far()}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
