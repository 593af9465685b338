"""Commands side by side: each on its own cores, all ended by a signal, and what fails loses nothing of the others."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from conftest import ROOT
from waiting import FOR_LONG, until

from custom import cores
from custom.cores import Share
from custom.study import side_by_side
from custom.study.side_by_side import Late, Pool, Stopped


def python(code: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(code)]


def waiting_for(folder: Path, count: int) -> str:
    """A command that says it is there, then waits until so many are."""
    return f"""
        import os, pathlib, sys
        sys.path.insert(0, {str(ROOT / "tests")!r})
        from waiting import until
        here = pathlib.Path({str(folder)!r})
        (here / f"{{os.getpid()}}.there").touch()
        until(lambda: len(list(here.glob("*.there"))) >= {count})
        print(os.environ.get("OMP_NUM_THREADS"), sorted(os.sched_getaffinity(0)))
        """


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log.txt"


@pytest.mark.skipif(len(cores.mine()) < 2, reason="one core cannot be shared")
def test_commands_run_at_once_each_on_cores_of_its_own_and_the_log_says_which(tmp_path):
    """Both are there at the same time, or neither would end."""
    with Pool(2) as pool:

        def task(number):
            return lambda share: pool.command(
                python(waiting_for(tmp_path, 2)), share, tmp_path, tmp_path / f"{number}.txt"
            )

        found = [pool.submit(task(number)) for number in range(2)]
        assert [future.result()[0] for future in found] == [0, 0]
    texts = [(tmp_path / f"{number}.txt").read_text(encoding="utf-8").splitlines() for number in range(2)]
    expected = [[f"On {share}.", f"{share.threads} {list(share.cores)}"] for share in pool.shares]
    assert sorted(texts) == sorted(expected)
    assert not set(pool.shares[0].cores) & set(pool.shares[1].cores)


def test_one_at_a_time_has_all_cores_and_its_threads_as_ever(tmp_path, log, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with Pool(1) as pool:
        pool.submit(lambda share: pool.command(python(waiting_for(tmp_path, 1)), share, tmp_path, log)).result()
    assert log.read_text(encoding="utf-8") == f"On all cores.\nNone {list(cores.mine())}\n"


def test_threads_may_be_said():
    assert [share.threads for share in Pool(3, 2).shares] == [2, 2, 2]


def test_no_pool_of_nothing():
    with pytest.raises(ValueError, match="expected at least one process, got 0"):
        Pool(0)


def test_no_more_at_a_time_than_asked_for_and_begun_in_order(tmp_path):
    begun, running, most = [], [0], [0]
    lock, two = threading.Lock(), threading.Barrier(2, timeout=60)

    def task(number):
        def do(share):
            with lock:
                begun.append(number)
                running[0] += 1
                most[0] = max(most[0], running[0])
            two.wait()
            with lock:
                running[0] -= 1

        return do

    with Pool(2) as pool:
        futures = [pool.submit(task(number)) for number in range(6)]
        [future.result() for future in futures]
    assert most == [2]
    assert sorted(begun) == list(range(6))
    assert begun[0] in (0, 1)


def test_what_fails_is_its_own_and_a_share_comes_back(tmp_path, log):
    with Pool(1) as pool:
        broken = pool.submit(lambda share: 1 / 0)
        absent = pool.submit(lambda share: pool.command(["no-such-command"], share, tmp_path, log))
        failed = pool.submit(lambda share: pool.command(python("raise SystemExit(3)"), share, tmp_path, log))
        killed = pool.submit(
            lambda share: pool.command(python("import os; os.kill(os.getpid(), 9)"), share, tmp_path, log)
        )
        good = pool.submit(lambda share: pool.command(python("print()"), share, tmp_path, log))
        assert isinstance(broken.exception(), ZeroDivisionError)
        assert isinstance(absent.exception(), FileNotFoundError)
        assert (failed.result()[0], killed.result()[0], good.result()[0]) == (3, -9, 0)


def test_a_command_tells_its_largest_memory(tmp_path, log):
    with Pool(1) as pool:
        code, peak_mb = pool.command(python("x = bytearray(100 * 2**20)"), Share((), None), tmp_path, log)
    assert code == 0
    assert peak_mb > 100  # the system counts what this process held when it started the command, too


DEAF = f"""
import pathlib, signal, sys
signal.signal(15, signal.SIG_IGN)
pathlib.Path("there").touch()
{FOR_LONG}
"""
ENDS_WELL = DEAF.replace("signal.SIG_IGN", "lambda *_: sys.exit(0)")
WAITS_LONG = DEAF.replace("signal.signal(15, signal.SIG_IGN)", "")


@pytest.mark.parametrize("code", [WAITS_LONG, DEAF], ids=["listens", "is deaf"])
def test_a_command_is_ended_at_its_deadline(tmp_path, log, monkeypatch, code):
    monkeypatch.setattr(side_by_side, "GRACE_S", 0.1)
    with Pool(1) as pool, pytest.raises(Late, match="stopped; so far ") as caught:
        pool.command(python(code), Share((), None), tmp_path, log, deadline=time.monotonic() + 1.0)
    assert caught.value.peak_mb > 1


def test_a_command_that_ends_well_when_asked_to_is_done(tmp_path, log):
    with Pool(1) as pool:
        future = pool.submit(lambda share: pool.command(python(ENDS_WELL), share, tmp_path, log))
        until((tmp_path / "there").exists)
        pool.stop()
        assert future.result()[0] == 0


@pytest.mark.parametrize("code", [WAITS_LONG, DEAF], ids=["listens", "is deaf"])
def test_a_stop_ends_all_and_begins_no_other(tmp_path, log, monkeypatch, code):
    monkeypatch.setattr(side_by_side, "GRACE_S", 0.1)
    with Pool(1) as pool:
        futures = [pool.submit(lambda share: pool.command(python(code), share, tmp_path, log)) for _ in range(3)]
        until((tmp_path / "there").exists)
        pool.stop()
        assert [type(future.exception()) for future in futures] == [Stopped] * 3
    assert log.read_text(encoding="utf-8").count("On all cores") == 1


def test_an_error_in_the_block_ends_the_commands(tmp_path, log):
    def broken():
        with Pool(1) as pool:
            for _ in range(2):
                futures.append(pool.submit(lambda share: pool.command(python(WAITS_LONG), share, tmp_path, log)))
            until((tmp_path / "there").exists)
            raise ZeroDivisionError

    futures = []
    with pytest.raises(ZeroDivisionError):
        broken()
    assert isinstance(futures[0].exception(), Stopped)
    assert futures[1].cancelled() or isinstance(futures[1].exception(), Stopped)


INTERRUPTED = """
import pathlib, signal, sys
signal.signal(signal.SIGHUP, {hangup})
sys.path.insert(0, {root!r})
from custom.study.side_by_side import Pool, Stopped
code = "import os, pathlib; pathlib.Path(str(os.getpid()) + '.pid').touch(); {waits}"
with Pool(2) as pool:
    do = lambda share: pool.command([sys.executable, "-c", code], share, ".", pathlib.Path("log"))
    futures = [pool.submit(do) for _ in range(4)]
    print([type(future.exception()).__name__ for future in futures], pool.caught, flush=True)
