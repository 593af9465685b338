"""A run's folder: full in the middle of a run, taken by another run, not writable."""

from __future__ import annotations

import re
import resource
import signal

import pytest
import tiny
from ignite.engine import Events
from test_kill_in_an_epoch import start
from test_resume import assert_same_state
from waiting import until

from custom.run.checkpoint import CheckpointError
from custom.run.folder import RunFolderError


@pytest.fixture
def file_size_limit():
    """``limit(bytes)``: no file of this process may grow beyond it, as on a full disk; lifted with None."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (soft if size is None else size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.fault("3", "no room for a checkpoint in the middle of a run, then resumed")
def test_a_run_on_a_full_disk_keeps_its_checkpoint_and_goes_on_when_there_is_room(tmp_path, file_size_limit):
    straight = tiny.trainer("mean_teacher", tmp_path / "straight", epochs=4)
    straight.run()
    full = tiny.trainer("mean_teacher", tmp_path / "full", epochs=4)
    checkpoint_bytes = (tmp_path / "straight/last_0004.pt").stat().st_size
    full.add_event_handler(Events.EPOCH_STARTED(once=3), lambda: file_size_limit(checkpoint_bytes // 2))
    with pytest.raises(CheckpointError, match=r"Cannot write last_0003\.pt: larger than .*Kept last_0002\.pt\."):
        full.run()
    file_size_limit(None)
    assert sorted(path.name for path in (tmp_path / "full").glob("*last_*")) == ["last_0001.pt", "last_0002.pt"]
    resumed = tiny.trainer("mean_teacher", tmp_path / "full", epochs=4, resume=True)
    resumed.run()
    assert_same_state(straight.state_dict(), resumed.state_dict())
    rows = (tmp_path / "full/metrics.csv").read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == ["1", "2", "3", "4"]


@pytest.mark.fault("18", "a path below a regular file, before a step")
def test_an_output_that_cannot_be_written_is_found_before_the_first_step(tmp_path):
    (tmp_path / "file").touch()
    trainer = tiny.trainer("supervised", tmp_path / "file/out")
    with pytest.raises(RunFolderError, match=r"file/out cannot be written: Not a directory\. Choose another"):
        trainer.run()
    assert trainer.state.iteration == 0


@pytest.mark.slow
@pytest.mark.fault("17", "a second training into the folder of a first, which is then killed")
def test_a_second_training_is_refused_without_a_trace_and_free_once_the_first_is_killed(tmp_path):
    first = start(tmp_path, "supervised", {}, rest=4)  # in its second epoch
    try:
        until((tmp_path / "last_0001.pt").exists, first)
        second = tiny.trainer("supervised", tmp_path, epochs=4)
        with pytest.raises(RunFolderError, match=re.escape(f"is in use by pid {first.pid} on host")):
            second.run()
        assert second.state.iteration == 0
        assert (tmp_path / "last_0001.pt").exists(), "not moved aside"
        assert first.poll() is None
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait(60)
    tiny.trainer("supervised", tmp_path, epochs=4, resume=True).run()
    assert (tmp_path / "last_0004.pt").exists()
