"""A process of a group that is killed, or a machine of two: the group goes on from the last checkpoint."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from conftest import ROOT, TINY
from ports import free_port
from test_resume import assert_same_state
from torchrun import end, lose, of_two_machines, one_machine, pid_of_rank, start
from waiting import until

LONG = {**TINY, "steps": 80, "epoch_steps": 20, "resume": "true"}

# What every rank holds at the end, beside the run's files.
KEEP = """
rank: {_target_: scripts.distributed.rank}
save: $__import__('torch').save
finalize:
- $@save(@train::trainer.state_dict(), @output_dir + '/rank%d' % @rank)
- {_target_: scripts.distributed.stop}
"""


def train(group: list[str], folder: Path, phantoms: Path, log: str = "log") -> subprocess.Popen:
    """The command of ``multi_gpu_train.yaml``, on CPUs over Gloo, by a group of processes."""
    folder.mkdir(exist_ok=True)
    (folder / "keep.yaml").write_text(KEEP)
    files = f"['configs/train.yaml','configs/multi_gpu_train.yaml','{folder / 'keep.yaml'}']"
    settings = {**LONG, "dataset_dir": phantoms, "output_dir": folder}
    command = [*group, "-m", "monai.bundle", "run", "training", "--config_file", files,
               *[f"--{key}={value}" for key, value in settings.items()]]  # fmt: skip
    return start(command, ROOT / "bundles/mean_teacher", folder / log)


@pytest.fixture(scope="module")
def straight(tmp_path_factory, phantoms) -> Path:
    """An unbroken run of two processes."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    assert train(one_machine(2, 0), folder, phantoms).wait(300) == 0, (folder / "log").read_text(encoding="utf-8")[
        -3000:
    ]
    return folder


def check_end(out: Path, straight: Path) -> None:
    """Rows and weights of the unbroken run, on both ranks."""
    assert sorted(path.name for path in out.glob("last_*")) == ["last_0003.pt", "last_0004.pt"]
    assert [line.split(",")[0] for line in (out / "metrics.csv").read_text(encoding="utf-8").splitlines()[1:]] == [
        "1",
        "2",
        "3",
        "4",
    ]
    a, b = (torch.load(run / "last_0004.pt", weights_only=True)["state"] for run in (straight, out))
    assert_same_state(a, b)
    ranks = [torch.load(out / f"rank{rank}", weights_only=True) for rank in (0, 1)]
    assert_same_state(*ranks)
    assert_same_state(ranks[0], b)


@pytest.mark.slow
@pytest.mark.fault("14", "rank 1 of 2 killed under torchrun")
def test_a_killed_rank_restarts_the_group_which_ends_with_the_weights_of_an_unbroken_run(tmp_path, phantoms, straight):
    out = tmp_path / "killed"
    group = train(one_machine(2, 1), out, phantoms)
    try:
        until((out / "last_0002.pt").exists, group, log=out / "log")
        os.kill(pid_of_rank(1, group.pid), signal.SIGKILL)
        assert group.wait(300) == 0, (out / "log").read_text(encoding="utf-8")[-3000:]
    finally:
        end(group)
    log = (out / "log").read_text(encoding="utf-8")
    assert re.findall(r"Resumed from (.*)", log) == ["last_0002.pt: epoch 3 of 4."], (
        "one restart, one rank that reports"
    )
    check_end(out, straight)


@pytest.mark.slow
@pytest.mark.fault("14", "one of two machines lost in a training, both started again")
def test_a_lost_machine_costs_an_epoch_and_no_weight(tmp_path, phantoms, straight):
    out = tmp_path / "lost"

    def both() -> list[subprocess.Popen]:
        port = free_port()
        return [train(of_two_machines(port, 0, host), out, phantoms, f"log{int(host)}") for host in (True, False)]

    machines = both()
    try:
        until((out / "last_0002.pt").exists, *machines, log=out / "log1")
        lose(machines[0])
        assert machines[1].wait(120) != 0
        machines = both()
        assert [machine.wait(300) for machine in machines] == [0, 0], (out / "log0").read_text(encoding="utf-8")[-3000:]
    finally:
        end(*machines)
    log = (out / "log0").read_text(encoding="utf-8") + (out / "log1").read_text(encoding="utf-8")
    assert len(re.findall(r"Resumed from last_000[23]\.pt: epoch [34] of 4\.", log)) == 1
    check_end(out, straight)
