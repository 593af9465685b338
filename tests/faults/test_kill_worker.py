"""A process of a group that is killed: torchrun ends and restarts the group, which goes on from the last checkpoint."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT, TINY
from test_resume import assert_same_state

LONG = {**TINY, "steps": 80, "epoch_steps": 20, "resume": "true"}

# What every rank holds at the end, beside the run's files.
KEEP = """
rank: {_target_: scripts.distributed.rank}
save: $__import__('torch').save
finalize:
- $@save(@train::trainer.state_dict(), @output_dir + '/rank%d' % @rank)
- {_target_: scripts.distributed.stop}
"""


def start(folder: Path, phantoms: Path, restarts: int) -> subprocess.Popen:
    """The command of ``multi_gpu_train.yaml``, on CPUs over Gloo."""
    folder.mkdir()
    (folder / "keep.yaml").write_text(KEEP)
    files = f"['configs/train.yaml','configs/multi_gpu_train.yaml','{folder / 'keep.yaml'}']"
    settings = {**LONG, "dataset_dir": phantoms, "output_dir": folder}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
               "--max-restarts", str(restarts), "-m", "monai.bundle", "run", "training", "--config_file", files,
               *[f"--{key}={value}" for key, value in settings.items()]]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (folder / "log").open("w") as log:
        return subprocess.Popen(command, cwd=ROOT / "bundles/mean_teacher", env=environment, stdout=log, stderr=log)


def pid_of_rank(rank: int, parent: int) -> int:
    """Of the process that torchrun (``parent``) started as that rank."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return next(
        int(c) for c in children if f"RANK={rank}".encode() in Path(f"/proc/{c}/environ").read_bytes().split(b"\0")
    )


@pytest.mark.slow
@pytest.mark.fault("14", "rank 1 of 2 killed under torchrun")
def test_a_killed_rank_restarts_the_group_which_ends_with_the_weights_of_an_unbroken_run(tmp_path, phantoms):
    straight = start(tmp_path / "straight", phantoms, restarts=0)
    assert straight.wait(300) == 0, (tmp_path / "straight/log").read_text()[-3000:]

    out = tmp_path / "killed"
    group = start(out, phantoms, restarts=1)
    try:
        deadline = time.monotonic() + 120
        while not (out / "last_0002.pt").exists():
            assert time.monotonic() < deadline, (out / "log").read_text()[-3000:]
            with contextlib.suppress(subprocess.TimeoutExpired):
                group.wait(0.01)
        os.kill(pid_of_rank(1, group.pid), signal.SIGKILL)
        assert group.wait(300) == 0, (out / "log").read_text()[-3000:]
    finally:
        group.terminate()  # its processes with it
        group.wait(60)

    log = (out / "log").read_text()
    assert re.findall(r"Resumed from (.*)", log) == ["last_0002.pt: epoch 3 of 4."], (
        "one restart, one rank that reports"
    )
    assert sorted(path.name for path in out.glob("last_*")) == ["last_0003.pt", "last_0004.pt"]
    assert [line.split(",")[0] for line in (out / "metrics.csv").read_text().splitlines()[1:]] == ["1", "2", "3", "4"]
    a, b = (torch.load(tmp_path / run / "last_0004.pt", weights_only=True)["state"] for run in ("straight", "killed"))
    assert_same_state(a, b)
    ranks = [torch.load(out / f"rank{rank}", weights_only=True) for rank in (0, 1)]
    assert_same_state(*ranks)
    assert_same_state(ranks[0], b)
