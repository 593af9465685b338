"""Which cores there are, and how processes side by side share them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from custom import cgroups, cores
from custom.cores import Share, shares


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """``machine(8)`` has the cores 0 to 7; ``machine({2, 3, 6}, "200000 100000")`` those, and a container's limit."""

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    def make(there, limit="max 100000"):
        (tmp_path / "cpu.max").write_text(limit + "\n")
        (tmp_path / "mine").write_text("0::/\n")
        there = set(range(there)) if isinstance(there, int) else there
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: there, raising=False)
        monkeypatch.setattr(os, "cpu_count", lambda: 64)
        monkeypatch.setattr(cgroups, "ROOT", tmp_path)
        monkeypatch.setattr(cgroups, "MINE", tmp_path / "mine")

    return make


def test_cores_are_dealt_out_once_each_to_neighbours(machine):
    machine(8)
    assert shares(1) == [Share((), None)]
    assert shares(2) == [Share((0, 1, 2, 3), 4), Share((4, 5, 6, 7), 4)]
    assert [share.cores for share in shares(3)] == [(0, 1), (2, 3, 4), (5, 6, 7)]
    assert {share.threads for share in shares(3)} == {2}, "the same in all: results may depend on it"


@pytest.mark.parametrize("processes", range(1, 9))
def test_no_core_is_given_twice_and_none_is_oversubscribed(machine, processes):
    machine({0, 1, 4, 5, 9, 10, 11})
    found = shares(processes)
    held = [core for share in found for core in share.cores]
    assert len(found) == processes
    assert len(held) == len(set(held))
    if processes <= 7:
        assert sum(share.threads or 7 for share in found) <= 7
        assert all(share.threads <= len(share.cores) for share in found if share.cores)


def test_more_processes_than_cores_are_not_held(machine):
    machine(2)
    assert shares(3) == [Share((), 1)] * 3


def test_a_containers_limit_counts_and_its_processes_are_not_held(machine):
    """Held, those of all containers would meet on the first cores of the machine."""
    machine(64, "350000 100000")
    assert cores.count() == 4
    assert shares(2) == [Share((), 2)] * 2
    machine(64)
    assert cores.count() == 64


@pytest.mark.parametrize(("wanted", "threads"), [("2", 2), ("1", 1), ("64", 4), ("", 4), ("4,2", 4)])
def test_fewer_threads_may_be_asked_for_and_not_more(machine, monkeypatch, wanted, threads):
    machine(8)
    monkeypatch.setenv("OMP_NUM_THREADS", wanted)
    assert [share.threads for share in shares(2)] == [threads] * 2


def test_a_system_without_affinity_deals_out_threads_alone(machine, monkeypatch):
    machine(8)
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    assert shares(2) == [Share((), 32)] * 2


def test_less_than_one_process_is_an_error():
    with pytest.raises(ValueError, match="expected at least one process, got 0"):
        shares(0)


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (Share((0, 1, 2, 5), 4), "cores 0-2,5, 4 threads"),
        (Share((3,), 1), "core 3, 1 thread"),
        (Share((), 2), "all cores, 2 threads"),
        (Share((), None), "all cores"),
    ],
)
def test_a_share_says_its_cores(share, text):
    assert str(share) == text


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system knows no affinity")
def test_a_held_process_and_its_children_stay_on_their_cores():
    core = cores.mine()[-1]
    asks = "import os; print(sorted(os.sched_getaffinity(0)))"
    code = f"import subprocess, sys; input(); subprocess.run([sys.executable, '-c', {asks!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        Share((core,), 1).hold(child.pid)
        assert child.communicate("\n", timeout=60)[0].strip() == str([core])


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system knows no affinity")
def test_a_process_that_cannot_be_held_is_left_as_it_is():
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait(60)
        Share((cores.mine()[0],), 1).hold(child.pid)  # gone
    Share((100_000,), 1).hold(os.getpid())  # no such core


def test_the_limit_of_an_older_container_counts(machine, tmp_path):
    machine(64)
    (tmp_path / "cpu").mkdir()
    for name, number in (("quota", 350000), ("period", 100000)):
        (tmp_path / f"cpu/cpu.cfs_{name}_us").write_text(f"{number}\n")
    assert cores.count() == 4
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("-1\n")
    assert cores.count() == 64


def test_the_limit_of_a_batch_job_counts(machine, tmp_path):
    machine(64)
    (tmp_path / "mine").write_text("0::/system.slice/job_7/step_0\n")
    (tmp_path / "system.slice/job_7/step_0").mkdir(parents=True)
    (tmp_path / "system.slice/job_7/cpu.max").write_text("200000 100000\n")
    assert cores.count() == 2
