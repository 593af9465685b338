"""The promises of custom/run/folder.py."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from custom.run.folder import RunFolder, RunFolderError

ROOT = Path(__file__).parents[1]

HOLDER = """
import os, signal, sys
from custom.run.folder import RunFolder
folder = RunFolder(sys.argv[1]).open()
if sys.argv[2] == "alone":
    print(0, flush=True)
elif os.fork() == 0:
    print(os.getpid(), flush=True)
signal.pause()
"""


@contextlib.contextmanager
def held_by_another_process(path: Path, how: str = "alone") -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The process that holds ``path`` and the pid of its forked worker (0: none); both are gone afterwards."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path), how], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        try:
            yield process, worker
        finally:
            process.kill()
            if worker:
                os.kill(worker, signal.SIGKILL)


def is_held(path: Path) -> bool:
    with (path / ".lock").open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_nothing_is_touched_before_open(tmp_path):
    folder = RunFolder(tmp_path / "a")
    folder.close()
    assert not (tmp_path / "a").exists()


def test_open_makes_the_folder_and_leaves_only_the_lock_in_it(tmp_path):
    with RunFolder(tmp_path / "runs" / "a") as folder:
        assert os.listdir(folder.path) == [".lock"]
        who = json.loads((folder.path / ".lock").read_text())
    assert who["pid"] == os.getpid()
    assert who["host"] == socket.gethostname()
    assert datetime.now().astimezone() - datetime.fromisoformat(who["since"]) < timedelta(minutes=1)


@pytest.mark.fault("17", "a second run started")
def test_a_folder_in_use_is_refused_with_the_pid_host_and_time_of_the_holder(tmp_path):
    with held_by_another_process(tmp_path) as (process, _), pytest.raises(RunFolderError) as caught:
        RunFolder(tmp_path).open()
    text = (
        f"output_dir {tmp_path} is in use by pid {process.pid} on host {socket.gethostname()} (since HH:MM). "
        "Wait for it, stop it, or choose another --output_dir."
    )
    assert re.fullmatch(re.escape(text).replace("HH:MM", r"(\d{4}-\d\d-\d\d )?\d\d:\d\d"), str(caught.value))


def test_a_refused_run_leaves_the_lock_with_its_holder_and_no_file_open(tmp_path):
    with held_by_another_process(tmp_path) as (process, _):
        before = os.listdir("/proc/self/fd")
        for _attempt in range(2):
            with pytest.raises(RunFolderError, match=f"pid {process.pid} "):
                RunFolder(tmp_path).open()
        assert len(os.listdir("/proc/self/fd")) == len(before)


@pytest.mark.fault("17", "the first run killed")
@pytest.mark.parametrize("how", ["alone", "with a worker"])
def test_kill_9_releases_the_folder_at_once_even_while_a_forked_worker_lives_on(tmp_path, how):
    with held_by_another_process(tmp_path, how) as (process, worker):
        assert is_held(tmp_path)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if worker:
            os.kill(worker, 0)  # still there
        with RunFolder(tmp_path):
            assert is_held(tmp_path)


def test_a_forked_worker_that_closes_the_folder_does_not_release_it_for_the_run(tmp_path):
    with RunFolder(tmp_path) as folder:
        pid = os.fork()
        if pid == 0:
            folder.close()
            os._exit(0)
        os.waitpid(pid, 0)
        assert is_held(tmp_path)


def test_a_second_object_of_the_same_process_is_refused(tmp_path):
    with RunFolder(tmp_path), pytest.raises(RunFolderError, match=f"in use by pid {os.getpid()} on host"):
        RunFolder(tmp_path).open()


def test_open_and_close_can_be_repeated(tmp_path):
    folder = RunFolder(tmp_path)
    for _round in range(2):
        assert folder.open() is folder
        assert folder.open() is folder
        assert is_held(tmp_path)
        folder.close()
        folder.close()
        assert not is_held(tmp_path)


def test_the_folder_is_released_when_the_run_raises(tmp_path):
    with pytest.raises(ZeroDivisionError), RunFolder(tmp_path):
        _ = 1 / 0
    assert not is_held(tmp_path)


def test_a_lock_of_an_earlier_day_is_shown_with_its_date(tmp_path):
    with RunFolder(tmp_path):
        who = {"pid": 4121, "host": "a", "since": "2024-02-29T10:02:00"}
        (tmp_path / ".lock").write_text(json.dumps(who))
        with pytest.raises(RunFolderError, match=r"in use by pid 4121 on host a \(since 2024-02-29 10:02\)\. Wait"):
            RunFolder(tmp_path).open()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": null}'])
def test_a_lock_that_does_not_say_who_has_it_refuses_all_the_same(tmp_path, content):
    with RunFolder(tmp_path):
        (tmp_path / ".lock").write_text(content)
        with pytest.raises(RunFolderError, match=r"in use by another run\. Wait for it"):
            RunFolder(tmp_path).open()


@pytest.mark.fault("18", "a path below a regular file")
def test_a_path_below_a_regular_file_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "a"
    with pytest.raises(RunFolderError) as caught:
        RunFolder(path).open()
    assert str(caught.value) == f"output_dir {path} cannot be written: Not a directory. Choose another --output_dir."


@pytest.mark.fault("18", "a read-only file system")
def test_a_folder_that_takes_no_new_files_is_refused_although_its_lock_file_opens(tmp_path, monkeypatch):
    RunFolder(tmp_path).open().close()

    def read_only(**_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("tempfile.TemporaryFile", read_only)  # root passes permission bits, so it is acted
    with pytest.raises(
        RunFolderError, match=r"cannot be written: Read-only file system\. Choose another --output_dir\."
    ):
        RunFolder(tmp_path).open()
    assert not is_held(tmp_path)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP])
def test_a_file_system_without_locks_is_a_warning_not_an_end(tmp_path, monkeypatch, caplog, number):
    def no_locks(descriptor, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with RunFolder(tmp_path):
        pass
    assert len(caplog.messages) == 1
    assert f"output_dir {tmp_path} is on a file system without locks ({os.strerror(number)})" in caplog.messages[0]
