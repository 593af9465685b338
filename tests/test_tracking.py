"""The promises of custom/tracking.py: an account in MLflow that cannot stop a training."""

from __future__ import annotations

import csv
import logging
import math
import time
from collections import Counter
from pathlib import Path
from typing import Any

import mlflow.tracking
import pytest
import tiny
from conftest import ROOT
from ignite.engine import Engine
from mlflow.tracking import MlflowClient
from monai.bundle import ConfigParser

from custom.output import Output
from custom.run_config import RunConfig
from custom.tracking import MLflow

SETTINGS = {"bundle_root": "runs/my bundle", "learning_rate": 0.05, "widths": [4, 8], "mlflow_uri": "", "steps": 9,
            "method": {"_target_": "Compose"}, "weights": {"supervised": 1.0}}  # fmt: skip


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the handler sets for its process ends with the test, and nothing is reported to MLflow's makers."""
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.setenv(name, "x")  # so that monkeypatch removes it at the end
        monkeypatch.delenv(name)


def handler(uri: str, folder: Path) -> MLflow:
    return MLflow(uri, RunConfig(ConfigParser(SETTINGS)), Output(folder))


def train(uri: str, folder: Path, **settings: Any) -> MLflow:
    """A tiny trainer with the handler on it, as a config assembles them: both hold one ``Output``."""
    tracker = handler(uri, folder)
    trainer = tiny.trainer("supervised", folder, handlers=[tracker], **settings)
    tracker.output = trainer.output  # type: ignore[assignment]
    trainer.run()
    return tracker


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


# a database of one's own


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MlflowClient]:
    """Two runs that were tracked into one database, started in another folder."""
    folder = tmp_path_factory.mktemp("a place")
    uri = f"sqlite:///{folder}/mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        (folder / "elsewhere").mkdir()
        patch.chdir(folder / "elsewhere")
        train(uri, folder / "one", epochs=3)
        train(uri, folder / "two", epochs=1)
    return folder, MlflowClient(uri)


def runs_of(client: MlflowClient, bundle: str = "my bundle") -> list[Any]:
    """First to last."""
    experiment = client.get_experiment_by_name(bundle)
    assert experiment is not None, "the experiment is named after the bundle"
    return client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])


def test_every_epoch_of_metrics_csv_arrives_once_the_last_too(tracked):
    folder, client = tracked
    run, expected = runs_of(client)[0], rows(folder / "one")
    assert len(expected) == 3
    for name in expected[0]:
        history = sorted(client.get_metric_history(run.info.run_id, name.replace(" ", "_")), key=lambda m: m.step)
        told = [(int(row["step"]), repr(float(row[name]))) for row in expected if row[name]]
        assert [(m.step, repr(m.value)) for m in history] == told, name  # nan is nan
    assert any(name.startswith("val/") for name in run.data.metrics)


def test_the_settings_are_parameters_and_components_are_not(tracked):
    assert runs_of(tracked[1])[0].data.params == {
        "bundle_root": "runs/my bundle", "learning_rate": "0.05", "widths": "[4, 8]", "steps": "9",
        "weights": "{'supervised': 1.0}"}  # fmt: skip


def test_each_run_has_a_name_of_its_own_and_is_finished(tracked):
    one, two = runs_of(tracked[1])
    assert one.info.run_id != two.info.run_id
    assert one.info.run_name.startswith("my bundle-20")
    assert [run.info.status for run in (one, two)] == ["FINISHED", "FINISHED"]


def test_metrics_csv_is_kept_beside_the_database_not_in_the_working_directory(tracked):
    folder, client = tracked
    run = runs_of(client)[0]
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["metrics.csv"]
    found = list((folder / "mlruns").rglob("metrics.csv"))
    assert [f.read_text() for f in found if run.info.run_id in str(f)] == [(folder / "one/metrics.csv").read_text()]
    assert list((folder / "elsewhere").iterdir()) == []


# a server that is not there


def test_a_server_that_is_not_there_costs_one_warning_and_no_epoch(tmp_path, caplog):
    start = time.perf_counter()
    with caplog.at_level(logging.WARNING):
        train("http://127.0.0.1:9", tmp_path, epochs=4)
    assert time.perf_counter() - start < 10
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 1, "no other library repeats it each epoch"
    assert warnings[0].startswith("MLflow at http://127.0.0.1:9 does not answer (")
    assert warnings[0].endswith("); metrics go to metrics.csv, tried again each epoch.")
    assert [int(row["epoch"]) for row in rows(tmp_path)] == [1, 2, 3, 4]
    assert (tmp_path / "bundle/models/model_final.pt").exists()


def test_mlflow_asks_once_and_briefly_unless_the_user_says_otherwise(tmp_path, monkeypatch):
    """MLflow reads these at every request; by default it would go on asking for minutes."""
    from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES, MLFLOW_HTTP_REQUEST_TIMEOUT

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "33")
    assert MLFLOW_HTTP_REQUEST_MAX_RETRIES.get() > 1
    handler("http://127.0.0.1:9", tmp_path)._guarded(lambda: None)
    assert (MLFLOW_HTTP_REQUEST_MAX_RETRIES.get(), MLFLOW_HTTP_REQUEST_TIMEOUT.get()) == (0, 33)


# a server that comes and goes