"""


def interrupted(folder: Path, hangup: str = "signal.SIG_DFL") -> subprocess.Popen[str]:
    code = INTERRUPTED.format(root=str(ROOT), hangup=hangup, waits=FOR_LONG)
    return subprocess.Popen(python(code), cwd=folder, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_every_command(tmp_path, number):
    with interrupted(tmp_path) as caller:
        until(lambda: len(list(tmp_path.glob("*.pid"))) == 2, caller)
        pids = [int(file.stem) for file in tmp_path.glob("*.pid")]
        caller.send_signal(number)
        said, _ = caller.communicate(timeout=60)
    assert said.strip() == f"{['Stopped'] * 4} {int(number)}"
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_under_nohup_a_closed_terminal_ends_nothing(tmp_path):
    with interrupted(tmp_path, "signal.SIG_IGN") as caller:
        until(lambda: len(list(tmp_path.glob("*.pid"))) == 2, caller)
        caller.send_signal(signal.SIGHUP)
        caller.send_signal(signal.SIGTERM)
        said, _ = caller.communicate(timeout=60)
    assert said.strip() == f"{['Stopped'] * 4} {int(signal.SIGTERM)}"


# Runs the commands of a study, of which each would take a minute, by a bundle of MONAI that only waits.
WAITS = """
import os, pathlib, sys, types
sys.path.insert(0, {root!r})
def run(**_):
    pathlib.Path(str(os.getpid()) + ".pid").touch()
    {waits}
from custom.study import commands
sys.modules["monai"], sys.modules["monai.bundle"] = types.ModuleType("monai"), types.SimpleNamespace(run=run)
commands.LOOK_S = 0.05
commands.main(pathlib.Path("commands.json"))
"""
KILLED = """
import pathlib, sys
sys.path.insert(0, {root!r})
from custom.study.side_by_side import Pool
with Pool(1) as pool:
    do = lambda share: pool.command([sys.executable, "-c", pathlib.Path("waits.py").read_text()], share, ".", pathlib.Path("log"))
    pool.submit(do).result()
"""


def runs(pid: int) -> bool:
    """Whether a process is there that computes; one that ended and that nobody has asked for does not count."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_training_ends_with_the_process_that_started_it_also_where_that_one_is_killed(tmp_path):
    (tmp_path / "waits.py").write_text(WAITS.format(root=str(ROOT), waits=FOR_LONG))
    (tmp_path / "commands.json").write_text('[{"run_id": "training", "config_file": ["a"], "overrides": {}}]')
    with subprocess.Popen(python(KILLED.format(root=str(ROOT))), cwd=tmp_path) as caller:
        (pid,) = until(lambda: [int(file.stem) for file in tmp_path.glob("*.pid")], caller)
        assert runs(pid)
        caller.kill()
    until(lambda: not runs(pid), seconds=20)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_handlers_of_signals_are_put_back(number):
    before = signal.signal(number, signal.default_int_handler)
    try:
        with Pool(1):
            assert signal.getsignal(number) is not signal.default_int_handler
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)
