"""A process that dies while it writes a checkpoint, at any part of the write, leaves the earlier ones whole.

The kernel ends it: with the signal's default action a write beyond the limit of a file's size is the process's last, as
after kill -9, at a place that a test can choose.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT

from custom.files import sweep
from custom.run.checkpoint import newest

PARTS, PART_VALUES = 10, 100_000
SIZE_BYTES = PARTS * PART_VALUES * 4
PERCENT = range(10, 100, 10)

# torch is imported once; each writer is a fork of that process. It saves one epoch whole (at first two) and dies in the next.
NURSERY = f"""
import os, resource, signal, sys
from pathlib import Path
import torch
from custom.files import sweep
from custom.run.checkpoint import newest, save

def write(folder, limit):
    sweep(folder)
    found = newest(folder)
    done = found[0]["epoch"] if found else 0
    last = max(done + 2, 3)
    for epoch in range(done + 1, last + 1):
        if epoch == last:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        save({{"epoch": epoch, "parts": [torch.full(({PART_VALUES},), float(epoch)) for _ in range({PARTS})]}}, folder, epoch)

torch.set_num_threads(1)
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        write(Path(sys.argv[1]), int(line))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


def litter(folder: Path) -> list[Path]:
    return list(folder.glob(".last_*.tmp"))


def assert_whole(path: Path) -> int:
    state = torch.load(path, weights_only=True)
    assert path.name == f"last_{state['epoch']:04d}.pt"
    assert len(state["parts"]) == PARTS
    assert all(torch.equal(part, torch.full((PART_VALUES,), float(state["epoch"]))) for part in state["parts"])
    return state["epoch"]


@pytest.mark.fault("1", "killed at 10 to 90 % of a write")
def test_after_a_kill_at_10_to_90_percent_of_a_write_both_kept_checkpoints_are_whole(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", NURSERY, str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as nursery:
        for number, percent in enumerate(PERCENT):
            limit = SIZE_BYTES * percent // 100
            print(limit, file=nursery.stdin, flush=True)
            assert int(nursery.stdout.readline()) == -signal.SIGXFSZ
            (half,) = litter(tmp_path)
            assert (half.name.split(".")[1], half.stat().st_size) == (f"last_{number + 3:04d}", limit)
            assert sorted(assert_whole(path) for path in tmp_path.glob("last_*.pt")) == [number + 1, number + 2]
            assert newest(tmp_path)[0]["epoch"] == number + 2
        nursery.stdin.close()
    assert sweep(tmp_path) == [half]
    assert not litter(tmp_path)