class Server:
    """Stands for MlflowClient: keeps what it is sent, and fails at the calls it is told to fail at."""

    def __init__(self) -> None:
        self.down: dict[int, Exception] = {}  # call number -> error
        self.lost: set[int] = set()  # numbers of calls that arrive, their answers not
        self.calls = 0
        self.runs: list[str] = []
        self.params: Counter[str] = Counter()
        self.metrics: set[tuple[str, float, int, int]] = set()  # a database keeps equal ones once
        self.artifacts: list[str] = []
        self.finished: list[str] = []

    def _called(self) -> None:
        self.calls += 1
        if self.calls in self.down:
            raise self.down[self.calls]

    def _answer(self) -> None:
        if self.calls in self.lost:
            raise ConnectionError("the answer got lost")

    def get_experiment_by_name(self, name: str) -> None:
        self._called()

    def create_experiment(self, name: str, artifact_location: str | None) -> str:
        self._called()
        assert artifact_location is None, "a server has its own place"
        return "1"

    def create_run(self, experiment: str, run_name: str) -> Any:
        self._called()
        self.runs.append(run_name)
        return type("Run", (), {"info": type("Info", (), {"run_id": f"id{len(self.runs)}"})})

    def log_batch(self, run: str, metrics: Any = (), params: Any = ()) -> None:
        self._called()
        assert run == "id1"
        self.params.update(param.key for param in params)
        self.metrics |= {(m.key, m.value, m.step, m.timestamp) for m in metrics if not math.isnan(m.value)}
        self._answer()

    def log_artifact(self, run: str, path: str) -> None:
        self._called()
        self.artifacts.append(Path(path).name)

    def set_terminated(self, run: str) -> None:
        self._called()
        self.finished.append(run)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    found = Server()
    monkeypatch.setattr(mlflow.tracking, "MlflowClient", lambda uri: found)
    return found


def steps(server: Server) -> list[int]:
    return sorted(step for name, _, step, _ in server.metrics if name == "epoch")


def test_a_healthy_run_is_nine_calls(tmp_path, server, caplog):
    """The numbers that the tests below count in: experiment, its making, run, settings, 3 epochs, file, end."""
    train("http://server", tmp_path, epochs=3)
    assert server.calls == 9
    assert (len(server.runs), steps(server)) == (1, [3, 6, 9])
    assert (server.artifacts, server.finished) == (["metrics.csv"], ["id1"])
    assert caplog.messages == []


@pytest.mark.parametrize("call", range(1, 7))
def test_what_fails_once_is_made_good_without_a_second_run_or_row(tmp_path, server, caplog, call):
    server.down = {call: ConnectionError("gone\nfor a moment")}
    train("http://server", tmp_path, epochs=4)
    assert len(server.runs) == 1
    assert steps(server) == [3, 6, 9, 12]
    assert set(server.params) == {"bundle_root", "learning_rate", "widths", "steps", "weights"}
    assert server.finished == ["id1"]
    assert caplog.messages == [
        "MLflow at http://server does not answer (gone); metrics go to metrics.csv, tried again each epoch."
    ]


def test_rows_of_an_outage_are_sent_once_it_is_over(tmp_path, server):
    server.down = {call: ConnectionError("gone") for call in range(6, 9)}  # from the second row on, for three epochs
    tracker = train("http://server", tmp_path, epochs=6)
    assert steps(server) == [3, 6, 9, 12, 15, 18]
    assert tracker._sent == 6


@pytest.mark.parametrize("call", [5, 6])
def test_a_row_whose_answer_got_lost_is_one_row(tmp_path, server, call):
    server.lost = {call}
    train("http://server", tmp_path, epochs=4)
    assert steps(server) == [3, 6, 9, 12]


def test_each_outage_is_told_once(tmp_path, server, caplog):
    server.down = {call: ConnectionError("gone") for call in (5, 6, 10)}
    train("http://server", tmp_path, epochs=8)
    assert len(caplog.messages) == 2
    assert steps(server) == list(range(3, 25, 3))


@pytest.mark.parametrize("error", [ConnectionError(), KeyError("x"), MemoryError(), ImportError("No module mlflow")])
def test_no_error_stops_a_training_not_even_one_without_a_text(tmp_path, server, caplog, error):
    server.down = dict.fromkeys(range(1, 99), error)
    train("http://server", tmp_path, epochs=2)
    assert len(rows(tmp_path)) == 2
    (message,) = caplog.messages
    assert message.startswith(
        f"MLflow at http://server does not answer ({str(error) or type(error).__name__}); metrics go"
    )


def test_ctrl_c_is_no_error_of_the_server(tmp_path, server):
    server.down = {1: KeyboardInterrupt()}  # type: ignore[dict-item]
    with pytest.raises(KeyboardInterrupt):
        handler("http://server", tmp_path)._guarded(lambda: server._called())


def test_names_that_mlflow_refuses_are_written_in_its_letters(tmp_path, server):
    tracker = handler("http://server", tmp_path)
    tracker.output.rows = [{"step": 3, "val/core (T1), left": 0.5, "ärmel-1.0": 2}]
    tracker._send()
    assert {name for name, *_ in server.metrics} == {"step", "val/core__T1___left", "ärmel-1.0"}


def test_only_the_first_process_of_several_tracks(tmp_path, monkeypatch):
    monkeypatch.setattr("custom.distributed.rank", lambda: 1)
    engine = Engine(lambda engine, batch: None)
    before = {event: list(handlers) for event, handlers in engine._event_handlers.items()}
    handler("http://server", tmp_path).attach(engine)
    assert engine._event_handlers == before


# the config


@pytest.mark.slow
def test_mlflow_uri_of_a_config_tracks_the_run_and_its_train_yaml(tmp_path, run_bundle):
    from conftest import TINY

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    out = run_bundle(ROOT / "bundles/supervised", **TINY, mlflow_uri=uri)
    client = MlflowClient(uri)
    (run,) = runs_of(client, "supervised")
    assert run.data.params["steps"] == "4"
    assert run.data.metrics["epoch"] == len(rows(out)) == 2
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {"metrics.csv", "train.yaml"}
