"""The promises of custom/run/mlflow.py: a server that is away or that comes and goes stops no training and loses no row."""

from __future__ import annotations

import logging
import time

import mlflow.tracking
import pytest
from ignite.engine import Engine
from mlflow_runs import PARAMS, Server, failing_trainer, rows, tracker, train, warnings
from saying import says

from custom.run.mlflow import _Server

pytestmark = pytest.mark.usefixtures("mlflow_environment")

MODELS = [f"bundle/models/{name}{suffix}.pt" for name in ("model", "network") for suffix in ("", "_final")]
FILES = ["config.yaml", "metrics.csv", "bundle/run.json", "bundle/models/intensities.json", *MODELS]
BEFORE = ["experiment?", "experiment", "run?", "run", "run's state?", "settings", "file"]


@pytest.mark.fault("13", "port closed")
def test_a_server_that_is_not_there_costs_one_warning_and_no_epoch(tmp_path, caplog, closed_port):
    with caplog.at_level(logging.INFO):
        train(closed_port, tmp_path, epochs=4)
    (message,) = warnings(caplog)
    assert message.startswith(f"MLflow at {closed_port} does not answer (")
    assert message.endswith("); metrics go to metrics.csv, retried each epoch.")
    says(caplog.text, f"MLflow at {closed_port} lacks the rest", "once it answers", "same command with --resume true")
    assert [int(row["epoch"]) for row in rows(tmp_path)] == [1, 2, 3, 4]
    assert (tmp_path / "bundle/models/model_final.pt").exists()
    assert not (tmp_path / "mlflow.json").exists()


def test_mlflow_asks_once_and_briefly_unless_the_user_says_otherwise(tmp_path, monkeypatch):
    """MLflow reads these at every request; by default it would go on asking for minutes."""
    from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES, MLFLOW_HTTP_REQUEST_TIMEOUT

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "33")
    assert MLFLOW_HTTP_REQUEST_MAX_RETRIES.get() > 1
    assert tracker("http://127.0.0.1:9", tmp_path)._server.ask(lambda: None)
    assert (MLFLOW_HTTP_REQUEST_MAX_RETRIES.get(), MLFLOW_HTTP_REQUEST_TIMEOUT.get()) == (0, 33)


def test_a_server_that_hangs_is_left_alone_for_longer_each_time(monkeypatch):
    """It takes 10 s to give up: asked again after 6 x 10 s, then after twice that; what is the last is asked anyway."""
    clock, asked = [0.0], []
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    def hang() -> None:
        asked.append(clock[0])
        clock[0] += 10
        raise TimeoutError

    server = _Server("http://server")
    for second in range(0, 1000, 5):
        clock[0] = max(clock[0], second)
        server.ask(hang)
    assert asked == [0, 70, 200, 450, 940]  # each ends 10 s later, the rests are 60, 120, 240, 480
    assert not server.ask(hang, last=True)
    assert len(asked) == 6
    clock[0] = 10_000
    assert server.ask(lambda: None)
    assert not server.ask(hang)
    assert asked[-1] == 10_000
    clock[0] = 10_070
    assert server.ask(lambda: None), "once it answered the rests begin anew"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    found = Server()
    monkeypatch.setattr(mlflow.tracking, "MlflowClient", lambda uri: found)
    return found


def steps(server: Server) -> list[int]:
    return [step for name, _, step in server.metrics if name == "epoch"]


def test_a_healthy_run_in_calls(tmp_path, server, caplog):
    """The numbers that the tests below count in."""
    train("http://server", tmp_path, epochs=3)
    assert server.heard == [*BEFORE, "row", "row", "row", *["file"] * len(FILES), "end"]
    assert (len(server.runs), steps(server)) == (1, [3, 6, 9])
    assert (sorted(server.artifacts[1:]), server.status) == (sorted(FILES), "FINISHED")
    assert warnings(caplog) == []


@pytest.mark.parametrize("call", [*range(1, 7), 8, 9])
def test_what_fails_once_is_made_good_without_a_second_run_or_row(tmp_path, server, caplog, call):
    server.down = {call: ConnectionError("gone\nfor a moment")}
    train("http://server", tmp_path, epochs=4)
    assert len(server.runs) == 1
    assert steps(server) == [3, 6, 9, 12]
    assert set(server.params) == PARAMS
    assert server.status == "FINISHED"
    assert warnings(caplog) == [
        "MLflow at http://server does not answer (gone); metrics go to metrics.csv, retried each epoch."
    ]


@pytest.mark.fault("13", "calls fail for three epochs")
def test_rows_of_an_outage_are_sent_once_it_is_over(tmp_path, server):
    server.down = {call: ConnectionError("gone") for call in range(9, 12)}  # from the second row on, for three epochs
    train("http://server", tmp_path, epochs=6)
    assert steps(server) == [3, 6, 9, 12, 15, 18]


@pytest.mark.parametrize("call", [4, 6, 8, 11])
def test_a_run_or_row_whose_answer_got_lost_is_there_once(tmp_path, server, call):
    server.lost = {call}
    train("http://server", tmp_path, epochs=4)
    assert len(server.runs) == 1
    assert max(server.params.values()) == 1
    assert steps(server) == [3, 6, 9, 12]


