"""kill -9 while a checkpoint is written: three times in the ordinary suite, twenty times with ``-m slow``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from custom.files import sweep
from custom.run.checkpoint import newest

ROOT = Path(__file__).parents[2]
PARTS, PART_VALUES = 25, 1_000_000  # 25 tensors of 4 MB: a write long enough to be hit
SIZE_BYTES = PARTS * PART_VALUES * 4

# torch is imported once; each writer is a fork of that process, so that a kill costs no new import.
NURSERY = f"""
import os, sys
from pathlib import Path
import torch
from custom.checkpoint import newest, save, sweep

def write_for_ever(folder):
    sweep(folder)
    found = newest(folder)
    epoch = found[0]["epoch"] if found else 0
    while True:
        epoch += 1
        parts = [torch.full(({PART_VALUES},), float(epoch)) for _ in range({PARTS})]
        save({{"epoch": epoch, "parts": parts}}, folder, epoch)

torch.set_num_threads(1)
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        write_for_ever(Path(sys.argv[1]))
    print(pid, flush=True)
    os.waitpid(pid, 0)
    print("dead", flush=True)
"""


def litter(folder: Path) -> list[Path]:
    return list(folder.glob(".last_*.tmp"))


def kill_in_a_write(nursery: subprocess.Popen[str], folder: Path, fraction: float) -> float | None:
    """Kill a new writer when a temporary file passes ``fraction`` of its size; the fraction it died at, if it did."""
    assert nursery.stdin is not None
    assert nursery.stdout is not None
    nursery.stdin.write("next\n")
    nursery.stdin.flush()
    pid = int(nursery.stdout.readline())
    try:
        wait_until_size(folder, pid, fraction * SIZE_BYTES)
    finally:
        os.kill(pid, signal.SIGKILL)
        assert nursery.stdout.readline() == "dead\n"
    sizes = [path.stat().st_size for path in litter(folder)]
    assert len(sizes) <= 1, "the litter of the writer before was not swept"
    return sizes[0] / SIZE_BYTES if sizes else None


def wait_until_size(folder: Path, pid: int, size_bytes: float) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for path in folder.glob(f".last_*.{pid}.tmp"):
            try:
                # From the third epoch on: then two whole ones must be there.
                if int(path.name[6:10]) > 2 and path.stat().st_size >= size_bytes:
                    return
            except FileNotFoundError:  # renamed in the meantime
                continue
        time.sleep(0.0005)
    pytest.fail("no write was seen within 60 s")


def assert_whole(path: Path) -> int:
    state = torch.load(path, weights_only=True)
    assert path.name == f"last_{state['epoch']:04d}.pt"
    assert len(state["parts"]) == PARTS
    assert all(torch.equal(part, torch.full((PART_VALUES,), float(state["epoch"]))) for part in state["parts"])
    return state["epoch"]


@pytest.mark.fault("1", "killed at 10 to 90 % of a write")
@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_after_a_kill_at_10_to_90_percent_of_a_write_both_kept_checkpoints_are_whole(tmp_path: Path, kills: int):
    hits: list[float] = []
    last_epoch = 0
    with subprocess.Popen(
        [sys.executable, "-c", NURSERY, str(tmp_path)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as nursery:  # fmt: skip
        for attempt in range(3 * kills):
            died_at = kill_in_a_write(nursery, tmp_path, 0.1 + 0.7 * (attempt % kills) / kills)
            epochs = sorted(assert_whole(path) for path in tmp_path.glob("last_*.pt"))
            assert len(epochs) >= 2
            found = newest(tmp_path)
            assert found is not None
            assert found[0]["epoch"] == epochs[-1] >= last_epoch
            last_epoch = epochs[-1]
            if died_at is not None and 0.1 <= died_at <= 0.9:
                hits.append(died_at)
            if len(hits) == kills:
                break
    print(f"{kills} kills in {attempt + 1} attempts, at", *(f"{hit:.0%}" for hit in hits))
    assert len(hits) == kills, "too few of the kills fell into a write for the test to say anything"
    assert len(litter(tmp_path)) == len(sweep(tmp_path)) == 1
    assert not litter(tmp_path)
