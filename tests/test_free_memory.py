"""What a process may have and still take is the least of what the machine and a container's limits say."""

from __future__ import annotations

import pytest

from custom import cgroups, memory


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setattr(cgroups, "ROOT", tmp_path)
    monkeypatch.setattr(cgroups, "MINE", tmp_path / "mine")
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "limit"), [("1000000\n", 1e6), ("max\n", None), ("9223372036854771712\n", None), ("", None)]
)
def test_a_limit_of_a_container_counts_where_it_is_the_smaller_one(files, text, limit):
    free = memory.physical_memory()
    (files / "memory.max").write_text(text)
    assert memory.physical_memory() == (limit or free)


def test_free_is_what_the_machine_says_is_available(files):
    assert memory.free_memory() == memory.physical_memory()
    (files / "meminfo").write_text("MemTotal:  9 kB\nMemFree:  1 kB\nMemAvailable:      3 kB\n")
    assert memory.free_memory() == 3 * 1024


def test_files_that_are_kept_in_memory_give_way(files):
    """2,000 of 10,000 bytes are used, 500 of them by files: 8,500 are free."""
    (files / "memory.max").write_text("10000\n")
    (files / "memory.current").write_text("2000\n")
    assert memory.free_memory() == 8000
    (files / "memory.stat").write_text("anon 1500\nfile 500\nkernel 1\n")
    assert memory.free_memory() == 8500
    (files / "memory.current").write_text("20000\n")
    assert memory.free_memory() == 0


@pytest.mark.parametrize(
    ("mine", "group", "limit"),
    [
        ("0::/system.slice/slurmd/job_7/step_0/task_0", "system.slice/slurmd/job_7", "memory.max"),
        ("5:devices:/\n4:memory,hugetlb:/slurm/job_7", "memory,hugetlb/slurm/job_7", "memory.limit_in_bytes"),
        ("4:memory:/slurm/uid_0/job_7/step_0", "memory/slurm/uid_0", "memory.limit_in_bytes"),
    ],
    ids=["version 2", "version 1", "version 1, above"],
)
def test_a_limit_of_a_batch_job_counts_which_lies_below_the_root(files, mine, group, limit):
    (files / "mine").write_text(mine + "\n")
    (files / group).mkdir(parents=True)
    (files / group / limit).write_text("3000000\n")
    assert memory.physical_memory() == 3e6
    assert memory.free_memory() == 3e6


def test_a_group_that_is_only_the_hosts_is_none(files):
    (files / "mine").write_text("4:memory:/docker/abc\n0::/docker/abc\n")
    (files / "memory.max").write_text("2000000\n")
    assert memory.physical_memory() == 2e6
