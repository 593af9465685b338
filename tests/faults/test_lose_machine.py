"""One of two machines is lost: the run goes on from its last checkpoint to the weights of an unbroken one.

Both machines are torchrun's agents on loopback, with a folder in common.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT
from ports import free_port
from torchrun import end, lose, of_two_machines, start
from waiting import until

EPOCHS = 6

# A run in small: a weight that all ranks move by the mean of their numbers; an epoch is on the disk as a whole, or not.
RUN = f"""
import os, sys, time
sys.path.insert(0, {str(ROOT)!r})
import torch
from custom import distributed
distributed.start()
weight, first = torch.zeros((), dtype=torch.float64), 1
if os.path.exists("weight.pt"):
    first, weight = torch.load("weight.pt")
    print("goes on with epoch", first, flush=True)
for epoch in range(first, {EPOCHS} + 1):
    gradient = torch.tensor(1.0 / (epoch + 10 * distributed.rank()), dtype=torch.float64)
    torch.distributed.all_reduce(gradient)
    weight = 0.9 * weight + gradient / distributed.world_size()
    if distributed.rank() == 0:
        torch.save((epoch + 1, weight), "new.pt")
        os.replace("new.pt", "weight.pt")
        open(f"epoch{{epoch}}", "w").close()
    time.sleep(0.3)
open(f"rank{{distributed.rank()}}", "w").write(repr(weight.item()))
distributed.stop()
"""


def unbroken() -> float:
    weight = 0.0
    for epoch in range(1, EPOCHS + 1):
        weight = 0.9 * weight + (1 / epoch + 1 / (epoch + 10)) / 2
    return weight


def machines(folder: Path, restarts: int = 0) -> tuple[list[subprocess.Popen], list[list[str]]]:
    """Both machines, the first of which holds what they meet at; and their commands."""
    (folder / "run.py").write_text(RUN)
    port = free_port()
    commands = [[*of_two_machines(port, restarts, host), "run.py"] for host in (True, False)]
    return [start(command, folder, folder / f"log{k}") for k, command in enumerate(commands)], commands


def check(folder: Path) -> None:
    assert [float((folder / f"rank{rank}").read_text(encoding="utf-8")) for rank in (0, 1)] == [
        pytest.approx(unbroken(), rel=1e-15)
    ] * 2
    assert sorted(path.name for path in folder.glob("epoch*")) == [f"epoch{epoch}" for epoch in range(1, EPOCHS + 1)]


@pytest.mark.slow  # seconds of waiting for torchrun; test_kill_worker has a group of one machine
@pytest.mark.fault("14", "the machine lost where the others meet, all started again")
def test_a_lost_machine_ends_the_run_which_goes_on_when_all_are_started_again(tmp_path):
    agents, _ = machines(tmp_path)
    try:
        until((tmp_path / "epoch2").exists, *agents, log=tmp_path / "log0")
        lose(agents[0])
        assert agents[1].wait(120) != 0, "no machine waits for ever for one that is gone"
        assert not (tmp_path / f"epoch{EPOCHS}").exists()
        agents, _ = machines(tmp_path)
        assert [agent.wait(120) for agent in agents] == [0, 0], (tmp_path / "log1").read_text(encoding="utf-8")[-3000:]
    finally:
        end(*agents)
    check(tmp_path)
    assert re.search(
        r"goes on with epoch [345]\n",
        (tmp_path / "log0").read_text(encoding="utf-8") + (tmp_path / "log1").read_text(encoding="utf-8"),
    )


@pytest.mark.slow
@pytest.mark.fault("14", "one of two machines lost and started again, the other one waits for it")
def test_a_machine_that_comes_back_is_waited_for(tmp_path):
    agents, commands = machines(tmp_path, restarts=1)
    try:
        until((tmp_path / "epoch2").exists, *agents, log=tmp_path / "log0")
        lose(agents[1])
        agents[1] = start(commands[1], tmp_path, tmp_path / "log1")
        assert [agent.wait(180) for agent in agents] == [0, 0], (tmp_path / "log0").read_text(encoding="utf-8")[-3000:]
    finally:
        end(*agents)
    check(tmp_path)
