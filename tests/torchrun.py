"""Groups of processes as torchrun starts them: on one machine, or as by several machines, each an agent on loopback."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

RUN = [sys.executable, "-m", "torch.distributed.run"]
OWN_STORES = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}  # see docs/scale.md


def one_machine(processes: int, restarts: int) -> list[str]:
    return [*RUN, "--standalone", "--nproc_per_node", str(processes), "--max-restarts", str(restarts)]


def of_two_machines(port: int, restarts: int, host: bool) -> list[str]:
    """The command of one of two machines with a process each, which meet at ``port`` of the ``host``. Real machines know by
    their names which one that is; a lost one is noticed after 2 s, for 15."""
    return [*RUN, "--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", "one-run",
            "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-conf",
            f"is_host={int(host)},keep_alive_interval=1,keep_alive_max_attempt=2", "--max-restarts", str(restarts)]  # fmt: skip


def start(command: Sequence[str], folder: Path, log: Path) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **(OWN_STORES if "--nnodes" in command else {})}
    with log.open("a") as output:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)


def children(parent: int) -> list[int]:
    with contextlib.suppress(FileNotFoundError):
        tasks = Path(f"/proc/{parent}/task").iterdir()
        return [int(child) for task in tasks for child in (task / "children").read_text(encoding="utf-8").split()]
    return []


def pid_of_rank(rank: int, parent: int) -> int:
    """The id of the process that torchrun (``parent``) started as that rank."""
    return next(
        c for c in children(parent) if f"RANK={rank}".encode() in Path(f"/proc/{c}/environ").read_bytes().split(b"\0")
    )


def lose(agent: subprocess.Popen) -> None:
    """Kill the agent and its processes at once, like a machine that loses its power."""
    os.kill(agent.pid, signal.SIGSTOP)  # starts none meanwhile
    for pid in (*children(agent.pid), agent.pid):
        os.kill(pid, signal.SIGKILL)
    agent.wait(60)


def end(*agents: subprocess.Popen) -> None:
    """What a failed test has left."""
    for agent in agents:
        if agent.poll() is None:
            lose(agent)