def test_each_outage_is_said_once(tmp_path, server, caplog):
    server.down = {call: ConnectionError("gone") for call in (8, 9, 14)}
    train("http://server", tmp_path, epochs=8)
    assert len(warnings(caplog)) == 2
    assert steps(server) == list(range(3, 25, 3))


@pytest.mark.parametrize("error", [ConnectionError(), KeyError("x"), MemoryError(), ImportError("No module mlflow")])
def test_no_error_stops_a_training_not_even_one_without_a_text(tmp_path, server, caplog, error):
    server.down = dict.fromkeys(range(1, 99), error)
    train("http://server", tmp_path, epochs=2)
    assert len(rows(tmp_path)) == 2
    (message,) = warnings(caplog)
    assert message.startswith(
        f"MLflow at http://server does not answer ({str(error) or type(error).__name__}); metrics go"
    )


def test_a_store_of_files_that_is_broken_costs_no_metric_and_is_said(tmp_path, server, caplog):
    server.down = {7: OSError("no bucket"), 11: OSError("no bucket")}  # at the start, and at the end
    train("http://server", tmp_path, epochs=3)
    assert (steps(server), server.artifacts, server.status) == ([3, 6, 9], [], "FINISHED")
    assert warnings(caplog) == [f"MLflow at http://server takes no files (no bucket); they are in {tmp_path}."] * 2
    assert server.heard[10:] == ["file", "end"], "each further file could cost a timeout"


@pytest.mark.fault("13", "gone to the end, then resumed")
def test_what_an_outage_to_the_end_kept_back_is_sent_by_a_resume_with_nothing_to_train(tmp_path, server):
    server.down = {call: ConnectionError("gone") for call in range(9, 99)}
    train("http://server", tmp_path, epochs=3)
    assert (steps(server), server.status) == ([3], "RUNNING")
    server.down = {}
    train("http://server", tmp_path, epochs=3, resume=True)
    assert (len(server.runs), steps(server), server.status) == (1, [3, 6, 9], "FINISHED")
    assert set(FILES) <= set(server.artifacts)


def test_a_run_that_goes_on_is_running_again_with_the_settings_it_had(tmp_path, server):
    with pytest.raises(ZeroDivisionError):
        failing_trainer("http://server", tmp_path, ZeroDivisionError()).run()
    assert (steps(server), server.status) == ([2], "FAILED")
    known, server.heard = len(server.runs), []
    train("http://server", tmp_path, epochs=3, epoch_steps=2, resume=True)
    assert server.heard[:5] == ["run's state?", "run's state?", "status", "row", "row"]
    assert (len(server.runs), steps(server), server.status) == (known, [2, 4, 6], "FINISHED")
    assert max(server.params.values()) == 1


def test_an_epoch_that_is_computed_again_is_not_sent_again(tmp_path, server):
    """The newest checkpoint is gone: the resumed run computes its epoch anew, to the same numbers."""
    train("http://server", tmp_path, epochs=3)
    (tmp_path / "last_0003.pt").unlink()
    train("http://server", tmp_path, epochs=3, resume=True)
    assert steps(server) == [3, 6, 9]


def test_another_address_gets_a_run_of_its_own_with_every_row(tmp_path, server, monkeypatch):
    with pytest.raises(ZeroDivisionError):
        failing_trainer("http://server", tmp_path, ZeroDivisionError()).run()
    other = Server()
    monkeypatch.setattr(mlflow.tracking, "MlflowClient", lambda uri: other)
    train("http://other", tmp_path, epochs=3, epoch_steps=2, resume=True)
    assert (len(other.runs), steps(other), other.status) == (1, [2, 4, 6], "FINISHED")


@pytest.mark.parametrize("error", [ZeroDivisionError("once"), KeyboardInterrupt()])
def test_the_error_that_ends_a_run_is_raised_as_it_is_and_mlflow_is_told(tmp_path, server, error):
    with pytest.raises(type(error)) as raised:
        failing_trainer("http://server", tmp_path, error).run()
    assert raised.value is error
    assert server.status == "FAILED"
    assert server.artifacts[1:] == ["config.yaml", "metrics.csv"]


def test_the_folder_is_free_again_even_after_ctrl_c_while_a_tracker_waits(tmp_path, server):
    server.down = {9: KeyboardInterrupt(), 10: KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        train("http://server", tmp_path, epochs=3)
    server.down = {}
    train("http://server", tmp_path, epochs=3, resume=True)
    assert steps(server) == [3, 6, 9]


def test_names_that_mlflow_refuses_are_written_in_its_letters(tmp_path, server):
    tracked = tracker("http://server", tmp_path)
    tracked.update([{"step": 3, "val/core (T1), left": 0.5, "ärmel-1.0": 2}])
    assert {name for name, *_ in server.metrics} == {"step", "val/core__T1___left", "ärmel-1.0"}


def test_only_the_first_process_of_several_tracks(tmp_path, monkeypatch):
    monkeypatch.setattr("custom.distributed.rank", lambda: 1)
    tracked = tracker("http://server", tmp_path)
    tracked.attach(Engine(lambda engine, batch: None))
    assert tracked.output.trackers == []
